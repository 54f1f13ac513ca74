/* What is to be smaller has room where it is, also where there is no memory for a copy; and what it has shed is to be had. */
#include "check.h"
#include <sys/resource.h>

static size_t address_space(void)
{
    char text[64] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fgets(text, sizeof text, file));
    fclose(file);
    return strtoul(text, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

int main(void)
{
    enum { MIB = 1 << 20, MOST = 1000 };
    static void *held[MOST];
    CHECK(is_millpond());
    char *huge = malloc(64 * MIB);
    CHECK(huge);
    memset(huge, 7, 64 * MIB);
    struct rlimit limit = {address_space(), address_space()};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    int count = 0;
    while (count < MOST && (held[count] = malloc(8 * MIB))) {
        count++;
    }
    CHECK(count < MOST);
    errno = 0;
    CHECK(realloc(hidden(huge), 10 * MIB) == huge && errno == 0);
    CHECK(huge[0] == 7 && huge[10 * MIB - 1] == 7);
    void *shed = malloc(34 * MIB);
    CHECK(shed);
    free(shed);
    char *moved = realloc(huge, 12 * MIB);
    CHECK(moved && moved[0] == 7 && moved[10 * MIB - 1] == 7);
    free(moved);
    while (count > 0) {
        free(held[--count]);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
