// Functions that allocate known amounts, on both sides of a fork; each side's profile is written at its end.

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 20000 };
static void *volatile held[COUNT];
static void *volatile later[COUNT];

__attribute__((noinline)) static void before_the_fork(void)
{
    for (int at = 0; at < COUNT; at++)
        held[at] = at % 2 ? malloc(100) : calloc(10, 10);
}

__attribute__((noinline)) static void in_the_child(void)
{
    for (int at = 0; at < COUNT / 2; at++)
        later[at] = realloc(NULL, 100);
}

__attribute__((noinline)) static void in_the_parent(void)
{
    for (int at = 0; at < COUNT / 2; at++)
        later[at] = malloc(100);
}

int main(void)
{
    printf("main %p\n", (void *)main);
    before_the_fork();
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        in_the_child();
        for (int at = 0; at < COUNT; at++)
            free(held[at]);
        return 0;
    }
    printf("child %d\n", child);
    in_the_parent();
    int status = 1;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 2;
}
