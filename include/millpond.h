/*
 * Millpond: a lock-free memory allocator.
 *
 * The malloc family under the prefix mp_, and what Millpond has beyond it. Link with libmillpond.so or libmillpond.a
 * (`cargo shared`, `cargo static`). Both export libc's own names too, so a program linked with either has Millpond as its
 * malloc; memory from mp_malloc and from malloc is then the same.
 *
 * All functions may be called from any thread, at any time from the loader's first call on, also in thread-specific
 * destructors, in atexit handlers and in children of fork; not from a signal handler that may have interrupted one of
 * them. None of them is a cancellation point. Sizes and alignments are in bytes.
 */
#ifndef MILLPOND_H
#define MILLPOND_H

#include <stddef.h>
#include <stdio.h>

#if defined(__GNUC__)
#define MP_MALLOC(...) __attribute__((malloc, warn_unused_result, __VA_ARGS__))
#define MP_WARN __attribute__((warn_unused_result))
#else
#define MP_MALLOC(...)
#define MP_WARN
#endif

#ifdef __cplusplus
#define MP_NOEXCEPT noexcept
extern "C" {
#else
#define MP_NOEXCEPT
#endif

/* ---- The malloc family --------------------------------------------------------------------------------------------
 *
 * As POSIX and C23 say, and glibc where those leave it open:
 *   - memory of 16 bytes or more is aligned to 16, less to 8 at least; a request for 0 bytes gets a pointer of its own;
 *   - where there is no memory, or the size is above PTRDIFF_MAX or overflows: NULL, and errno is ENOMEM;
 *   - an alignment that is no power of two: NULL, and errno is EINVAL;
 *   - a call that succeeds leaves errno alone, and so does every mp_free;
 *   - a pointer that is none of Millpond's, or that was freed before, ends the process with one line on stderr: at once if
 *     it lies in no memory of Millpond's or in an allocation above 256 KiB, else when the chunk leaves the thread's cache.
 *
 * O(1) up to 256 KiB; above, a run of pages of 64 KiB, and from 32 MiB on a mapping of its own.
 */

/* Memory of `size` bytes, not initialised. */
void *mp_malloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));

/* Memory for `count` objects of `size` bytes, all zero. */
void *mp_calloc(size_t count, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1, 2));

/* `ptr`'s contents in `size` bytes: in place if the size class stays the same, or above 256 KiB if there is room; else
 * elsewhere. On failure `ptr` stays as it was. With size 0 frees `ptr` and returns NULL. */
void *mp_realloc(void *ptr, size_t size) MP_NOEXCEPT MP_WARN;

/* mp_realloc(ptr, count * size), unless that overflows. */
void *mp_reallocarray(void *ptr, size_t count, size_t size) MP_NOEXCEPT MP_WARN;

/* Frees; NULL is ignored. */
void mp_free(void *ptr) MP_NOEXCEPT;

/* C23: the same for what mp_malloc(size), mp_calloc or mp_realloc to this size gave; quicker, as nothing is looked up. */
void mp_free_sized(void *ptr, size_t size) MP_NOEXCEPT;

/* C23: the same for what mp_aligned_alloc(alignment, size) gave. */
void mp_free_aligned_sized(void *ptr, size_t alignment, size_t size) MP_NOEXCEPT;

/* Memory at a multiple of `alignment`, any power of two; the size need not be a multiple of it. */
void *mp_aligned_alloc(size_t alignment, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(2), alloc_align(1));
void *mp_memalign(size_t alignment, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(2), alloc_align(1));

/* The same, the pointer written to *place. Returns 0, EINVAL (also if the alignment is no multiple of sizeof(void *)) or
 * ENOMEM; then neither *place nor errno is touched. */
int mp_posix_memalign(void **place, size_t alignment, size_t size) MP_NOEXCEPT MP_WARN;

/* At the start of an OS page; mp_pvalloc also rounds the size up to whole OS pages. */
void *mp_valloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));
void *mp_pvalloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));

/* The bytes that may be used at `ptr`, at least those asked for: all of them survive mp_realloc. 0 for NULL, and where no
 * allocation begins. */
size_t mp_malloc_usable_size(void *ptr) MP_NOEXCEPT;

/* ---- Where the bytes are ------------------------------------------------------------------------------------------- */

/* All in bytes but the last two. While no other thread is inside the allocator, exact:
 * committed = live + quarantine + thread_cached + pooled + span_free + tails + dirty + stranded + metadata. */
struct mp_stats {
    size_t live;          /* in the program's hands, rounded up to size classes and pages */
    size_t quarantine;    /* freed, and kept back: with MILLPOND_MODE=hardened */
    size_t thread_cached; /* free, in threads' magazines */
    size_t pooled;        /* free, in the pools' magazines */
    size_t span_free;     /* free, in spans, not purged */
    size_t tails;         /* behind the last chunk of each span, not purged */
    size_t dirty;         /* free pages, not purged yet */
    size_t stranded;      /* in the hands of threads that vanished in a fork */
    size_t metadata;      /* the allocator's tables */
    size_t committed;     /* may hold memory: an upper bound of what is resident */
    size_t reserved;      /* address space */
    size_t purged;        /* free and purged in spans that are in use: not in committed */
    size_t threads;       /* threads that have a cache */
    size_t spans;         /* spans in use */
};

/* Fills *stats. Linear in the number of spans and threads. */
void mp_stats(struct mp_stats *stats) MP_NOEXCEPT;

/* Prints the same to stderr; to `stream`, as XML, with options 0 (returns 0, or -1 and errno). */
void mp_malloc_stats(void) MP_NOEXCEPT;
int mp_malloc_info(int options, FILE *stream) MP_NOEXCEPT;

/* glibc's structures: arena = committed, uordblks = live, fordblks = all other, keepcost = dirty, all else 0. The first
 * says INT_MAX for what does not fit. */
struct mp_mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mp_mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mp_mallinfo mp_mallinfo(void) MP_NOEXCEPT;
struct mp_mallinfo2 mp_mallinfo2(void) MP_NOEXCEPT;

/* 1 for glibc's advice on its own insides, which is accepted and changes nothing here; 0 for all else: nothing was set. */
int mp_mallopt(int parameter, int value) MP_NOEXCEPT;

/* ---- Looking after it ---------------------------------------------------------------------------------------------- */

/* Gives all that is free back to the system, from any thread. mp_trim returns the bytes, mp_malloc_trim whether there were
 * any (1 or 0); its argument is ignored. Linear in the memory that there is. */
size_t mp_trim(void) MP_NOEXCEPT;
int mp_malloc_trim(size_t pad) MP_NOEXCEPT;

/* Gives the calling thread's cached chunks back: for a thread that will be idle for long. */
void mp_flush_thread(void) MP_NOEXCEPT;

/* Whether an address lies in memory that Millpond manages, in use or not: 1 or 0. */
int mp_owns(const void *ptr) MP_NOEXCEPT;

/* Verifies every structure: 0, or -1 with a line on stderr. Exact while no other thread is inside the allocator. */
int mp_check(void) MP_NOEXCEPT;

/* How many allocations were written to past their end, before their beginning or after they were freed, with a line each on
 * stderr, 16 at most: with MILLPOND_MODE=hardened, else 0. Other threads may go on. The program's end looks as well. */
size_t mp_check_memory(void) MP_NOEXCEPT;

/* Whether transparent huge pages back the heap: where it grows, everywhere, nowhere, or as the system is set. 0, or -1 and EINVAL. */
enum mp_thp { MP_THP_DEFAULT = 0, MP_THP_ALWAYS = 1, MP_THP_NEVER = 2, MP_THP_SYSTEM = 3 };
int mp_set_thp(int thp) MP_NOEXCEPT;

/* A memory profile by samples, one each so many bytes on average (524288 is a good number): begins it, forgetting one that there
 * was, and ends it; what it knows stays. While it is on, each call takes some ten nanoseconds more. */
void mp_profile_start(size_t bytes) MP_NOEXCEPT;
void mp_profile_stop(void) MP_NOEXCEPT;

/* Writes it to a file: for pprof, or collapsed to a line a stack with the bytes that came from it. 0, or -1 if the system
 * refuses. Linear in the number of stacks. */
int mp_profile_write(const char *path, int collapsed) MP_NOEXCEPT;

/* As "0.1.0". */
const char *mp_version(void) MP_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif
