/* A library whose constructor has some functions called at the program's end before anything is allocated: libc has room for 32 of
 * them, and then allocates, while it holds the lock under which they are entered. As a program, one that is linked with it. */
#include "check.h"

#ifdef COUNT
static void nothing(void)
{
}

__attribute__((constructor)) static void early(void)
{
    for (int at = 0; at < COUNT; at++) {
        CHECK(atexit(nothing) == 0);
    }
    free(hidden(malloc(unknown(100))));
}

int has_entered(void)
{
    return COUNT;
}
#else
int has_entered(void);

int main(void)
{
    CHECK(is_millpond() && has_entered() > 0);
    puts("done");
    return 0;
}
#endif
