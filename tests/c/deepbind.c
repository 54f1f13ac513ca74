/* Loads a library, its first argument, as PHP loads its modules: its own names and those of what it needs come first then,
   libc's malloc among them. What it allocates the program frees, and the other way round. The second argument is a library's
   name without a folder, which is to be found by the program's own search path. */
#include "check.h"

int main(int count, char **arguments)
{
    CHECK(is_millpond() && count == 3);
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL | RTLD_DEEPBIND);
    CHECK(library);
    char *(*text)(size_t);
    *(void **)&text = dlsym(library, "plugin_text");
    void (*release)(char *);
    *(void **)&release = dlsym(library, "plugin_release");
    for (size_t size = 10; size < 100000; size = size * 3 / 2) {
        free(text(size));
        release(malloc(size));
        release(strdup("the program's libc has allocated this"));
    }
    void *found = dlopen(arguments[2], RTLD_NOW);
    CHECK(found && dlclose(found) == 0);
    CHECK(dlopen("no such library", RTLD_NOW) == NULL && dlerror() != NULL);
    CHECK(is_sound());
    puts("done");
    return 0;
}
