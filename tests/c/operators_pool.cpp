/* A library with operators of its own, and memory of its own; and a program that is linked with it. With WRAPPED the program has
 * a `malloc` and `free` of its own instead, which see what `new` and `delete` take. */
#include "check.h"
#include <new>
#include <string>

#ifdef LIBRARY
alignas(64) static char pool[1 << 22];
static size_t used;
int in_pool;

static void *take(size_t size, size_t align = 16)
{
    size_t at = (used + align - 1) / align * align;
    used = at + size;
    in_pool++;
    return used > sizeof pool ? nullptr : pool + at;
}

static void give(void *ptr)
{
    CHECK(!ptr || ((char *)ptr >= pool && (char *)ptr < pool + sizeof pool));
    in_pool -= ptr != nullptr;
}

void *operator new(size_t size) { return take(size); }
void *operator new[](size_t size) { return take(size); }
void *operator new(size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new[](size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new(size_t size, std::align_val_t align) { return take(size, (size_t)align); }
void *operator new[](size_t size, std::align_val_t align) { return take(size, (size_t)align); }
void operator delete(void *ptr) noexcept { give(ptr); }
void operator delete[](void *ptr) noexcept { give(ptr); }
void operator delete(void *ptr, size_t) noexcept { give(ptr); }
void operator delete[](void *ptr, size_t) noexcept { give(ptr); }
void operator delete(void *ptr, std::align_val_t) noexcept { give(ptr); }
void operator delete[](void *ptr, std::align_val_t) noexcept { give(ptr); }
void operator delete(void *ptr, size_t, std::align_val_t) noexcept { give(ptr); }
void operator delete[](void *ptr, size_t, std::align_val_t) noexcept { give(ptr); }

/* Each form of `new` goes with `delete`, whoever has them. */
extern "C" void use()
{
    struct alignas(128) Wide {
        char bytes[128];
    };
    for (int round = 0; round < 100; round++) {
        ::operator delete(hidden(::operator new(unknown(50), std::nothrow)));
        ::operator delete[](hidden(::operator new[](unknown(50), std::nothrow)), unknown(50));
        delete (Wide *)hidden(new Wide);
        delete[] (Wide *)hidden(new Wide[3]);
        delete (int *)hidden(new int);
        CHECK(in_pool == 0);
    }
}
#else
#ifdef WRAPPED
extern "C" void *__libc_malloc(size_t size);
extern "C" void __libc_free(void *ptr);
static int in_pool;
static int within;

extern "C" void *malloc(size_t size)
{
    in_pool += within;
    return __libc_malloc(size);
}

extern "C" void free(void *ptr)
{
    in_pool -= within && ptr;
    __libc_free(ptr);
}
#else
extern int in_pool;
enum { within };
#endif

int main()
{
#ifdef WRAPPED
    within = 1;
#endif
    int before = in_pool;
    int *one = new int(1), *many = new int[100];
    std::string *text = new std::string(1000, 'x');
    void *quiet = hidden(::operator new(unknown(50), std::nothrow));
    CHECK(in_pool == before + 5 && text->size() == 1000);
    delete (int *)hidden(one);
    delete[] (int *)hidden(many);
    delete text;
    ::operator delete(quiet, unknown(50));
    CHECK(in_pool == before);
    CHECK(puts("done") >= 0);
    return 0;
}
#endif
