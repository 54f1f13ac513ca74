/* Millpond under its prefixed names beside another malloc, libc's. */
#include "check.h"
#include "millpond.h"

/* What errno is after a call; 0: as it was. */
#define CHECK_ERRNO(call, is)                                                                                          \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        CHECK(call);                                                                                                   \
        CHECK(errno == (is));                                                                                          \
    } while (0)

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
    mp_stats(&stats, sizeof stats);
    CHECK(stats.committed > 0 && mp_check() == 0);

    /* A program with an older header gets what it has room for, one with a newer one zeros for what is not known. */
    enum { WORDS = sizeof(struct mp_stats) / sizeof(size_t), NEW = WORDS + 4 };
    size_t words[NEW + 1];
    for (size_t has = 0; has <= NEW; has++) {
        memset(words, 0xa5, sizeof words);
        CHECK(mp_stats((struct mp_stats *)words, has * sizeof *words) == sizeof stats);
        CHECK(has <= offsetof(struct mp_stats, committed) / sizeof *words || ((struct mp_stats *)words)->committed > 0);
        for (size_t at = WORDS; at < has; at++) {
            CHECK(words[at] == 0);
        }
        CHECK(words[has] == (size_t)0xa5a5a5a5a5a5a5a5);
    }

    /* What fails says why in errno, and what does not leaves it alone. */
    mp_profile_start(1);
    mp_free(hidden(mp_malloc(unknown(100))));
    for (int collapsed = 0; collapsed < 2; collapsed++) {
        CHECK_ERRNO(mp_profile_write("/nowhere/at/all", collapsed) == -1, ENOENT);
        CHECK_ERRNO(mp_profile_write("/", collapsed) == -1, EISDIR);
        CHECK_ERRNO(mp_profile_write("/dev/full", collapsed) == -1, ENOSPC);
        CHECK_ERRNO(mp_profile_write("/dev/null", collapsed) == 0, 0);
    }
    for (int svg = 0; svg < 2; svg++) {
        CHECK_ERRNO(mp_map_write("/nowhere/at/all", svg) == -1, ENOENT);
        CHECK_ERRNO(mp_map_write("/", svg) == -1, EISDIR);
        CHECK_ERRNO(mp_map_write("/dev/full", svg) == -1, ENOSPC);
        CHECK_ERRNO(mp_map_write("/dev/null", svg) == 0, 0);
    }
    mp_profile_stop();
    FILE *full = fopen("/dev/full", "w");
    CHECK(full && setvbuf(full, NULL, _IONBF, 0) == 0);
    CHECK_ERRNO(mp_malloc_info(0, full) == -1, ENOSPC);
    CHECK_ERRNO(mp_malloc_info(1, full) == -1, EINVAL);
    fclose(full);
    CHECK_ERRNO(mp_set_thp(4) == -1, EINVAL);
    CHECK_ERRNO(mp_set_thp(MP_THP_DEFAULT) == 0, 0);
    puts("done");
    return 0;
}
