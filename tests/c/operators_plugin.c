/* Loads a library in C++, its first argument, into a program without C++. If that has operators of its own, which ones it
 * gets is the loader's; they must be of one kind. */
#include "check.h"

int main(int count, char **words)
{
    CHECK(is_millpond() && count == 2);
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    void (*use)(void);
    *(void **)&use = dlsym(library, "use");
    CHECK(use);
    use();
    CHECK(is_sound());
    puts("done");
    return 0;
}
