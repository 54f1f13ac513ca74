/* A daemon leaves the stderr that it was begun with: whoever reads what it says comes to an end, though the daemon goes on, whatever is
 * to be told at its end. */
#include "check.h"
#include <fcntl.h>
#include <sys/wait.h>

/* Ends once nobody is left who could write to its standard input. */
static int daemon_of(const char *program)
{
    char byte;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        return 0;
    }
    int nothing = open("/dev/null", O_RDWR);
    CHECK(nothing > 2 && dup2(nothing, 1) == 1 && dup2(nothing, 2) == 2);
    free(hidden(malloc(strlen(program))));
    _exit(read(0, &byte, 1) != 0);
}

int main(int count, char **arguments)
{
    CHECK(is_millpond());
    if (count > 1) {
        return daemon_of(arguments[0]);
    }
    const char *wishes[][2] = { { "MILLPOND_MODE", "fast" }, { "MILLPOND_MODE", "hardened" }, { "MILLPOND_SHOW", "stats" },
                                { "MILLPOND_LEAKS", "fail" } };
    for (int at = 0; at < 4; at++) {
        int in[2], err[2], status;
        CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(dup2(in[0], 0) == 0 && dup2(err[1], 2) == 2 && setenv(wishes[at][0], wishes[at][1], 1) == 0);
            execl(arguments[0], arguments[0], "daemon", NULL);
            _exit(9);
        }
        CHECK(close(in[0]) == 0 && close(err[1]) == 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        /* What would wait for ever is ended here. */
        alarm(60);
        char said[4096];
        while (read(err[0], said, sizeof said) > 0) {}
        alarm(0);
        CHECK(close(err[0]) == 0 && close(in[1]) == 0);
    }
    puts("done");
    return 0;
}
