/* A program whose first thread ends before the others: what is to be known of the process is still known. Its argument says what the
 * last thread does before it ends the program. */
#include "check.h"
#include <fcntl.h>
#include <sched.h>

static const char *which;

static int first_has_ended(void)
{
    char text[256] = "";
    int file = open("/proc/self/stat", O_RDONLY);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0 && close(file) == 0);
    return strstr(text, ") Z ") != NULL;
}

static void *lose(void *unused)
{
    for (int at = 0; at < 100; at++) {
        memset(hidden(malloc(unknown(6000))), 1, 6000);
    }
    return unused;
}

static void *outlive(void *unused)
{
    static char data[100];
    while (!first_has_ended()) {
        sched_yield();
    }
    if (strcmp(which, "loses") == 0) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, lose, NULL) == 0 && pthread_join(thread, NULL) == 0);
    } else if (strcmp(which, "overwrites") == 0) {
        char *block = hidden(malloc(unknown(300000)));
        block[unknown(300000)] = 1;
    } else {
        free(hidden(data));
    }
    exit(3);
    return unused;
}

int main(int count, char **arguments)
{
    CHECK(is_millpond() && count == 2);
    which = arguments[1];
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, outlive, NULL) == 0);
    pthread_exit(NULL);
}
