/*
 * An allocator as a value, to learn with: a capacity, an ID for each allocation, a bitset, a report. Millpond does the work
 * (link with libmillpond.so or libmillpond.a). A double free, an address inside an allocation and one that is none of the
 * allocator's end the process with one line that says what is known.
 *
 * Any thread may call any of them at any time, but for mp_allocator_destroy, which must be the last.
 */
#ifndef MILLPOND_ALLOCATOR_H
#define MILLPOND_ALLOCATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_allocator mp_allocator;

/* An allocator of at most `capacity` bytes, in pages of 64 KiB and at least one (0: no limit), with `bits` bits. NULL, and
 * errno is ENOMEM, if there is no memory for it. */
mp_allocator *mp_allocator_create(size_t capacity, size_t bits);

/* Gives all of its memory back at once, whatever is in use. NULL is allowed. */
void mp_allocator_destroy(mp_allocator *allocator);

/* As malloc, calloc, realloc and free. NULL, and errno is ENOMEM, if the capacity is used up: what is in use is untouched. */
void *mp_allocator_malloc(mp_allocator *allocator, size_t size);
void *mp_allocator_calloc(mp_allocator *allocator, size_t count, size_t size);
void *mp_allocator_realloc(mp_allocator *allocator, void *ptr, size_t size);
void mp_allocator_free(mp_allocator *allocator, void *ptr);

/* The ID of the allocation that begins at `ptr`: 1 for the first, and never used again. -1: there is none. */
int64_t mp_allocator_get_id(mp_allocator *allocator, const void *ptr);

/* The allocation with this ID; NULL if it has been freed, or was never made. */
void *mp_allocator_get_ptr(mp_allocator *allocator, int64_t id);

/* Sets or clears a bit; what it was, or -1 if there is no such bit. */
int mp_allocator_set_bit(mp_allocator *allocator, size_t index, int value);

/* A bit, or -1 if there is no such bit. */
int mp_allocator_get_bit(mp_allocator *allocator, size_t index);

/* Bytes in use, as they were served. */
size_t mp_allocator_live(mp_allocator *allocator);

/* Prints to stdout where the bytes are and what each pool has done. */
void mp_allocator_print_stats(mp_allocator *allocator);

#ifdef __cplusplus
}
#endif

/* Names without a prefix, for a program that asks for them before it includes this. */
#ifdef ALLOCATOR_SHORT_NAMES
typedef mp_allocator allocator_t;
#define allocator_create(capacity, use_bitset) mp_allocator_create((capacity), (use_bitset) ? 65536 : 0)
#define allocator_destroy mp_allocator_destroy
#define allocator_malloc mp_allocator_malloc
#define allocator_free mp_allocator_free
#define allocator_get_id mp_allocator_get_id
#define allocator_get_ptr mp_allocator_get_ptr
#define allocator_set_bit mp_allocator_set_bit
#define allocator_get_bit mp_allocator_get_bit
#define allocator_print_stats mp_allocator_print_stats
#endif

#endif
