/* A sandbox that refuses what an allocator may ask for besides memory, and lets it give none back: all goes on, only less memory
 * goes back. And errno: the refused calls must not show. */
#include "sandbox.h"
#include <fcntl.h>
#include <sys/mman.h>

/* Takes so many large blocks and gives each back: in the mode `hardened` they are to have no access for a while. */
static void take_and_give(int count)
{
    for (int at = 0; at < count; at++) {
        char *block = malloc(unknown(700000));
        CHECK(block);
        block[0] = block[699999] = 1;
        free(block);
    }
}

/* Bytes of addresses in use. */
static size_t addresses(void)
{
    char text[100] = "";
    int file = open("/proc/self/statm", O_RDONLY);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0 && close(file) == 0);
    return strtoul(text, NULL, 10) * 4096;
}

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
    take_and_give(100);
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
    /* Nor is anything lost: what is freed serves again, but for what has no access by now. */
    size_t before = addresses();
    take_and_give(5000);
    CHECK(addresses() - before < (size_t)1 << 30);
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_join(ids[at], NULL) == 0);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
