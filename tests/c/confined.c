/* A sandbox that lets the program map no more memory. What it has by then it keeps: a request that is too large fails, and costs it
 * nothing of that. */
#include "sandbox.h"

int main(void)
{
    free(hidden(malloc(1)));
    CHECK(is_millpond());
    refuse((const unsigned[]){ SYS_mmap }, 1);
    for (int round = 0; round < 3; round++) {
        malloc_trim(0);
        errno = 0;
        CHECK(malloc(unknown((size_t)1 << 30)) == NULL && errno == ENOMEM);
        enum { MANY = 10000 };
        static void *chunks[MANY];
        for (int at = 0; at < MANY; at++) {
            CHECK((chunks[at] = malloc(unknown(100))));
        }
        for (int at = 0; at < MANY; at++) {
            free(chunks[at]);
        }
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
