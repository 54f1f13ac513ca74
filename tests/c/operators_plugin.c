/* Loads a library, its first argument, with operators of its own, of which nobody else knows, into a program without C++. Which ones it
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
