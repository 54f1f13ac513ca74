/* A sandbox that refuses what an allocator may ask for besides memory, and lets it give none back: all goes on, only less memory
 * goes back. And errno: the refused calls must not show. */
#include "sandbox.h"
#include <sys/mman.h>

static pthread_barrier_t refused;

static void *thread(void *argument)
{
    pthread_barrier_wait(&refused);
    errno = 77;
    free(hidden(malloc(1)));
    CHECK(errno == 77);
    work((uintptr_t)argument, 20000, 400000);
    return NULL;
}

int main(void)
{
    pthread_t ids[4];
    pthread_barrier_init(&refused, NULL, 5);
    for (uintptr_t at = 0; at < 4; at++) {
        CHECK(pthread_create(&ids[at], NULL, thread, (void *)at) == 0);
    }
    CHECK(is_millpond());
    const unsigned calls[] = { SYS_madvise, SYS_mprotect, SYS_getrandom, SYS_getrusage, SYS_prlimit64, SYS_gettid };
    refuse(calls, sizeof calls / sizeof *calls);
    errno = 0;
    CHECK(madvise(&refused, 1, MADV_DONTNEED) == -1 && errno == EPERM);
    pthread_barrier_wait(&refused);
    /* A burst, freed: far more than what is kept, so the allocator asks the kernel to take it. */
    enum { BURST = 3000 };
    static void *chunks[BURST];
    for (int round = 0; round < 3; round++) {
        errno = 77;
        for (int at = 0; at < BURST; at++) {
            CHECK((chunks[at] = malloc(unknown(100000))));
            memset(chunks[at], at, 100000);
        }
        CHECK(errno == 77);
        for (int at = 0; at < BURST; at++) {
            free(chunks[at]);
            CHECK(errno == 77);
        }
        free(hidden(malloc(80 << 20)));
        malloc_trim(0);
        CHECK(errno == 77);
    }
    char *zero = hidden(calloc(1, 20 << 20));
    for (size_t at = 0; at < 20 << 20; at += 100) {
        CHECK(zero[at] == 0);
    }
    free(zero);
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_join(ids[at], NULL) == 0);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
