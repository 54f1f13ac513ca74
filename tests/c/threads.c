/* What threads cost: `threads short 10000` runs so many, 16 at a time; `threads idle 1000` has so many live and wait. Each
 * allocates a little of several sizes. Prints the most that was resident, in KiB. */
#include "check.h"
#include <semaphore.h>

static pthread_barrier_t used, over;
static int waits;

static void *thread(void *argument)
{
    char *chunks[16];
    for (int at = 0; at < 16; at++) {
        chunks[at] = hidden(malloc(unknown(16 << at % 8)));
        CHECK(chunks[at]);
        *chunks[at] = 1;
    }
    for (int at = 0; at < 16; at++) {
        free(chunks[at]);
    }
    if (waits) {
        pthread_barrier_wait(&used);
        pthread_barrier_wait(&over);
    }
    return argument;
}

/* From /proc/self/status. */
static long peak(void)
{
    char line[256];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status) && sscanf(line, "VmHWM: %ld", &kib) != 1) {
    }
    fclose(status);
    return kib;
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    int threads = atoi(arguments[2]);
    waits = strcmp(arguments[1], "idle") == 0;
    int most = waits ? threads : 16;
    static pthread_t ids[10000];
    CHECK(most <= 10000);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_barrier_init(&used, NULL, most + 1);
    pthread_barrier_init(&over, NULL, most + 1);
    for (int done = 0; done < threads; done += most) {
        for (int at = 0; at < most; at++) {
            CHECK(pthread_create(&ids[at], &attributes, thread, NULL) == 0);
        }
        if (waits) {
            pthread_barrier_wait(&used);
            printf("%ld\n", peak());
            pthread_barrier_wait(&over);
        }
        for (int at = 0; at < most; at++) {
            CHECK(pthread_join(ids[at], NULL) == 0);
        }
    }
    if (!waits) {
        printf("%ld\n", peak());
    }
    return 0;
}
