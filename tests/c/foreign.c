/* Frees what is none of Millpond's: its argument says which. Must not come to its end. */
#include "check.h"
#include <sys/mman.h>

static char in_program[100];

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
                : strcmp(which, "twice") == 0   ? large
                                                : NULL;
    CHECK(ptr);
    if (strcmp(which, "twice") == 0) {
        free(hidden(large));
        ptr = large;
    }
    free(hidden(ptr));
    puts("went on");
    return 0;
}
