/* However much comes and goes, the process's memory stays in few mappings: purging splits none. */
#include "check.h"

static int mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    int lines = 0;
    for (int byte; (byte = getc(maps)) != EOF;) {
        lines += byte == '\n';
    }
    fclose(maps);
    return lines;
}

int main(void)
{
    CHECK(is_millpond());
    int before = mappings();
    enum { MANY = 40000 };
    static char *chunks[MANY];
    unsigned state = 1;
    for (int round = 0; round < 8; round++) {
        for (int at = 0; at < MANY; at++) {
            state = state * 1664525 + 1013904223;
            free(chunks[at]);
            chunks[at] = NULL;
            if (state >> 30 != 0) {
                size_t size = 16 << (state >> 20) % 9;
                CHECK((chunks[at] = malloc(size)));
                memset(chunks[at], 1, size);
            }
        }
        malloc_trim(0);
    }
    CHECK(mappings() <= before + 40);
    CHECK(is_sound());
    puts("done");
    return 0;
}
