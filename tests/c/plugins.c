/* Loads and unloads a library, its first argument, over and over, from threads; what it allocated outlives it. */
#include "check.h"

static const char *plugin;

static void *thread(void *argument)
{
    for (int count = 0; count < 50; count++) {
        void *library = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
        CHECK(library);
        char *(*text)(size_t);
        *(void **)&text = dlsym(library, "plugin_text");
        char *copy = text((uintptr_t)argument + count);
        work(count, 50, 300000);
        CHECK(dlclose(library) == 0);
        CHECK(copy && strcmp(copy, "plugin") == 0);
        free(copy);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    CHECK(is_millpond() && count == 2);
    plugin = arguments[1];
    pthread_t ids[4];
    for (uintptr_t at = 0; at < 4; at++) {
        CHECK(pthread_create(&ids[at], NULL, thread, (void *)(at * 1000 + 8)) == 0);
    }
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_join(ids[at], NULL) == 0);
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
