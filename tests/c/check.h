/* What the C programs of the tests share: a check that says where it failed, and work that knows what its memory must be. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Neither allocates nor locks. */
#define CHECK(holds)                                                                                                   \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            static const char line[] = __FILE__ ": does not hold: " #holds "\n";                                       \
            ssize_t written = write(2, line, sizeof line - 1);                                                         \
            (void)written;                                                                                             \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Hides a value from the compiler, which else removes pairs of malloc and free, and warns of what the tests are for. */
static inline void *hidden(void *ptr)
{
    __asm__ volatile("" : "+r"(ptr));
    return ptr;
}
static inline size_t unknown(size_t size)
{
    __asm__ volatile("" : "+r"(size));
    return size;
}

/* Whether malloc is Millpond's. */
static inline int is_millpond(void)
{
    int (*owns)(const void *);
    *(void **)&owns = dlsym(RTLD_DEFAULT, "mp_owns");
    void *chunk = malloc(unknown(100));
    int is = owns && owns(chunk);
    free(chunk);
    return is;
}

/* Whether every structure of Millpond's is sound. */
static inline int is_sound(void)
{
    int (*check)(void);
    *(void **)&check = dlsym(RTLD_DEFAULT, "mp_check");
    return check && check() == 0;
}

enum { SLOTS = 64 };

/* Allocates, resizes and frees at random; every byte must be what was written. No size above `most`. */
static inline void work(unsigned seed, unsigned rounds, size_t most)
{
    unsigned char *blocks[SLOTS] = { 0 };
    size_t sizes[SLOTS] = { 0 };
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (unsigned round = 0; round < rounds + SLOTS; round++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        unsigned at = round < rounds ? (state >> 33) % SLOTS : round - rounds;
        size_t size = (size_t)1 << (state >> 40) % 18;
        size = (size + (state >> 45) % size) % most;
        if (blocks[at]) {
            CHECK(blocks[at][0] == at && blocks[at][sizes[at] / 2] == at && blocks[at][sizes[at] - 1] == at);
        }
        if (round >= rounds || state >> 62 == 0) {
            free(blocks[at]);
            blocks[at] = NULL;
        } else if (blocks[at] && state >> 62 == 1) {
            size_t kept = sizes[at] < size ? sizes[at] : size;
            unsigned char *moved = (unsigned char *)realloc(blocks[at], size + 1);
            CHECK(moved);
            CHECK(moved[0] == at && (kept == 0 || moved[kept - 1] == at));
            memset(moved, at, size + 1);
            blocks[at] = moved;
            sizes[at] = size + 1;
        } else {
            free(blocks[at]);
            blocks[at] = (unsigned char *)(state >> 62 == 2 ? calloc(1, size + 1) : malloc(size + 1));
            CHECK(blocks[at]);
            CHECK(state >> 62 != 2 || (blocks[at][0] == 0 && blocks[at][size] == 0));
            memset(blocks[at], at, size + 1);
            sizes[at] = size + 1;
        }
    }
}

#endif
