// Threads whose first allocations are large: nothing has made a cache for them by then.

#include <pthread.h>
#include <stdlib.h>

enum { THREADS = 4, BYTES = 1000003 };
static void *volatile held[THREADS];

__attribute__((noinline)) static void takes(int at)
{
    held[at] = malloc(BYTES);
}

static void *run(void *at)
{
    takes((int)(size_t)at);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    for (size_t at = 0; at < THREADS; at++)
        if (pthread_create(&threads[at], NULL, run, (void *)at) != 0)
            return 1;
    for (int at = 0; at < THREADS; at++)
        if (pthread_join(threads[at], NULL) != 0 || held[at] == NULL)
            return 2;
    return 0;
}
