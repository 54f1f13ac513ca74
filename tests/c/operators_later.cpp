/* A library in C++ that a program in C loads, and with it the C++ runtime, which may be inside. */
#include <cstdlib>
#include <new>
#include <vector>

static int asked;

static void ask()
{
    asked++;
    std::set_new_handler(nullptr);
}

/* With a handler in the library's own runtime. */
extern "C" int tries_with_handler(size_t size)
{
    asked = 0;
    std::set_new_handler(ask);
    try {
        ::operator delete(::operator new(size));
        return 0;
    } catch (const std::bad_alloc &) {
        return asked;
    }
}

struct Node {
    Node *next;
    char bytes[100];
};

/* Until there is no memory. */
extern "C" int tries_small()
{
    Node *first = nullptr;
    bool told = false;
    while (!told) {
        try {
            first = new Node{ first, {} };
        } catch (const std::bad_alloc &) {
            told = true;
        }
    }
    while (Node *node = first) {
        first = node->next;
        delete node;
    }
    return told;
}

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
