/* The calls of the small interface, in the order in which a first program makes them. */
#include "fast_allocator.h"

int main(void)
{
    fast_allocator_init();
    char *small = fast_malloc(256);
    char *page = fast_malloc(4096);
    if (!small || !page) {
        return 1;
    }
    memset(small, 0x42, 256);
    strcpy(page, "calm as a millpond");
    fast_free(small);
    fast_free(page);
    fast_allocator_stats();
    fast_allocator_cleanup();
    return 0;
}
