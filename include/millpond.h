/*
 * Millpond: a lock-free memory allocator.
 *
 * The malloc family under the prefix mp_, and what Millpond has beyond it. Link with libmillpond.so or libmillpond.a
 * (`cargo shared`, `cargo static`). Both export libc's own names too, so a program linked with either has Millpond as its
 * malloc; memory from mp_malloc and from malloc is then the same.
 *
 * All functions may be called from any thread and at any time: before main, in destructors of thread-specific data, in atexit
 * handlers, in children of fork; but not from a signal handler that may have interrupted one of them. None of them waits
 * for another thread, and none is a cancellation point; but mp_malloc_info is what writing to its stream is, and mp_profile_write
 * waits for the loader's lock where it names functions, in collapsed text. Sizes and alignments are in bytes.
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
 *   - a request for more than 8 bytes is aligned to 16, a smaller one to 8; one for 0 bytes gets a pointer of its own;
 *   - where there is no memory, or the size overflows or is above PTRDIFF_MAX: NULL, and errno is ENOMEM;
 *   - an alignment that is no power of two: NULL, and errno is EINVAL; mp_memalign takes the next power of two;
 *   - a call that succeeds leaves errno alone, and so does every mp_free;
 *   - a pointer that Millpond did not give out, or that was freed before, ends the process with one line on stderr: at once if it
 *     lies in no memory of Millpond's or in an allocation above 256 KiB, else when the chunk leaves the thread's cache.
 *
 * O(1) up to 256 KiB. A larger allocation is a run of pages of 64 KiB; from 32 MiB on it has a mapping of its own.
 */

/* Memory of `size` bytes, not initialised. */
void *mp_malloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));

/* Memory for `count` objects of `size` bytes, all zero. */
void *mp_calloc(size_t count, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1, 2));

/* Resizes to `size` bytes, and keeps what was there: in place if the size class stays the same, or above 256 KiB if there is
 * room; else it moves. On failure `ptr` stays as it was. NULL for `ptr`: as mp_malloc. Size 0: frees `ptr`, returns NULL. */
void *mp_realloc(void *ptr, size_t size) MP_NOEXCEPT MP_WARN;

/* mp_realloc(ptr, count * size); NULL and ENOMEM if the product overflows. */
void *mp_reallocarray(void *ptr, size_t count, size_t size) MP_NOEXCEPT MP_WARN;

/* Frees; NULL is ignored. */
void mp_free(void *ptr) MP_NOEXCEPT;

/* C23: frees what mp_malloc, mp_calloc or mp_realloc gave for exactly this size. Quicker: nothing is looked up. */
void mp_free_sized(void *ptr, size_t size) MP_NOEXCEPT;

/* C23: frees what mp_aligned_alloc(alignment, size) gave. */
void mp_free_aligned_sized(void *ptr, size_t alignment, size_t size) MP_NOEXCEPT;

/* Memory at a multiple of `alignment`, any power of two; the size need not be a multiple of it. */
void *mp_aligned_alloc(size_t alignment, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(2), alloc_align(1));

/* The same; an alignment that is no power of two is rounded up to one. */
void *mp_memalign(size_t alignment, size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(2), alloc_align(1));

/* mp_aligned_alloc with the pointer in *place. Returns 0, ENOMEM, or EINVAL (also if the alignment is no multiple of
 * sizeof(void *)). Never changes errno, and *place only on success. */
int mp_posix_memalign(void **place, size_t alignment, size_t size) MP_NOEXCEPT MP_WARN;

/* Memory at the start of an OS page; mp_pvalloc also rounds the size up to whole OS pages. */
void *mp_valloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));
void *mp_pvalloc(size_t size) MP_NOEXCEPT MP_MALLOC(alloc_size(1));

/* The bytes that may be used at `ptr`, at least those asked for; mp_realloc keeps all of them. 0 for NULL, and where no
 * allocation begins. What has been freed may still count as an allocation until it leaves the thread's cache. O(1). */
size_t mp_malloc_usable_size(void *ptr) MP_NOEXCEPT;

/* ---- Where the bytes are ------------------------------------------------------------------------------------------- */

/* All in bytes but the last two, which are counts. Exact while no other thread is inside the allocator; then
 * committed = live + quarantine + thread_cached + pooled + span_free + tails + dirty + stranded + metadata. */
struct mp_stats {
    size_t live;          /* in the program's hands, rounded up to size classes and pages */
    size_t quarantine;    /* freed, and kept back: MILLPOND_MODE=hardened, or MILLPOND_QUARANTINE */
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

/* Fills `size` bytes at `stats`, and no more: say sizeof(struct mp_stats), as in mp_stats(&stats, sizeof stats). Members may be
 * added at the end in later versions; those that the library does not know are 0. Returns the size that the structure has in the
 * library: what lies below it, and below `size`, is told. Linear in the number of spans and threads. */
size_t mp_stats(struct mp_stats *stats, size_t size) MP_NOEXCEPT;

/* mp_malloc_stats prints the same to stderr, with a table of the pools. mp_malloc_info writes it to `stream` as XML, and
 * returns 0; or -1 and errno, if `options` is not 0 or the stream fails. */
void mp_malloc_stats(void) MP_NOEXCEPT;
int mp_malloc_info(int options, FILE *stream) MP_NOEXCEPT;

/* glibc's structures: hblks = how many allocations have a mapping of their own, hblkhd = their bytes; but for those: arena =
 * committed, uordblks = live, fordblks = the rest of committed; keepcost = dirty; all others are 0. mp_mallinfo gives INT_MAX
 * for what does not fit. */
struct mp_mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mp_mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mp_mallinfo mp_mallinfo(void) MP_NOEXCEPT;
struct mp_mallinfo2 mp_mallinfo2(void) MP_NOEXCEPT;

/* Sets nothing. Returns 1 for the parameters that only tune glibc's own malloc (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
 * and so on), as glibc does; 0 for all others. */
int mp_mallopt(int parameter, int value) MP_NOEXCEPT;

/* ---- Looking after it ---------------------------------------------------------------------------------------------- */

/* Gives all that is free back to the system, but for the loaded magazines of other threads. mp_trim returns the bytes,
 * mp_malloc_trim 1 if there were any, else 0; `pad` is ignored. Linear in the memory that there is. */
size_t mp_trim(void) MP_NOEXCEPT;
int mp_malloc_trim(size_t pad) MP_NOEXCEPT;

/* Gives the calling thread's cached chunks back: for a thread that will be idle for long. */
void mp_flush_thread(void) MP_NOEXCEPT;

/* 1 if an address lies in a span or a larger allocation of Millpond's, chunks in use or not; 0 in free pages, and elsewhere. O(1), but
 * for foreign addresses and those inside an allocation of 32 MiB or more: linear in the number of all above 256 KiB. */
int mp_owns(const void *ptr) MP_NOEXCEPT;

/* Verifies every structure: 0, or -1 with a line on stderr, and errno as it was. Exact while no other thread is inside the
 * allocator. */
int mp_check(void) MP_NOEXCEPT;

/* With MILLPOND_MODE=hardened: how many allocations were written to past their end, before their beginning or after their free,
 * with a line on stderr for each of the first 16. In other modes 0. Other threads may go on. The same search runs at the program's
 * end. Linear in the most allocations that there ever were at one time. */
size_t mp_check_memory(void) MP_NOEXCEPT;

/* Sets where transparent huge pages back the heap: where it grows beyond 8 MiB, everywhere, nowhere, or as the system is set.
 * Returns 0; or -1, and errno is EINVAL. */
enum mp_thp { MP_THP_DEFAULT = 0, MP_THP_ALWAYS = 1, MP_THP_NEVER = 2, MP_THP_SYSTEM = 3 };
int mp_set_thp(int thp) MP_NOEXCEPT;

/* A memory profile by samples, one every `bytes` bytes on average, 1 to 2^40, or the nearer of these; 524288 is a good number.
 * mp_profile_start forgets the profile before; what a stopped one knows stays. While it is on, each call takes some 8 to 25 ns
 * more. */
void mp_profile_start(size_t bytes) MP_NOEXCEPT;
void mp_profile_stop(void) MP_NOEXCEPT;

/* Writes the profile to a file, in place of what was there: for pprof; or, if `collapsed` is not 0, as text for flame graphs, a
 * line a stack with the bytes allocated from it. Returns 0; or -1, and errno is why the system refuses to open the file or to write
 * to it, as open and write say. Linear in the number of stacks. */
int mp_profile_write(const char *path, int collapsed) MP_NOEXCEPT;

/* Writes a map of the heap to a file, in place of what was there: what each of its pages is used for, as text, or, if `svg` is not 0, as a
 * picture. Returns as mp_profile_write does. Linear in the memory that there is; other threads may go on. A debugger may call it in any
 * program that runs on the library: `call (void) mp_map_write("/tmp/heap.svg", 1)`. */
int mp_map_write(const char *path, int svg) MP_NOEXCEPT;

/* The version, such as "0.1.0". */
const char *mp_version(void) MP_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif
