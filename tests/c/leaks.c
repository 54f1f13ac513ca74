/* Loses what its argument says, in a thread that has ended, or holds it; `MILLPOND_LEAKS` says what is then to be said. */
#include "check.h"
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void *held;
static const char *which;

static void *lose(void *unused)
{
    (void)unused;
    for (int at = 0; at < 100; at++) {
        char **block = hidden(malloc(unknown(6000)));
        CHECK(block);
        if (strcmp(which, "cycle") == 0)
            block[3] = (char *)block + 100;
        if (strcmp(which, "inside") == 0) {
            *block = held;
            held = (char *)block + 3000;
            block[375] = *block;
        }
    }
    if (strcmp(which, "huge") == 0)
        for (int at = 0; at < 8; at++)
            CHECK(hidden(malloc(unknown(1 << 30))));
    return NULL;
}

/* Of each of 64 sizes a few. */
static void *lose_many(void *unused)
{
    (void)unused;
    for (int at = 0; at < 640; at++)
        CHECK(hidden(malloc(unknown(1000 + at % 64))));
    return NULL;
}

static void *run(void *unused)
{
    char *volatile block;
    for (;;) {
        block = hidden(malloc(unknown(100)));
        free(block);
    }
    return unused;
}

static void *leave(void *unused)
{
    exit(3);
    return unused;
}

int main(int count, char **arguments)
{
    CHECK(is_millpond() && count == 2);
    which = arguments[1];
    pthread_t thread;
    /* Some processes, that end at nearly the same time. */
    if (strcmp(which, "many") == 0) {
        for (int at = 0; at < 8; at++) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (child > 0)
                continue;
            CHECK(pthread_create(&thread, NULL, lose_many, NULL) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
            printf("%d\n", (int)getpid());
            return 0;
        }
        while (wait(NULL) > 0)
            ;
        return 0;
    }
    if (strcmp(which, "nothing") != 0) {
        CHECK(pthread_create(&thread, NULL, lose, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    for (int at = 0; strcmp(which, "threads") == 0 && at < 4; at++)
        CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
    if (strcmp(which, "sparse") == 0) {
        char *pages = mmap(NULL, 1UL << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages != MAP_FAILED)
            pages[1UL << 39] = 1;
    }
    if (strcmp(which, "elsewhere") == 0)
        CHECK(chdir("/") == 0);
    /* In a stream that is written at the end. */
    printf("done");
    if (strcmp(which, "small") == 0) {
        pthread_attr_t attributes;
        CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) == 0);
        CHECK(pthread_create(&thread, &attributes, leave, NULL) == 0);
        pthread_join(thread, NULL);
    }
    /* As little, in a mapping that has a name. */
    if (strcmp(which, "named") == 0) {
        const size_t guard = 1 << 16, size = 1 << 15;
        char *pages = mmap(NULL, guard + size, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(pages != MAP_FAILED && mprotect(pages + guard, size, PROT_READ | PROT_WRITE) == 0);
        pthread_attr_t attributes;
        CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, pages + guard, size) == 0);
        CHECK(pthread_create(&thread, &attributes, leave, NULL) == 0);
        pthread_join(thread, NULL);
    }
    return 3;
}
