/* A library with `delete` alone, which counts; and a program that is linked with it. With ALIGNED it has an aligned `new` and
 * `delete` instead. */
#include "check.h"
#include <new>

#ifdef LIBRARY
int counted;
#ifdef ALIGNED
alignas(4096) static char page[4096];
void *operator new(size_t, std::align_val_t) { return page; }
void operator delete(void *ptr, std::align_val_t) noexcept { counted += ptr == page; }
#else
void operator delete(void *ptr) noexcept
{
    counted++;
    free(ptr);
}
#endif
#else
extern int counted;

struct alignas(128) Wide {
    char bytes[128];
};

int main()
{
#ifdef ALIGNED
    delete (Wide *)hidden(new Wide);
    CHECK(counted == 1);
#else
    delete (int *)hidden(new int);
    ::operator delete(hidden(new int), unknown(4));
    delete[] (int *)hidden(new int[10]);
    CHECK(counted == 3);
#endif
    CHECK(is_sound());
    puts("done");
    return 0;
}
#endif
