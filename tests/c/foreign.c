/* Frees what is none of Millpond's: its argument says which. Must not come to its end. */
#include "check.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static char in_program[100];

static char *volatile of_waiting;
static volatile long number;

static void *wait_for_ever(void *unused)
{
    char here[16];
    number = syscall(SYS_gettid);
    of_waiting = here;
    for (;;)
        pause();
    return unused;
}

/* An address of the stack of a thread that waits, or will soon: it is asked for until it does. */
static void *of_thread(void)
{
    pthread_t thread;
    char path[64], line[8] = "running";
    CHECK(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
    while (!of_waiting)
        sched_yield();
    snprintf(path, sizeof path, "/proc/self/task/%ld/syscall", number);
    for (FILE *file; strncmp(line, "running", 7) == 0 && (file = fopen(path, "r")); fclose(file))
        CHECK(fread(line, 1, 7, file) > 0);
    return of_waiting;
}

int main(int count, char **arguments)
{
    CHECK(is_millpond() && count == 2);
    const char *which = arguments[1];
    char on_stack[100];
    char *pages = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *large = malloc(unknown(1 << 20)), *huge = malloc(unknown(100 << 20));
    void *ptr = strcmp(which, "stack") == 0    ? on_stack
                : strcmp(which, "program") == 0 ? in_program
                : strcmp(which, "mapping") == 0 ? pages
                : strcmp(which, "code") == 0    ? (void *)main
                : strcmp(which, "wild") == 0    ? (void *)(uintptr_t)0xdead00000000beef
                : strcmp(which, "small") == 0   ? (void *)16
                : strcmp(which, "large") == 0   ? large + 65536
                : strcmp(which, "huge") == 0    ? huge + 16
                : strcmp(which, "kernel") == 0  ? (void *)(uintptr_t)0xffffffff81000000
                : strcmp(which, "thread") == 0  ? of_thread()
                : strcmp(which, "gone") == 0    ? pages
                : strcmp(which, "again") == 0   ? on_stack
                : strcmp(which, "twice") == 0   ? large
                                                : NULL;
    CHECK(ptr);
    if (strcmp(which, "twice") == 0) {
        free(hidden(large));
        ptr = large;
    }
    if (strcmp(which, "gone") == 0)
        munmap(pages, 1 << 20);
    if (strcmp(which, "again") == 0)
        ptr = realloc(hidden(ptr), unknown(1000));
    free(hidden(ptr));
    puts("went on");
    return 0;
}
