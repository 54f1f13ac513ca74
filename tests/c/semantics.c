/* The malloc family to the letter. Compiled against libc's names, or with -DPREFIXED against those in millpond.h. */
#include "check.h"
#ifdef PREFIXED
#include "millpond.h"
#define malloc mp_malloc
#define calloc mp_calloc
#define realloc mp_realloc
#define reallocarray mp_reallocarray
#define free mp_free
#define free_sized mp_free_sized
#define free_aligned_sized mp_free_aligned_sized
#define aligned_alloc mp_aligned_alloc
#define memalign mp_memalign
#define posix_memalign mp_posix_memalign
#define valloc mp_valloc
#define pvalloc mp_pvalloc
#define malloc_usable_size mp_malloc_usable_size
#define malloc_trim mp_malloc_trim
#define malloc_info mp_malloc_info
#define mallinfo2 mp_mallinfo2
#define mallopt mp_mallopt
#else
void free_sized(void *, size_t);
void free_aligned_sized(void *, size_t, size_t);
void cfree(void *);
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void __libc_free(void *);
void *__libc_memalign(size_t, size_t);
#endif

#define BEYOND ((size_t)PTRDIFF_MAX + 1)

/* A call that must fail: NULL, and errno says why. */
#define FAILS(call, why)                                                                                               \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        CHECK(hidden(call) == NULL);                                                                                   \
        CHECK(errno == (why));                                                                                         \
    } while (0)

static const size_t SIZES[] = { 0,   1,    7,    8,     9,     15,     16,     17,     24,      25,      33,      40,
                                41,  56,   100,  1000,  1023,  1024,   1025,   4096,   4097,    4376,    4608,    4609,
                                5000, 8200, 8448, 8449, 16640, 33000, 40000, 65536,  70000,
                                262143, 262144, 262145, 300000, 1 << 20, 5 << 20, 33 << 20 };
enum { COUNT = sizeof SIZES / sizeof *SIZES };

static int aligned_to(const void *ptr, size_t align)
{
    return (uintptr_t)ptr % align == 0;
}

static void sizes(void)
{
    for (int at = 0; at < COUNT; at++) {
        size_t size = unknown(SIZES[at]);
        errno = 77;
        char *chunk = malloc(size), *other = malloc(size);
        CHECK(chunk && other && chunk != other);
        CHECK(aligned_to(chunk, size < 16 ? 8 : 16));
        size_t usable = malloc_usable_size(chunk);
        CHECK(usable >= size);
        memset(chunk, 1, usable);
        memset(other, 2, malloc_usable_size(other));
        CHECK(usable == 0 || (chunk[0] == 1 && chunk[usable - 1] == 1));
        free(chunk);
        free_sized(other, size);
        char *zero = calloc(1, size);
        CHECK(zero && aligned_to(zero, size < 16 ? 8 : 16));
        for (size_t byte = 0; byte < size; byte++) {
            CHECK(zero[byte] == 0);
        }
        free(zero);
        CHECK(errno == 77);
    }
    CHECK(malloc_usable_size(NULL) == 0);
    errno = 77;
    free(NULL);
    free_sized(NULL, 8);
    free_aligned_sized(NULL, 8, 8);
    CHECK(errno == 77);
}

static void too_large(void)
{
    const size_t large[] = { BEYOND, BEYOND + 1, SIZE_MAX - 65536, SIZE_MAX - 7, SIZE_MAX, (size_t)1 << 47, PTRDIFF_MAX };
    char *kept = malloc(100);
    strcpy(kept, "kept");
    for (unsigned at = 0; at < sizeof large / sizeof *large; at++) {
        size_t size = unknown(large[at]);
        FAILS(malloc(size), ENOMEM);
        FAILS(calloc(size, 1), ENOMEM);
        FAILS(calloc(1, size), ENOMEM);
        FAILS(realloc(hidden(kept), size), ENOMEM);
        FAILS(realloc(NULL, size), ENOMEM);
        FAILS(reallocarray(hidden(kept), 1, size), ENOMEM);
        FAILS(valloc(size), ENOMEM);
        FAILS(pvalloc(size), ENOMEM);
        for (size_t align = 1; align; align <<= 1) {
            FAILS(memalign(align, size), ENOMEM);
            FAILS(aligned_alloc(align, size), ENOMEM);
        }
    }
    FAILS(calloc(unknown((size_t)1 << 32), (size_t)1 << 32), ENOMEM);
    FAILS(calloc(unknown(3), SIZE_MAX / 2), ENOMEM);
    FAILS(reallocarray(hidden(kept), unknown((size_t)1 << 33), (size_t)1 << 33), ENOMEM);
    FAILS(memalign(unknown((size_t)1 << 63), 1), ENOMEM);
    CHECK(strcmp(kept, "kept") == 0);
    free(kept);
}

static void alignments(void)
{
    for (size_t align = 1; align <= 64 << 20; align <<= 1) {
        for (int at = 0; at < COUNT; at += align > 65536 ? 5 : 1) {
            size_t size = unknown(SIZES[at]);
            errno = 77;
            char *chunk = aligned_alloc(align, size), *other = memalign(align, size);
            CHECK(chunk && other && chunk != other && aligned_to(chunk, align) && aligned_to(other, align));
            CHECK(size < 16 || aligned_to(chunk, 16));
            CHECK(malloc_usable_size(chunk) >= size);
            memset(chunk, 3, size);
            free_aligned_sized(chunk, align, size);
            free(other);
            void *place = &place;
            int result = posix_memalign(&place, align, size);
            if (align < sizeof(void *)) {
                CHECK(result == EINVAL && place == &place);
            } else {
                CHECK(result == 0 && aligned_to(place, align));
                memset(place, 4, size);
                free(place);
            }
            CHECK(errno == 77);
        }
    }
    const size_t odd[] = { 0, 3, 5, 6, 7, 9, 12, 24, 100, 4095, SIZE_MAX, BEYOND + 8 };
    for (unsigned at = 0; at < sizeof odd / sizeof *odd; at++) {
        size_t align = unknown(odd[at]);
        FAILS(aligned_alloc(align, 64), EINVAL);
        if (align <= BEYOND) {
            // No standard's: rounded up, as by glibc's.
            size_t rounded = 1;
            for (; rounded < align; rounded <<= 1) {}
            void *chunk = memalign(align, 64);
            CHECK(chunk && aligned_to(chunk, rounded) && malloc_usable_size(chunk) >= 64);
            free(chunk);
        } else {
            FAILS(memalign(align, 64), EINVAL);
        }
        void *place = &place;
        errno = 77;
        CHECK(posix_memalign(&place, align, 64) == EINVAL);
        CHECK(posix_memalign(&place, 64, unknown(SIZE_MAX - 100)) == ENOMEM);
        CHECK(posix_memalign(&place, 4096, unknown(SIZE_MAX)) == ENOMEM);
        CHECK(place == &place && errno == 77);
    }
    size_t page = sysconf(_SC_PAGESIZE);
    for (int at = 0; at < COUNT; at++) {
        void *chunk = valloc(SIZES[at]), *whole = pvalloc(SIZES[at]);
        CHECK(chunk && aligned_to(chunk, page) && whole && aligned_to(whole, page));
        CHECK(malloc_usable_size(whole) >= (SIZES[at] + page - 1) / page * page && malloc_usable_size(whole) >= page);
        free(chunk);
        free(whole);
    }
}

static void resizing(void)
{
    for (int from = 0; from < COUNT; from++) {
        for (int to = 0; to < COUNT; to++) {
            size_t old = unknown(SIZES[from]), new = unknown(SIZES[to]);
            /* Each with some of the others is enough of what takes long. */
            if (old + new > 8 << 20 && (from + to) % 5 != 0) {
                continue;
            }
            char *chunk = malloc(old);
            size_t usable = malloc_usable_size(chunk);
            /* All that may be used is kept, not only what was asked for. */
            for (size_t at = 0; at < usable; at += 509) {
                chunk[at] = at % 251;
            }
            if (usable > 0) {
                chunk[usable - 1] = 99;
            }
            errno = 77;
            char *moved = realloc(chunk, new);
            CHECK(errno == 77);
            if (new == 0) {
                CHECK(moved == NULL);
                continue;
            }
            CHECK(moved && malloc_usable_size(moved) >= new);
            CHECK(aligned_to(moved, new < 16 ? 8 : 16));
            for (size_t at = 0; at + 1 < usable && at < new; at += 509) {
                CHECK(moved[at] == (char)(at % 251));
            }
            CHECK(usable == 0 || usable > new || moved[usable - 1] == 99);
            if (to % 2) {
                free_sized(moved, new);
            } else {
                free(moved);
            }
        }
    }
    /* What may be used is what it may be resized to where it is; but modes with records make a new one each time. */
    const char *mode = getenv("MILLPOND_MODE");
    int stays = !mode || strcmp(mode, "fast") == 0;
    for (size_t size = 1; size < 300000; size += size < 2000 ? 1 : 61) {
        char *chunk = malloc(size);
        uintptr_t before = (uintptr_t)chunk;
        chunk = realloc(chunk, malloc_usable_size(chunk));
        CHECK((uintptr_t)chunk == before || !stays);
        free(chunk);
    }
    /* As malloc where there is nothing yet. */
    char *fresh = realloc(NULL, unknown(50));
    CHECK(fresh && (fresh = reallocarray(fresh, unknown(10), 30)) && malloc_usable_size(fresh) >= 300);
    free(fresh);
    CHECK((fresh = reallocarray(NULL, 0, unknown(30))) != NULL);
    free(fresh);
    /* What was aligned may be resized too. */
    char *aligned = aligned_alloc(1 << 16, 100000);
    strcpy(aligned, "aligned");
    CHECK((aligned = realloc(aligned, unknown(100))) && strcmp(aligned, "aligned") == 0);
    free_sized(aligned, 100);
}

static void information(void)
{
    char *chunk = hidden(malloc(100000));
    CHECK(mallinfo2().uordblks >= 100000);
    CHECK(mallinfo2().arena == mallinfo2().uordblks + mallinfo2().fordblks);
    /* What has a mapping of its own is told as such, and only while it is the program's. */
    struct mallinfo2 before = mallinfo2();
    char *mapped = hidden(malloc(unknown((size_t)100 << 20)));
    struct mallinfo2 during = mallinfo2();
    CHECK(during.hblks == before.hblks + 1 && during.hblkhd >= before.hblkhd + ((size_t)100 << 20));
    CHECK(during.uordblks < before.uordblks + (1 << 20) && during.arena == during.uordblks + during.fordblks);
    free(mapped);
    CHECK(mallinfo2().hblks == before.hblks && mallinfo2().hblkhd == before.hblkhd);
    CHECK(malloc_trim(0) == 0 || malloc_trim(0) == 0);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(malloc_info(0, stream) == 0);
    errno = 0;
    CHECK(malloc_info(1, stream) == -1 && errno == EINVAL);
    fclose(stream);
    CHECK(strncmp(text, "<malloc version=", 16) == 0 && strstr(text, "</malloc>\n"));
    /* Its parts are as many bytes as are committed. */
    size_t parts = 0, committed = 0;
    for (const char *row = text; (row = strstr(row, "<bytes type=\"")); row++) {
        char name[32];
        size_t bytes;
        CHECK(sscanf(row, "<bytes type=\"%31[a-z_]\" size=\"%zu\"/>", name, &bytes) == 2);
        if (strcmp(name, "committed") == 0) {
            committed = bytes;
        } else if (strcmp(name, "reserved") != 0 && strcmp(name, "purged") != 0) {
            parts += bytes;
        }
    }
    CHECK(parts == committed && committed >= 100000);
    CHECK(mallopt(M_ARENA_MAX, 1) == 1 && mallopt(M_PERTURB, 1) == 0 && mallopt(12345, 1) == 0);
    free(text);
    free(chunk);
#ifdef PREFIXED
    struct mp_stats stats;
    mp_stats(&stats, sizeof stats);
    CHECK(stats.committed == stats.live + stats.quarantine + stats.thread_cached + stats.pooled + stats.span_free + stats.tails + stats.dirty
                                 + stats.stranded + stats.metadata);
    CHECK(stats.threads == 1 && stats.committed > 0 && stats.reserved >= stats.committed);
    CHECK(mp_set_thp(MP_THP_NEVER) == 0 && mp_set_thp(MP_THP_SYSTEM) == 0 && mp_set_thp(MP_THP_DEFAULT) == 0);
    errno = 0;
    CHECK(mp_set_thp(4) == -1 && errno == EINVAL);
    chunk = mp_malloc(10);
    CHECK(mp_owns(chunk) && !mp_owns(&stats) && !mp_owns(NULL));
    mp_free(chunk);
    mp_flush_thread();
    mp_trim();
    mp_stats(&stats, sizeof stats);
    CHECK(stats.thread_cached == 0 && stats.dirty == 0);
    CHECK(strchr(mp_version(), '.') && mp_check() == 0);
#endif
}

int main(void)
{
    CHECK(is_millpond());
    sizes();
    too_large();
    alignments();
    resizing();
    information();
#ifndef PREFIXED
    void *chunk = __libc_malloc(unknown(10));
    CHECK((chunk = __libc_realloc(chunk, 1000)));
    free(chunk);
    chunk = __libc_calloc(1, unknown(10));
    cfree(chunk);
    chunk = __libc_memalign(64, unknown(10));
    CHECK(aligned_to(chunk, 64));
    __libc_free(chunk);
#endif
    CHECK(is_sound());
    puts("done");
    return 0;
}
