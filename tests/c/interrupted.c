/* A signal whose handler lets calls of the system fail (no SA_RESTART) comes while something is told on a stderr that is a full
 * pipe: not a byte of it may be missing. The handler makes room there once it has come a few times. */
#include "check.h"
#include "millpond.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>

static int ends[2];
static size_t filled;
static volatile sig_atomic_t calls;

static void drain(int signal)
{
    (void)signal;
    static char rest[4096];
    if (++calls == 5) {
        while (filled > 0) {
            ssize_t got = read(ends[0], rest, filled < sizeof rest ? filled : sizeof rest);
            filled -= got > 0 ? got : 0;
        }
    }
}

int main(void)
{
    CHECK(is_millpond());
    int own = dup(2);
    CHECK(own > 2 && pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    CHECK(fcntl(2, F_SETFL, O_NONBLOCK) == 0);
    for (ssize_t sent; (sent = write(2, "                ", 16)) > 0; filled += sent) {}
    CHECK(filled >= 4096 && fcntl(2, F_SETFL, 0) == 0);
    struct sigaction action = { .sa_handler = drain };
    struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    errno = 77;
    mp_malloc_stats();
    CHECK(errno == 77 && setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(dup2(own, 2) == 2 && close(ends[1]) == 0);
    static char text[1 << 16];
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0; length += got) {}
    CHECK(strncmp(text, "millpond: statistics of process ", 32) == 0);
    CHECK(strstr(text, "\nlive  ") && strstr(text, "\nfallbacks  ") && text[length - 1] == '\n');
    puts("done");
    return 0;
}
