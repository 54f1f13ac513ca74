/* A program in C with a malloc of its own, which can serve before the program's constructors have run, as the loader asks for, but
   not free: GNU Common Lisp's is of that kind. */
#include <stddef.h>
#include <string.h>
#include <unistd.h>

static _Alignas(16) char memory[1 << 20];
static size_t used;
static int is_ready;

void *malloc(size_t size)
{
    char *at = memory + used;
    size_t with_size = (size + 31) / 16 * 16;
    if (with_size < size || with_size > sizeof memory - used)
        return NULL;
    used += with_size;
    memcpy(at, &size, sizeof size);
    return at + 16;
}

void free(void *ptr)
{
    if (ptr && !is_ready)
        _exit(3);
}

void *calloc(size_t count, size_t size)
{
    return size && count > sizeof memory / size ? NULL : malloc(count * size);
}

void *realloc(void *ptr, size_t size)
{
    size_t had = 0;
    void *moved = malloc(size);
    if (!is_ready)
        _exit(4);
    if (ptr)
        memcpy(&had, (char *)ptr - 16, sizeof had);
    if (ptr && moved)
        memcpy(moved, ptr, had < size ? had : size);
    return moved;
}

__attribute__((constructor)) static void begin(void)
{
    is_ready = 1;
}

int main(void)
{
    free(malloc(100));
    return write(1, "done\n", 5) != 5;
}
