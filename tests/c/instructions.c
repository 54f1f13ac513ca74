/* Calls malloc and free over and over, each phase warmed up and then marked off, so that a profiler can count what one call
 * executes. NB: in step with tests/c_api.rs and tests/instructions. */
#include <stdlib.h>

enum { CALLS = 1000 };
static const size_t SIZES[] = { 1, 8, 24, 64, 129, 200, 1000, 5000, 40000, 262144 };

/* The profiler notices each call of this. */
void probe_mark(void);
__attribute__((noinline)) void probe_mark(void)
{
    __asm__ volatile("");
}

static void pairs(size_t size)
{
    for (int count = 0; count < CALLS; count++) {
        void *chunk = malloc(size);
        __asm__ volatile("" : "+r"(chunk));
        free(chunk);
    }
}

int main(void)
{
    for (unsigned at = 0; at < sizeof SIZES / sizeof *SIZES; at++) {
        pairs(SIZES[at]);
        probe_mark();
        pairs(SIZES[at]);
        probe_mark();
    }
    return 0;
}
