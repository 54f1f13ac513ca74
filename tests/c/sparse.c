/* What is hardly touched holds hardly any memory, also in a heap that has grown to where huge pages are, and beside blocks that are
 * filled; and takes few mappings. */
#include "check.h"

enum { KIB = 1 << 10, MIB = 1 << 20, SMALL = 40000, BUFFERS = 700, SPARSE = 300, FILLED = 3000 };

static size_t resident(void)
{
    char text[64] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fgets(text, sizeof text, file));
    fclose(file);
    char *second = strchr(text, ' ');
    CHECK(second);
    return strtoul(second, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t mappings(void)
{
    static char text[1 << 16];
    size_t lines = 0, read;
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file);
    while ((read = fread(text, 1, sizeof text, file)) > 0) {
        for (size_t at = 0; at < read; at++) {
            lines += text[at] == '\n';
        }
    }
    fclose(file);
    return lines;
}

/* Buffers of which the beginning is used. */
static void buffers(size_t size)
{
    static char *blocks[BUFFERS];
    size_t before = resident();
    for (size_t at = 0; at < BUFFERS; at++) {
        blocks[at] = malloc(size);
        CHECK(blocks[at]);
        memset(blocks[at], 4, 4000);
    }
    size_t grown = resident() - before;
    if (grown > BUFFERS * 12 * KIB + 4 * MIB) {
        fprintf(stderr, "%zu MiB for %d buffers of %zu KiB\n", grown / MIB, BUFFERS, size / KIB);
        _exit(1);
    }
    for (size_t at = 0; at < BUFFERS; at++) {
        CHECK(blocks[at][0] == 4 && blocks[at][3999] == 4);
        free(blocks[at]);
    }
}

int main(void)
{
    static char *small[SMALL], *sparse[SPARSE], *filled[FILLED];
    CHECK(is_millpond());
    for (size_t at = 0; at < SMALL; at++) {
        small[at] = malloc(KIB);
        CHECK(small[at]);
        memset(small[at], 1, KIB);
    }
    size_t before = resident();
    for (size_t at = 0; at < SPARSE; at++) {
        size_t bytes = (2 + at % 29) * MIB + at % 3 * 100 * KIB;
        sparse[at] = calloc(1, bytes);
        CHECK(sparse[at] && sparse[at][bytes - 1] == 0);
        sparse[at][bytes / 2] = 1;
    }
    size_t after = resident();
    if (after > before + SPARSE * 32 * KIB + 8 * MIB) {
        fprintf(stderr, "%zu MiB for %d blocks\n", (after - before) / MIB, SPARSE);
        return 1;
    }
    static const size_t sizes[] = {32, 64, 128, 250, 300, 1000, 5000};
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        buffers(sizes[at] * KIB);
    }
    for (size_t at = 0; at < SPARSE; at++) {
        free(sparse[at]);
        sparse[at] = NULL;
    }
    for (size_t at = 0; at < FILLED; at++) {
        filled[at] = malloc(40 * KIB);
        CHECK(filled[at]);
        memset(filled[at], 2, 40 * KIB);
        size_t which = at % SPARSE;
        free(sparse[which]);
        sparse[which] = calloc(1, (2 + at % 5) * MIB);
        CHECK(sparse[which] && sparse[which][MIB] == 0);
        sparse[which][MIB] = 3;
    }
    size_t lines = mappings();
    if (lines > 5000) {
        fprintf(stderr, "%zu mappings\n", lines);
        return 1;
    }
    for (size_t at = 0; at < FILLED; at++) {
        CHECK(filled[at][0] == 2 && filled[at][40 * KIB - 1] == 2);
        free(filled[at]);
    }
    for (size_t at = 0; at < SPARSE; at++) {
        free(sparse[at]);
    }
    for (size_t at = 0; at < SMALL; at++) {
        CHECK(small[at][0] == 1 && small[at][KIB - 1] == 1);
        free(small[at]);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
