/* A library with an allocator of its own, and a program that is linked with it. What the library takes from its own memory is
 * freed by way of `free`, as by libjemalloc's `delete`; that is the preloaded library's. */
#ifdef LIBRARY
#include <stddef.h>

static _Alignas(16) char memory[1 << 16];
static size_t used;
int returned;

void *taken(size_t size)
{
    size_t at = used;
    used += (size + 15) / 16 * 16;
    return used > sizeof memory ? NULL : memory + at;
}

void *malloc(size_t size)
{
    return taken(size);
}

void *calloc(size_t count, size_t size)
{
    return taken(count * size);
}

void *realloc(void *ptr, size_t size)
{
    (void)ptr;
    return taken(size);
}

void free(void *ptr)
{
    returned += (char *)ptr >= memory && (char *)ptr < memory + sizeof memory;
}
#else
#include "check.h"

extern int returned;
void *taken(size_t size);

int main(int count_of_words, char **words)
{
    CHECK(is_millpond() && returned == 0);
    if (count_of_words > 1) {
        /* What has a mapping of its own. */
        char *at = hidden(malloc(40 << 20));
        char *again = hidden(at), *inside = hidden(at + 70000);
        if (*words[1] == 't') {
            free(at);
            free(again);
        }
        free(inside);
        return 0;
    }
    for (int count = 1; count <= 100; count++) {
        free(hidden(taken(100)));
        CHECK(returned == count);
    }
    work(1, 10000, 300000);
    CHECK(returned == 100 && is_sound());
    puts("done");
    return 0;
}
#endif
