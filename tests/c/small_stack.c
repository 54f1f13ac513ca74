/* The whole allocator on the stack of a thread that has 20 KiB in all. */
#include "check.h"
#include "millpond.h"

static void *thread(void *argument)
{
    (void)argument;
    int (*trim)(size_t) = malloc_trim;
    void *huge = hidden(malloc(40 << 20));
    CHECK(huge);
    CHECK((huge = realloc(huge, 50 << 20)));
    for (unsigned count = 0; count < 3000; count++) {
        void *chunk = hidden(malloc(count * 100));
        CHECK(chunk);
        CHECK((chunk = realloc(chunk, count * 130 + 1)));
        free(chunk);
    }
    void *chunks[100];
    for (int size = 8; size < 100000; size *= 2) {
        for (int at = 0; at < 100; at++) {
            CHECK((chunks[at] = hidden(malloc(size))));
        }
        for (int at = 0; at < 100; at++) {
            free(chunks[at]);
        }
    }
    free(huge);
    trim(0);
    /* What is told of the allocator has no stack to spare either. */
    struct mallinfo2 info = mallinfo2();
    CHECK(info.arena == info.uordblks + info.fordblks);
    FILE *nowhere = fopen("/dev/null", "w");
    CHECK(nowhere && malloc_info(0, nowhere) == 0);
    fclose(nowhere);
    struct mp_stats stats;
    mp_stats(&stats, sizeof stats);
    CHECK(stats.committed > 0 && mp_check() == 0);
    return NULL;
}

int main(void)
{
    CHECK(is_millpond());
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, 20 << 10) == 0);
    for (int count = 0; count < 20; count++) {
        pthread_t id;
        CHECK(pthread_create(&id, &attributes, thread, NULL) == 0);
        CHECK(pthread_join(id, NULL) == 0);
    }
    puts("done");
    return 0;
}
