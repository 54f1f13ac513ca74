/* Without any of the standard descriptors: work, and a last word that goes nowhere. Exit status 0 is all that can be told.
 * With an argument without stderr alone, which stays closed whatever file of the allocator's is open meanwhile. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        if (close(2)) {
            return 4;
        }
        work(1, 20000, 300000);
        return fcntl(2, F_GETFD) == -1 ? 0 : 5;
    }
    if (close(0) || close(1) || close(2)) {
        return 1;
    }
    work(1, 20000, 300000);
    pid_t child = fork();
    if (child == 0) {
        free(hidden(&child));
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) {
        return 2;
    }
    /* Nothing of the allocator's has taken their place. */
    int first = dup(open("/dev/null", 0)), second = open("/dev/null", 0);
    return first == 1 && second == 2 && is_millpond() && is_sound() ? 0 : 3;
}
