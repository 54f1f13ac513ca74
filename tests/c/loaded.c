/* Loads Millpond itself, its first argument, as a plugin of a program that has another malloc; uses it under the prefixed
 * names from threads; unloads it while they live, and lets them end afterwards. */
#include "check.h"

enum { THREADS = 8 };
static void *(*take)(size_t);
static void (*give)(void *);
static pthread_barrier_t used, unloaded;

static void *thread(void *argument)
{
    void *kept = NULL;
    for (int count = 0; count < 2000; count++) {
        char *chunk = take(1 + (count * 37u + (uintptr_t)argument) % 5000);
        CHECK(chunk);
        *chunk = 1;
        give(kept);
        kept = chunk;
    }
    give(kept);
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&unloaded);
    return NULL;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    pthread_barrier_init(&used, NULL, THREADS + 1);
    pthread_barrier_init(&unloaded, NULL, THREADS + 1);
    for (int round = 0; round < 20; round++) {
        void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        CHECK(library);
        *(void **)&take = dlsym(library, "mp_malloc");
        *(void **)&give = dlsym(library, "mp_free");
        pthread_t ids[THREADS];
        for (uintptr_t at = 0; at < THREADS; at++) {
            CHECK(pthread_create(&ids[at], NULL, thread, (void *)at) == 0);
        }
        pthread_barrier_wait(&used);
        CHECK(dlclose(library) == 0);
        pthread_barrier_wait(&unloaded);
        for (int at = 0; at < THREADS; at++) {
            CHECK(pthread_join(ids[at], NULL) == 0);
        }
    }
    puts("done");
    return 0;
}
