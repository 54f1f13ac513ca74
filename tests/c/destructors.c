/* Memory in what runs at a thread's end: thread-specific destructors, in all of their rounds, and those of C++'s
 * thread_local, before and after Millpond's own. */
#include "check.h"
#include "millpond.h"

int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;

enum { KEYS = 100, THREADS = 300 };
static pthread_key_t keys[KEYS];

static void again(void *value)
{
    /* From the first rounds on this runs after Millpond's; it asks to be called again until there is no other round. */
    char *chunk = malloc(unknown(200));
    CHECK(chunk);
    strcpy(chunk, "again");
    CHECK(*(char *)value == 'a' || *(char *)value == 'v');
    free(value);
    pthread_setspecific(keys[KEYS - 1], chunk);
}

static void once(void *value)
{
    CHECK(*(char *)value == 'v');
    work((uintptr_t)value >> 4, 50, 300000);
    free(value);
}

static void *thread(void *argument)
{
    (void)argument;
    for (int at = 0; at < KEYS; at++) {
        char *value = malloc(unknown(8 + at));
        *value = 'v';
        pthread_setspecific(keys[at], value);
        if (at % 10 == 0) {
            value = malloc(unknown(300));
            *value = 'v';
            CHECK(__cxa_thread_atexit_impl(once, value, __dso_handle) == 0);
        }
    }
    return NULL;
}

int main(void)
{
    CHECK(is_millpond());
    for (int at = 0; at < KEYS; at++) {
        CHECK(pthread_key_create(&keys[at], at == KEYS - 1 ? again : once) == 0);
    }
    struct mp_stats early, late;
    for (int count = 0; count < THREADS; count++) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, thread, NULL) == 0);
        CHECK(pthread_join(id, NULL) == 0);
        if (count == 10) {
            mp_stats(&early, sizeof early);
        }
    }
    mp_stats(&late, sizeof late);
    /* Each thread loses the chunk of its last round, of 208 bytes, and nothing else. */
    CHECK(late.live <= early.live + THREADS * 208 + 65536);
    CHECK(late.threads == 1 && is_sound());
    puts("done");
    return 0;
}
