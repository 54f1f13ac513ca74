/* A library in C++ that a program in C loads, and with it the C++ runtime. */
#include <cstdlib>
#include <new>
#include <vector>

extern "C" int tries(size_t size)
{
    static std::vector<char> kept(10);
    try {
        std::vector<char> bytes(size);
        kept.assign(bytes.begin(), bytes.begin() + 1);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    } catch (...) {
        return 2;
    }
}
