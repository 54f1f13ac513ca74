/* What limits leave: some work, then all memory that there is, an error, and work again. */
#include "check.h"

enum { MOST = 100000 };
static void *chunks[MOST];

static void exhaust(size_t size)
{
    int count = 0;
    errno = 0;
    while (count < MOST && (chunks[count] = malloc(size))) {
        memset(chunks[count++], 1, size);
    }
    CHECK(count < MOST && count > 0 && errno == ENOMEM);
    while (count > 0) {
        free(chunks[--count]);
    }
}

static void *thread(void *argument)
{
    work((uintptr_t)argument, 3000, 20000);
    return NULL;
}

int main(void)
{
    CHECK(is_millpond());
    work(1, 5000, 100000);
    exhaust(1000);
    exhaust(100000);
    exhaust(1 << 20);
    exhaust(5000);
    /* All that is free goes back: threads need address space for their stacks. */
    malloc_trim(0);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    for (uintptr_t count = 0; count < 50; count++) {
        pthread_t id;
        CHECK(pthread_create(&id, &attributes, thread, (void *)count) == 0);
        CHECK(pthread_join(id, NULL) == 0);
    }
    work(2, 5000, 100000);
    CHECK(is_sound());
    puts("done");
    return 0;
}
