/* A library whose constructor, under the loader's lock, waits for a thread that finds no memory. */
#include "check.h"
#include <new>
#include <thread>

static int told;

static void ask_for_too_much()
{
    try {
        hidden(::operator new(unknown((size_t)1 << 62)));
    } catch (const std::bad_alloc &) {
        told++;
    }
    told += !::operator new(unknown((size_t)1 << 62), std::nothrow);
    told += !::operator new(unknown((size_t)1 << 62), std::align_val_t(64), std::nothrow);
}

struct Waits {
    Waits() { std::thread(ask_for_too_much).join(); }
} waits;

extern "C" void use()
{
    CHECK(told == 3);
}
