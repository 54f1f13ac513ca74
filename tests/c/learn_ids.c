/* The calls of an allocator with IDs and bits, in the order in which a first program makes them. */
#include "improved_allocator.h"

int main(void)
{
    allocator_t *heap = allocator_create(1024 * 1024, 1);
    void *word = allocator_malloc(heap, 64);
    void *other = allocator_malloc(heap, 128);
    if (!word || !other) {
        return 1;
    }
    strcpy((char *)word, "calm as a millpond");
    printf("Stored: %s\n", (char *)word);
    int id = allocator_get_id(heap, word);
    printf("Allocation ID: %d\n", id);
    if (allocator_get_ptr(heap, id) != word) {
        return 1;
    }
    allocator_set_bit(heap, 42, 1);
    printf("Bit 42: %d\n", allocator_get_bit(heap, 42));
    allocator_print_stats(heap);
    allocator_free(heap, word);
    allocator_free(heap, other);
    allocator_destroy(heap);
    return 0;
}
