/* What malloc gave is freed by the small interface, and what that gave is not: the report is right about both. */
#include "check.h"
#include "fast_allocator.h"

int main(void)
{
    fast_allocator_init();
    char *theirs = hidden(malloc(unknown(40000)));
    char *ours = hidden(fast_malloc(unknown(40000)));
    CHECK(theirs && ours);
    fast_free(theirs);
    fast_free(NULL);
    fast_allocator_stats();
    free(ours);
    return 0;
}
