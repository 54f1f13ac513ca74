/* A program without a C++ runtime that has the simplest `new` and `delete` of C++ alone, as a freestanding one may: all others come
 * down to these, by their names. */
#include "check.h"

extern void *_Znam(size_t size);
extern void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag);
extern void *_ZnamRKSt9nothrow_t(size_t size, const void *tag);
extern void _ZdaPv(void *ptr);
extern void _ZdlPvm(void *ptr, size_t size);
extern void _ZdaPvm(void *ptr, size_t size);
extern void _ZdlPvRKSt9nothrow_t(void *ptr, const void *tag);
extern void _ZdaPvRKSt9nothrow_t(void *ptr, const void *tag);
extern void *_ZnamSt11align_val_t(size_t size, size_t align);
extern void _ZdaPvSt11align_val_t(void *ptr, size_t align);
extern void _ZdaPvmSt11align_val_t(void *ptr, size_t size, size_t align);

static int made, gone;
/* Before each, so that no other `free` can take it. */
enum { HEADER = 16 };

void *_Znwm(size_t size)
{
    char *at = malloc(size + HEADER);
    CHECK(at);
    made++;
    return at + HEADER;
}

void _ZdlPv(void *ptr)
{
    gone++;
    free((char *)ptr - HEADER);
}

int main(void)
{
    CHECK(is_millpond());
    _ZdaPv(hidden(_Znam(40)));
    _ZdlPvm(hidden(_Znwm(40)), 40);
    _ZdaPvm(hidden(_Znam(40)), 40);
    _ZdlPvRKSt9nothrow_t(hidden(_ZnwmRKSt9nothrow_t(40, "")), "");
    _ZdaPvRKSt9nothrow_t(hidden(_ZnamRKSt9nothrow_t(40, "")), "");
    CHECK(made == 5 && gone == 5);
    /* Of those with an alignment it has none. */
    for (size_t align = 1; align <= 256; align *= 4) {
        char *at = hidden(_ZnamSt11align_val_t(40, align));
        CHECK((uintptr_t)at % align == 0);
        _ZdaPvSt11align_val_t(at, align);
        _ZdaPvmSt11align_val_t(hidden(_ZnamSt11align_val_t(40, align)), 40, align);
    }
    CHECK(made == 5 && gone == 5 && is_sound());
    puts("done");
    return 0;
}
