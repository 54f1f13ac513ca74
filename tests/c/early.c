/* Memory before main, in every kind of function that runs before it and after it. */
#include "check.h"

static char *from_preinit, *from_constructor;

static void preinit(void)
{
    from_preinit = malloc(unknown(100));
    CHECK(from_preinit);
    strcpy(from_preinit, "preinit");
}
__attribute__((section(".preinit_array"), used)) static void (*const PREINIT)(void) = preinit;

__attribute__((constructor(101))) static void constructor(void)
{
    CHECK(strcmp(from_preinit, "preinit") == 0);
    from_constructor = realloc(from_preinit, unknown(10000));
    work(1, 1000, 100000);
}

__attribute__((destructor(101))) static void destructor(void)
{
    work(2, 1000, 100000);
    free(from_constructor);
    CHECK(is_sound());
    CHECK(write(1, "done\n", 5) == 5);
}

static void at_exit(void)
{
    work(3, 1000, 1000000);
}

int main(void)
{
    CHECK(is_millpond() && strcmp(from_constructor, "preinit") == 0);
    /* More than libc has room for without calloc. */
    for (int count = 0; count < 100; count++) {
        CHECK(atexit(at_exit) == 0);
    }
    return 0;
}
