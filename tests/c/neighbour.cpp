/* A library with an allocator and all operators of its own, as libjemalloc, and a program that is linked with it. Its `new` with an
 * alignment calls `aligned_alloc`, which is the preloaded library's; its `delete` with a size takes what it is given for its own. */
#ifdef LIBRARY
#include <cstdlib>
#include <new>

namespace
{
alignas(64) char memory[16 << 20];
std::size_t used;

void *taken(std::size_t size)
{
    std::size_t at = used;
    used += (size + 63) / 64 * 64;
    return used > sizeof memory ? nullptr : memory + at;
}

bool is_own(void *ptr)
{
    return ptr >= memory && ptr < memory + sizeof memory;
}

void sized(void *ptr)
{
    if (!is_own(ptr))
        std::abort();
}
} // namespace

extern "C" {
void *malloc(std::size_t size)
{
    return taken(size);
}

void *calloc(std::size_t count, std::size_t size)
{
    return taken(count * size);
}

void *realloc(void *, std::size_t size)
{
    return taken(size);
}

void free(void *ptr)
{
    if (ptr)
        sized(ptr);
}
}

void *operator new(std::size_t size)
{
    return taken(size);
}

void *operator new[](std::size_t size)
{
    return taken(size);
}

void *operator new(std::size_t size, std::align_val_t align)
{
    return std::aligned_alloc(static_cast<std::size_t>(align), size);
}

void *operator new[](std::size_t size, std::align_val_t align)
{
    return std::aligned_alloc(static_cast<std::size_t>(align), size);
}

void operator delete(void *ptr) noexcept
{
    std::free(ptr);
}

void operator delete[](void *ptr) noexcept
{
    std::free(ptr);
}

void operator delete(void *ptr, std::size_t) noexcept
{
    sized(ptr);
}

void operator delete[](void *ptr, std::size_t) noexcept
{
    sized(ptr);
}

void operator delete(void *ptr, std::align_val_t) noexcept
{
    std::free(ptr);
}

void operator delete[](void *ptr, std::align_val_t) noexcept
{
    std::free(ptr);
}

void operator delete(void *ptr, std::size_t, std::align_val_t) noexcept
{
    sized(ptr);
}

void operator delete[](void *ptr, std::size_t, std::align_val_t) noexcept
{
    sized(ptr);
}
#else
#include "check.h"
#include <memory_resource>
#include <new>
#include <string>
#include <vector>

int main()
{
    CHECK(is_millpond());
    for (std::size_t size = 64; size <= (std::size_t{1} << 20); size *= 4) {
        for (std::size_t step = 0; step < 8; step++) {
            void *aligned = hidden(::operator new(size, std::align_val_t{64}));
            CHECK(reinterpret_cast<std::size_t>(aligned) % 64 == 0);
            ::operator delete(aligned, size, std::align_val_t{64});
            void *array = hidden(::operator new[](size, std::align_val_t{64}));
            ::operator delete[](array, std::align_val_t{64});
        }
    }
    for (std::size_t size = 1; size <= 100; size++) {
        ::operator delete(hidden(::operator new(size)), size);
        ::operator delete[](hidden(::operator new[](size)));
    }
    for (int round = 0; round < 8; round++) {
        std::pmr::synchronized_pool_resource pool;
        std::pmr::vector<std::pmr::string> texts(&pool);
        for (std::size_t size = 0; size < 200; size++)
            texts.emplace_back(std::pmr::string(size, 'x', &pool));
    }
    CHECK(is_sound());
    puts("done");
    return 0;
}
#endif
