/* Millpond under its prefixed names beside another malloc, libc's. */
#include "check.h"
#include "millpond.h"

int main(void)
{
    char *ours = mp_malloc(unknown(4376)), *theirs = malloc(unknown(4376));
    CHECK(ours && theirs && mp_owns(ours) && !mp_owns(theirs));
    memset(ours, 1, 4376);
    memset(theirs, 2, 4376);
    CHECK((ours = mp_realloc(ours, unknown(100000))) && ours[4375] == 1);
    mp_free(ours);
    free(theirs);
    struct mp_stats stats;
    mp_stats(&stats);
    CHECK(stats.committed > 0 && mp_check() == 0);
    puts("done");
    return 0;
}
