/* Threads that are cancelled while they allocate: no function of the allocator is a cancellation point, so what a thread
 * has at each point is known to its clean-up. */
#include "check.h"
#include "millpond.h"

static void clean(void *place)
{
    free(*(void **)place);
    free(hidden(malloc(100)));
}

static void *thread(void *argument)
{
    void *volatile held = NULL;
    pthread_cleanup_push(clean, (void *)&held);
    for (unsigned count = (uintptr_t)argument;; count++) {
        held = malloc(unknown(count % 7 == 0 ? 300000 : count * 37 % 5000));
        CHECK(held);
        CHECK((held = realloc(held, unknown(count * 53 % 6000 + 1))));
        if (count % 64 == 0) {
            pthread_testcancel();
        }
        free(held);
        held = NULL;
    }
    pthread_cleanup_pop(1);
    return NULL;
}

int main(void)
{
    CHECK(is_millpond());
    struct mp_stats before, after;
    for (int round = 0; round < 60; round++) {
        pthread_t ids[8];
        for (uintptr_t at = 0; at < 8; at++) {
            CHECK(pthread_create(&ids[at], NULL, thread, (void *)(at * 1001)) == 0);
        }
        for (int at = 0; at < 8; at++) {
            void *end;
            CHECK(pthread_cancel(ids[at]) == 0);
            CHECK(pthread_join(ids[at], &end) == 0 && end == PTHREAD_CANCELED);
        }
        mp_stats(round == 10 ? &before : &after, sizeof after);
    }
    CHECK(after.live <= before.live && after.stranded == 0 && is_sound());
    puts("done");
    return 0;
}
