/* A program that puts itself between: its malloc and free have a header before each allocation, as what counts allocations
 * has, and its clock allocates, as a library that fakes the time does, and so does what tells the processor. The allocator asks
 * neither, and leaves to no function of its own what the program's must see. */
#include "check.h"
#include <time.h>

void *__libc_malloc(size_t size);
void *__libc_realloc(void *ptr, size_t size);
void __libc_free(void *ptr);

enum { HEADER = 16 };
static const char mark[HEADER] = "the program's";

static void *mine(char *chunk)
{
    return chunk ? (char *)memcpy(chunk, mark, HEADER) + HEADER : NULL;
}

static void *theirs(void *ptr)
{
    CHECK(!ptr || memcmp((char *)ptr - HEADER, mark, HEADER) == 0);
    return ptr ? (char *)ptr - HEADER : NULL;
}

void *malloc(size_t size)
{
    return mine(__libc_malloc(size + HEADER));
}

void *calloc(size_t count, size_t size)
{
    void *ptr = malloc(count * size);
    return ptr ? memset(ptr, 0, count * size) : NULL;
}

void *realloc(void *ptr, size_t size)
{
    return mine(__libc_realloc(theirs(ptr), size + HEADER));
}

void free(void *ptr)
{
    __libc_free(theirs(ptr));
}

static int asked;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    (void)clock;
    asked++;
    free(hidden(malloc(unknown(1000))));
    now->tv_sec = now->tv_nsec = 0;
    return 0;
}

int sched_getcpu(void)
{
    asked++;
    free(hidden(malloc(unknown(1000))));
    return 1;
}

int main(void)
{
    CHECK(is_sound());
    int *numbers = NULL;
    for (int count = 1; count < 2000; count++) {
        CHECK((numbers = reallocarray(numbers, unknown(count), sizeof *numbers)));
        numbers[count - 1] = count;
    }
    CHECK(numbers[1000] == 1001);
    free(numbers);
    work(1, 20000, 300000);
    struct timespec now;
    CHECK(asked == 0 && clock_gettime(CLOCK_MONOTONIC, &now) == 0 && asked == 1);
    CHECK(is_sound());
    puts("done");
    return 0;
}
