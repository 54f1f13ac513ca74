/* killed [overrun]: a sandbox that kills a process of one thread for reading its own memory by the system, as OpenSSH's does. What is
 * looked at when the program ends is read without; and an overrun is found. */
#include "sandbox.h"

int main(int count, char **arguments)
{
    (void)arguments;
    enum { CHUNKS = 1000 };
    static char *chunks[CHUNKS];
    CHECK(is_millpond());
    const unsigned calls[] = { SYS_process_vm_readv };
    have_end(calls, 1, SECCOMP_RET_KILL_PROCESS);
    for (int at = 0; at < CHUNKS; at++) {
        CHECK((chunks[at] = malloc(unknown(1 + at * 30))));
        memset(chunks[at], at, 1 + at * 30);
    }
    for (int at = 0; at < CHUNKS; at += 2) {
        free(chunks[at]);
    }
    if (count > 1) {
        chunks[501][1 + 501 * 30] = 1;
    }
    puts("done");
    /* What an overrun ends, nobody flushes. */
    fflush(stdout);
    return 0;
}
