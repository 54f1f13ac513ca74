/* C++'s operators under the preloaded library: memory, alignment, new-handlers, exceptions. The first argument says what to do; with
 * `limited` there is a limit on what may be had. */
#include "check.h"
#include <new>
#include <string>
#include <thread>
#include <vector>

static int (*owns)(const void *);

struct Wide {
    alignas(256) char bytes[256];
};

static int asked;
static void *reserve;

static void out_of_memory()
{
    asked++;
    if (reserve) {
        free(reserve);
        reserve = nullptr;
    } else {
        std::set_new_handler(nullptr);
    }
}

/* All forms, each with memory of Millpond's, freed by each form that fits it. */
static void every_form(size_t size)
{
    for (int form = 0; form < 2; form++) {
        void *one = hidden(::operator new(unknown(size)));
        void *many = hidden(::operator new[](unknown(size)));
        void *quiet = hidden(::operator new(unknown(size), std::nothrow));
        void *aligned = hidden(::operator new(unknown(size), std::align_val_t(4096)));
        void *all[] = { one, many, quiet, aligned };
        for (void *each : all) {
            CHECK(each && owns(each) && (uintptr_t)each % (size > 8 ? 16 : 8) == 0);
            memset(each, form, size);
        }
        CHECK((uintptr_t)aligned % 4096 == 0);
        if (form) {
            ::operator delete(one);
            ::operator delete[](many);
            ::operator delete(quiet, std::nothrow);
            ::operator delete(aligned, std::align_val_t(4096));
        } else {
            ::operator delete(one, unknown(size));
            ::operator delete[](many, unknown(size));
            ::operator delete(quiet);
            ::operator delete(aligned, unknown(size), std::align_val_t(4096));
        }
    }
}

static void impossible(size_t size)
{
    int thrown = 0;
    for (int count = 0; count < 20; count++) {
        try {
            void *got = hidden(::operator new(unknown(size)));
            ::operator delete(got);
        } catch (const std::bad_alloc &) {
            thrown++;
        }
        try {
            hidden(::operator new[](unknown(size)));
        } catch (const std::bad_alloc &) {
            thrown++;
        }
        CHECK(::operator new(unknown(size), std::nothrow) == nullptr);
    }
    CHECK(thrown == 40);
    std::set_new_handler(out_of_memory);
    asked = 0;
    reserve = malloc(10);
    try {
        hidden(::operator new(unknown(size)));
        CHECK(!"reached");
    } catch (const std::bad_alloc &) {
        CHECK(asked == 2 && !reserve && std::get_new_handler() == nullptr);
    }
}

/* Small allocations until there is no memory; the handler then has some, once. */
static void exhaust()
{
    enum { SIZE = 1000 };
    struct Node {
        Node *next;
        char rest[SIZE];
    } *nodes = nullptr;
    std::set_new_handler(out_of_memory);
    reserve = malloc(1 << 20);
    size_t count = 0;
    try {
        for (;;) {
            Node *node = new Node;
            memset(node->rest, 7, SIZE);
            node->next = nodes;
            nodes = node;
            count++;
        }
    } catch (const std::bad_alloc &) {
    }
    CHECK(asked == 2 && !reserve && count > 10000);
    while (nodes) {
        CHECK(nodes->rest[0] == 7 && nodes->rest[SIZE - 1] == 7);
        Node *next = nodes->next;
        delete nodes;
        nodes = next;
    }
    every_form(1000);
}

/* No bytes, of which the C++ runtime makes one if it has to ask again. */
static void *none[1 << 22];
static size_t nones;

static void free_some()
{
    asked++;
    for (size_t half = nones / 2; nones > half;) {
        ::operator delete(none[--nones], (size_t)0);
    }
}

static void exhaust_with_nothing()
{
    void *blocks = nullptr;
    while (void **block = (void **)malloc(unknown(1 << 20))) {
        *block = blocks;
        blocks = block;
    }
    while (nones < sizeof none / sizeof *none && (none[nones] = ::operator new(unknown(0), std::nothrow))) {
        nones++;
    }
    CHECK(nones > 1000 && nones < sizeof none / sizeof *none);
    asked = 0;
    std::set_new_handler(free_some);
    for (int count = 0; count < 10; count++) {
        none[nones++] = ::operator new(unknown(0));
    }
    CHECK(asked > 0);
    std::set_new_handler(nullptr);
    while (nones) {
        ::operator delete(none[--nones], unknown(0));
    }
    while (void **block = (void **)blocks) {
        blocks = *block;
        free(block);
    }
}

/* What throws in a constructor gives its memory back. */
struct Throws {
    std::string text = std::string(100, 'x');
    Throws() { throw 1; }
};

static void threads()
{
    std::vector<std::thread> all;
    for (unsigned id = 0; id < 8; id++) {
        all.emplace_back([id] {
            std::vector<std::string *> kept(64);
            for (unsigned round = 0; round < 20000; round++) {
                std::string *&at = kept[(round * 7 + id) % 64];
                CHECK(!at || (at->size() == (size_t)(*at)[0] && at->back() == (*at)[0]));
                delete at;
                unsigned char length = 1 + (round * 31 + id) % 200;
                at = new std::string(length, (char)length);
                if (at->size() > 127) {
                    delete at;
                    at = nullptr;
                }
                try {
                    delete new Throws;
                } catch (int) {
                }
            }
            for (std::string *at : kept) {
                delete at;
            }
        });
    }
    for (std::thread &each : all) {
        each.join();
    }
}

int main(int count, char **words)
{
    *(void **)&owns = dlsym(RTLD_DEFAULT, "mp_owns");
    CHECK(owns && count == 2);
    std::string what = words[1];
    if (what == "limited") {
        exhaust();
        exhaust_with_nothing();
    } else if (what == "wrong") {
        /* Through a pointer of another type. */
        struct Small {
            long one;
        };
        struct Large {
            long many[9];
        };
        delete (Small *)hidden(new Large);
        puts("survived");
    } else if (what == "wrong_at_most") {
        ::operator delete(hidden(new long), SIZE_MAX);
        puts("survived");
    } else if (what == "twice") {
        int *one = new int(1), *same = (int *)hidden(one);
        delete one;
        delete same;
        puts("survived");
    } else {
        for (size_t size = 0; size < 600000; size += size < 300 ? 1 : size) {
            every_form(size);
        }
        /* What is kept around an allocation makes some of these too large for a class. */
        for (size_t size = 262144 - 70; size < 262144 + 10; size++) {
            every_form(size);
        }
        impossible(SIZE_MAX / 2);
        impossible(SIZE_MAX - 100);
        Wide *wide = new Wide[3];
        CHECK((uintptr_t)hidden(wide) % 256 == 0);
        delete[] wide;
        ::operator delete(nullptr);
        ::operator delete[](nullptr, unknown(10));
        threads();
        CHECK(is_sound());
    }
    puts("done");
    return 0;
}
