/* A sandbox for the rest of the process: some calls of the system are refused. */
#ifndef SANDBOX_H
#define SANDBOX_H

#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Has these calls, at most eight, end so from now on. */
static inline void have_end(const unsigned *calls, unsigned count, unsigned end)
{
    struct sock_filter code[8 + 3] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
    CHECK(count <= 8);
    for (unsigned at = 0; at < count; at++) {
        code[1 + at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[at], count - at, 0);
    }
    code[count + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[count + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, end);
    struct sock_fprog program = { (unsigned short)(count + 3), code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Has them return EPERM. */
static inline void refuse(const unsigned *calls, unsigned count)
{
    have_end(calls, count, SECCOMP_RET_ERRNO | EPERM);
}

#endif
