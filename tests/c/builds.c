/* Two builds of Millpond in one process, each inside a shared library that exports all names: each keeps its own heap. With LIBRARY,
 * such a library; else the program. */
#include "check.h"
#include "millpond.h"
#include <pthread.h>

#ifdef LIBRARY
int LIBRARY(void)
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
    return mp_check();
}
#else
int first(void), second(void);

static void *both(void *unused)
{
    for (int i = 0; i < 50; i++) {
        CHECK(first() == 0 && second() == 0);
    }
    return unused;
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
    both(NULL);
    puts("done");
    return 0;
}
#endif
