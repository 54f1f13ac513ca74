/* All memory locked, what there is and what comes: madvise fails then. Says so if the system does not let it. */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>

int main(void)
{
    CHECK(is_millpond());
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        puts("mlockall is refused here");
        return 0;
    }
    errno = 77;
    work(1, 20000, 300000);
    enum { BURST = 2000 };
    static void *chunks[BURST];
    for (int at = 0; at < BURST; at++) {
        CHECK((chunks[at] = malloc(unknown(50000))));
    }
    for (int at = 0; at < BURST; at++) {
        free(chunks[at]);
    }
    free(hidden(malloc(40 << 20)));
    malloc_trim(0);
    CHECK(errno == 77 && is_sound());
    puts("done");
    return 0;
}
