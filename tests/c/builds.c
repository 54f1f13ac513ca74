/* Two builds of Millpond in one process, each inside a shared library that exports all names: each keeps its own heap. With LIBRARY,
 * such a library; else the program. */
#include "check.h"
#include "millpond.h"
#include <pthread.h>

#ifdef LIBRARY
/* `rest`: no other thread is at work. */
int LIBRARY(int rest)
{
    char *held[300];
    for (size_t i = 0; i < 300; i++) {
        size_t size = 1 + i * 37 % 5000;
        CHECK((held[i] = mp_malloc(size)) && mp_owns(held[i]));
        memset(held[i], (char)i, size);
    }
    for (size_t i = 0; i < 300; i++) {
        CHECK(held[i][i * 37 % 5000] == (char)i);
        mp_free(held[i]);
    }
    return rest ? mp_check() : 0;
}
#else
int first(int), second(int);

static void *both(void *rest)
{
    for (int i = 0; i < 50; i++) {
        CHECK(first(rest != NULL) == 0 && second(rest != NULL) == 0);
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, both, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    both(threads);
    puts("done");
    return 0;
}
#endif
