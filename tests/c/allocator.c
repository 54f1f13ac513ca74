/* A heap for C, in the order in which a first program uses it. With an argument, it frees a block twice. */
#define ALLOCATOR_SHORT_NAMES
#include "allocator.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            printf("line %d: %s\n", __LINE__, #what); \
            return 1; \
        } \
    } while (0)

int main(int count, char **arguments)
{
    (void)arguments;
    allocator_t *heap = allocator_create(1024 * 1024, 1);
    CHECK(heap);
    char *one = allocator_malloc(heap, 64);
    char *two = allocator_malloc(heap, 128);
    CHECK(one && two && one != two);
    strcpy(one, "Hello");
    int id = allocator_get_id(heap, one);
    CHECK(id == 1 && allocator_get_id(heap, two) == 2 && allocator_get_ptr(heap, id) == one);
    CHECK(allocator_get_id(heap, &id) == -1 && !allocator_get_ptr(heap, 1000) && !allocator_get_ptr(heap, -1));
    CHECK(allocator_set_bit(heap, 42, 1) == 0 && allocator_get_bit(heap, 42) == 1 && allocator_get_bit(heap, 43) == 0);
    CHECK(allocator_set_bit(heap, 65536, 1) == -1 && allocator_get_bit(heap, (size_t)-1) == -1);

    one = mp_allocator_realloc(heap, one, 300000);
    CHECK(one && strcmp(one, "Hello") == 0 && allocator_get_id(heap, one) == 3 && !allocator_get_ptr(heap, id));
    errno = 0;
    CHECK(!allocator_malloc(heap, 2 * 1024 * 1024) && errno == ENOMEM);
    errno = 0;
    CHECK(!mp_allocator_calloc(heap, (size_t)-1, 16) && errno == ENOMEM);
    int *zeros = mp_allocator_calloc(heap, 100, sizeof *zeros);
    CHECK(zeros && zeros[0] == 0 && zeros[99] == 0 && ((size_t)zeros & 15) == 0);
    CHECK(strcmp(one, "Hello") == 0);

    /* All of the capacity can be had, again and again. */
    static void *blocks[1024];
    for (int round = 0; round < 5; round++) {
        int filled = 0;
        while (filled < 1024 && (blocks[filled] = allocator_malloc(heap, 4000)))
            filled++;
        CHECK(filled >= 100 && filled < 256);
        while (filled > 0)
            allocator_free(heap, blocks[--filled]);
    }
    allocator_free(heap, one);
    allocator_free(heap, two);
    allocator_free(heap, zeros);
    allocator_free(heap, NULL);
    CHECK(mp_allocator_live(heap) == 0);
    allocator_print_stats(heap);
    /* Where there is no room for a copy, what grows has what was cached behind it. */
    allocator_t *full = allocator_create(8 * 65536, 0);
    char *most = full ? allocator_malloc(full, 8 * 65536) : NULL;
    CHECK(most);
    most[99] = 7;
    CHECK(mp_allocator_realloc(full, most, 5 * 65536) == most);
    char *behind = allocator_malloc(full, 64);
    CHECK(behind == most + 5 * 65536);
    allocator_free(full, behind);
    errno = 0;
    CHECK(mp_allocator_realloc(full, most, 7 * 65536) == most && most[99] == 7 && errno == 0);
    allocator_free(full, most);
    CHECK(mp_allocator_live(full) == 0);
    allocator_destroy(full);
    if (count > 1) {
        void *twice = allocator_malloc(heap, 64);
        allocator_free(heap, twice);
        allocator_free(heap, twice);
    }
    allocator_destroy(heap);
    allocator_destroy(NULL);
    puts("all is well");
    return 0;
}
