/* Loads a library in C++, its first argument, whose names nobody else sees; what it asks for in vain it must be told. */
#include "check.h"

int main(int count, char **words)
{
    CHECK(is_millpond() && count == 2 && !dlsym(RTLD_DEFAULT, "__cxa_throw"));
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    int (*tries)(size_t);
    *(void **)&tries = dlsym(library, "tries");
    for (int round = 0; round < 10; round++) {
        CHECK(tries(1000) == 0 && tries(10000000) == 0);
        CHECK(tries((size_t)1 << 62) == 1);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
