/* A program with an `operator new` and an `operator delete` of its own, of the simplest form each: all other forms come down to
 * these, as C++ says. */
#include "check.h"
#include <new>
#include <vector>

enum { HEADER = 16 };
static int live, taken;

void *operator new(size_t size)
{
    char *at = (char *)malloc(size + HEADER);
    if (!at) {
        throw std::bad_alloc();
    }
    memcpy(at, "the program's ..", HEADER);
    live++, taken++;
    return at + HEADER;
}

void operator delete(void *ptr) noexcept
{
    if (ptr) {
        CHECK(memcmp((char *)ptr - HEADER, "the program's ..", HEADER) == 0);
        live--;
        free((char *)ptr - HEADER);
    }
}

struct Object {
    int numbers[10];
    ~Object() { numbers[0] = 0; }
};

int main()
{
    CHECK(is_millpond());
    int before = live;
    Object *one = new Object, *many = new Object[7];
    void *quiet = hidden(::operator new(unknown(50), std::nothrow)), *array = hidden(::operator new[](unknown(60)));
    void *quiet_array = hidden(::operator new[](unknown(70), std::nothrow));
    CHECK(live == before + 5);
    delete one;
    delete[] many;
    ::operator delete(quiet, unknown(50));
    ::operator delete[](array, unknown(60));
    ::operator delete[](quiet_array);
    CHECK(live == before);
    try {
        hidden(::operator new[](unknown(SIZE_MAX / 2)));
        CHECK(!"reached");
    } catch (const std::bad_alloc &) {
    }
    CHECK(::operator new[](unknown(SIZE_MAX / 2), std::nothrow) == nullptr);
    for (int size = 0; size < 1000; size++) {
        std::vector<int> numbers(size, 1);
        numbers.push_back(2);
    }
    CHECK(live == before && taken > 1000 && is_sound());
    puts("done");
    return 0;
}
