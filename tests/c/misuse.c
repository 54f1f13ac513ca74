/* One misuse of memory a run, named by the first argument, of an allocation of as many bytes as the second says; the third
 * says where, the fourth what it is resized to. What is not noticed prints "survived". */
#include "check.h"

static char global[4096];
static char *block;
static size_t size;

static char *take(size_t size)
{
    char *ptr = hidden(malloc(unknown(size)));
    CHECK(ptr);
    memset(ptr, 1, size < 65536 ? size : 65536);
    if (size > 0)
        ptr[size - 1] = 1;
    return ptr;
}

static void give(void *ptr)
{
    free(hidden(ptr));
}

static void *give_elsewhere(void *ptr)
{
    give(ptr);
    return NULL;
}

static void in_another_thread(void *ptr)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, give_elsewhere, ptr) == 0);
    pthread_join(thread, NULL);
}

static void others(int count)
{
    for (int i = 0; i < count; i++)
        give(take(i % 2 ? size : 40 + (size_t)i));
}

/* Either way of giving back what is no allocation, and what it is resized to. */
static int by_realloc;
static size_t to;
static void give_wild(void *ptr)
{
    if (by_realloc)
        block = hidden(realloc(hidden(ptr), unknown(to)));
    else
        give(ptr);
}

int main(int count, char **words)
{
    CHECK(count >= 3);
    const char *name = words[1];
    size = strtoul(words[2], NULL, 0);
    long at = count > 3 ? strtol(words[3], NULL, 0) : 0;
    to = count > 4 ? strtoul(words[4], NULL, 0) : size + 1000;
    if (strncmp(name, "realloc_", 8) == 0) {
        by_realloc = 1;
        name += 8;
    }
    block = take(size);
    char local[64];
    /* C23's, which the C library need not have. */
    void (*sized)(void *, size_t), (*aligned_sized)(void *, size_t, size_t);
    *(void **)&sized = dlsym(RTLD_DEFAULT, "free_sized");
    *(void **)&aligned_sized = dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(sized && aligned_sized);
    int known = 1;
#define CASE(word) else if (strcmp(name, word) == 0)
    if (0)
        ;
    CASE("twice") { give(block); give_wild(block); }
    CASE("twice_after_others") { give(block); others(1000); give_wild(block); }
    CASE("twice_by_another") { in_another_thread(block); give_wild(block); }
    CASE("twice_in_another") { give(block); in_another_thread(block); }
    /* Where it stays the first is no misuse. Smaller, so that what is large stays large. */
    CASE("twice_after_realloc") { char *old = block; block = hidden(realloc(block, 3 * size + 100)); give_wild(old); give(block); }
    CASE("inside") { give_wild(block + at); }
    CASE("write_at") { ((volatile char *)block)[at] ^= 0x55; give(block); }
    CASE("write_and_keep") { ((volatile char *)block)[at] ^= 0x55; }
    CASE("write_at_last") { give(block); ((volatile char *)block)[at] ^= 0x55; }
    CASE("write_after_free") { give(block); ((volatile char *)block)[at] = 1; others(10000); }
    CASE("sized") { sized(block, size + (size_t)at); }
    CASE("aligned_sized") { aligned_sized(block, 64, size); }
    /* A size that is none, as where one was counted down below zero. */
    CASE("sized_at_most") { sized(block, SIZE_MAX); }
    CASE("aligned_sized_at_most") { aligned_sized(block, 64, SIZE_MAX); }
    CASE("stack") { give_wild(local); }
    CASE("global") { give_wild(global + 16); }
    CASE("code") { void *code; memcpy(&code, &(void *(*)(void *)){give_elsewhere}, sizeof code); give_wild(code); }
    CASE("number") { give_wild((void *)at); }
    CASE("non_canonical") { give_wild((void *)(0x8000000000000000 + at)); }
    CASE("none") { give(block); }
    else known = 0;
    CHECK(known);
    static const char line[] = "survived\n";
    CHECK(write(1, line, sizeof line - 1) > 0);
    return 0;
}
