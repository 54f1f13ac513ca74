/* A program in C with a `malloc` of its own: that nobody has C++'s operators there is not for it to hear of. */
#include "check.h"

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *ptr);

void *malloc(size_t size)
{
    return __libc_malloc(size);
}

void free(void *ptr)
{
    __libc_free(ptr);
}

int main(void)
{
    CHECK(!dlerror());
    puts("done");
    return 0;
}
