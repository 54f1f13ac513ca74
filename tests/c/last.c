/* A library with something to do at the program's end. */
#include "check.h"

__attribute__((destructor)) static void last(void)
{
    CHECK(write(1, "last\n", 5) == 5);
}
