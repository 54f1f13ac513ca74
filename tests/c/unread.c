/* What is said on a stderr that nobody reads, or in a file that may grow no more, ends no program: neither SIGPIPE nor SIGXFSZ
 * comes of it. The thread's mask, and signals of these that wait for the program, stay what they were. */
#include "check.h"
#include "millpond.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static volatile sig_atomic_t came;

static void count(int signal)
{
    (void)signal;
    came++;
}

static int waits(int signal)
{
    sigset_t waiting;
    CHECK(sigpending(&waiting) == 0);
    return sigismember(&waiting, signal);
}

static int is_held(int signal)
{
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    return sigismember(&mask, signal);
}

static void say(void)
{
    errno = 77;
    mp_malloc_stats();
    CHECK(errno == 77);
}

int main(int arguments, char **words)
{
    CHECK(is_millpond() && arguments == 2);
    int own = dup(2), ends[2];
    CHECK(own > 2 && pipe(ends) == 0 && close(ends[0]) == 0 && dup2(ends[1], 2) == 2);
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR && signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    say();
    CHECK(!is_held(SIGPIPE) && !waits(SIGPIPE));
    CHECK(signal(SIGPIPE, count) != SIG_ERR);
    say();
    CHECK(came == 0);
    /* The program holds it back, and one has come before. */
    sigset_t both;
    CHECK(sigemptyset(&both) == 0 && sigaddset(&both, SIGPIPE) == 0 && sigaddset(&both, SIGXFSZ) == 0);
    CHECK(pthread_sigmask(SIG_BLOCK, &both, NULL) == 0);
    say();
    CHECK(is_held(SIGPIPE) && !waits(SIGPIPE));
    CHECK(raise(SIGPIPE) == 0 && waits(SIGPIPE));
    say();
    CHECK(is_held(SIGPIPE) && waits(SIGPIPE) && came == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &both, NULL) == 0 && came == 1);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    say();
    CHECK(!waits(SIGPIPE));
    /* Its own writes are told as ever. */
    CHECK(signal(SIGPIPE, count) != SIG_ERR && write(2, "x", 1) == -1 && errno == EPIPE && came == 2);
    CHECK(dup2(own, 2) == 2);

    struct rlimit none = { 0, RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
    CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    errno = 0;
    CHECK(mp_map_write(words[1], 0) == -1 && errno == EFBIG);
    CHECK(!is_held(SIGXFSZ) && !waits(SIGXFSZ));
    CHECK(setrlimit(RLIMIT_FSIZE, &all) == 0);
    puts("done");
    return 0;
}
