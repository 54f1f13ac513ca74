/* A sandbox that lets the program map no more memory. What it has by then it keeps: a request that is too large fails, and costs it
 * nothing of that. */
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
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(void)
{
    free(hidden(malloc(1)));
    CHECK(is_millpond());
    refuse();
    for (int round = 0; round < 3; round++) {
        malloc_trim(0);
        errno = 0;
        CHECK(malloc(unknown((size_t)1 << 30)) == NULL && errno == ENOMEM);
        enum { MANY = 10000 };
        static void *chunks[MANY];
        for (int at = 0; at < MANY; at++) {
            CHECK((chunks[at] = malloc(unknown(100))));
        }
        for (int at = 0; at < MANY; at++) {
            free(chunks[at]);
        }
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
