/* usage FILE PROGRAM [ARGUMENT…]: runs the program, and writes to the file what it and its descendants took: seconds of
 * processor time, and the most KiB that were resident in one of them. Ends as the program did.
 *
 * A process's peak begins with what the process that forked it had. This one has next to nothing. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count < 3) {
        return 127;
    }
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(arguments[2], arguments + 2);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        return 127;
    }
    double seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec;
    seconds += (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    FILE *file = fopen(arguments[1], "w");
    if (!file || fprintf(file, "%f %ld\n", seconds, usage.ru_maxrss) < 0 || fclose(file) != 0) {
        return 127;
    }
    if (WIFSIGNALED(status)) {
        raise(WTERMSIG(status));
    }
    return WEXITSTATUS(status);
}
