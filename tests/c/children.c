/* fork, vfork and posix_spawn while other threads are inside the allocator; children allocate, or run another program. */
#include "check.h"
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>

extern char **environ;
static atomic_int stop;

static void *busy(void *argument)
{
    for (unsigned round = 0; !atomic_load(&stop); round++) {
        work(round * 4 + (uintptr_t)argument, 200, 300000);
    }
    return NULL;
}

static void ends_well(pid_t child)
{
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    CHECK(is_millpond());
    char *const program[] = { "true", NULL };
    pthread_t ids[3];
    for (uintptr_t at = 0; at < 3; at++) {
        CHECK(pthread_create(&ids[at], NULL, busy, (void *)at) == 0);
    }
    for (int count = 0; count < 60; count++) {
        char *mine = strcpy(malloc(unknown(100)), "mine");
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            CHECK(strcmp(mine, "mine") == 0);
            free(mine);
            work(count, 1000, 300000);
            pthread_t id;
            atomic_store(&stop, 1);
            CHECK(pthread_create(&id, NULL, busy, NULL) == 0 && pthread_join(id, NULL) == 0);
            if (count % 10 == 0) {
                CHECK(is_sound());
                pid_t grandchild = fork();
                if (grandchild == 0) {
                    work(count, 500, 300000);
                    _exit(0);
                }
                ends_well(grandchild);
            }
            _exit(0);
        }
        ends_well(child);
        free(mine);
        child = vfork();
        if (child == 0) {
            execvp(program[0], program);
            _exit(1);
        }
        ends_well(child);
        CHECK(posix_spawnp(&child, program[0], NULL, NULL, program, environ) == 0);
        ends_well(child);
    }
    atomic_store(&stop, 1);
    for (int at = 0; at < 3; at++) {
        CHECK(pthread_join(ids[at], NULL) == 0);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
