/* A sandbox that refuses what an allocator may ask for besides memory, and lets it give none back: all goes on, only less memory
 * goes back. And errno: the refused calls must not show. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static void refuse(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 6, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getrandom, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getrusage, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettid, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
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
    refuse();
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
