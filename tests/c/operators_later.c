/* Loads libraries in C++, its arguments, whose names nobody else sees; what each asks for in vain it must be told, by its own runtime. */
#include "check.h"

static void *named(void *library, const char *name)
{
    void *found = dlsym(library, name);
    CHECK(found);
    return found;
}

int main(int count, char **words)
{
    CHECK(is_millpond() && count >= 2 && !dlsym(RTLD_DEFAULT, "__cxa_throw"));
    void *libraries[8];
    for (int at = 1; at < count; at++) {
        libraries[at] = dlopen(words[at], RTLD_NOW | RTLD_LOCAL);
        CHECK(libraries[at]);
    }
    for (int at = 1; at < count; at++) {
        int (*tries)(size_t), (*with_handler)(size_t), (*small)(void);
        *(void **)&tries = named(libraries[at], "tries");
        *(void **)&with_handler = named(libraries[at], "tries_with_handler");
        *(void **)&small = named(libraries[at], "tries_small");
        for (int round = 0; round < 10; round++) {
            CHECK(tries(1000) == 0 && tries(10000000) == 0);
            CHECK(tries((size_t)1 << 62) == 1);
            CHECK(with_handler((size_t)1 << 62) == 1);
        }
        CHECK(small() == 1);
        CHECK(tries(10000) == 0);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
