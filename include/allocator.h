/*
 * An allocator as a value, to learn with: a capacity, an ID for each allocation, a bitset, a report. Millpond does the work
 * (link with libmillpond.so or libmillpond.a). A double free, an address inside an allocation and an address that is none of
 * the allocator's end the process with one line on stderr that says what is known.
 *
 * Any thread may call any function at any time, on the same allocator too; only mp_allocator_destroy must come last. All are O(1)
 * but create (linear in bits), destroy, live and print_stats (linear in what there is). Only destroy takes NULL for `allocator`.
 */
#ifndef MILLPOND_ALLOCATOR_H
#define MILLPOND_ALLOCATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_allocator mp_allocator;

/* An allocator whose allocations use at most `capacity` bytes, rounded down to pages of 64 KiB but at least one (0: no limit), with
 * a bitset of `bits` bits, all clear. Their records, some 80 bytes each, come on top. NULL, and errno is ENOMEM, if there is no memory for it. */
mp_allocator *mp_allocator_create(size_t capacity, size_t bits);

/* Gives all of its memory back at once, what is in use too. NULL is ignored. */
void mp_allocator_destroy(mp_allocator *allocator);

/* As malloc, calloc, realloc and free, with the same alignment: 16 above 8 bytes. NULL, and errno is ENOMEM, if the capacity is
 * used up or the size overflows; what is in use stays as it was. */
void *mp_allocator_malloc(mp_allocator *allocator, size_t size);
void *mp_allocator_calloc(mp_allocator *allocator, size_t count, size_t size);
void *mp_allocator_realloc(mp_allocator *allocator, void *ptr, size_t size);
void mp_allocator_free(mp_allocator *allocator, void *ptr);

/* The ID of the live allocation that begins at `ptr`; -1 if there is none. The first is 1. They rise within a thread, and none is
 * used twice. A realloc that stays in place keeps its ID. */
int64_t mp_allocator_get_id(mp_allocator *allocator, const void *ptr);

/* The live allocation with this ID; NULL if it has been freed, or was never made. */
void *mp_allocator_get_ptr(mp_allocator *allocator, int64_t id);

/* Sets the bit if `value` is not 0, else clears it. Returns what it was, or -1 if there is no such bit. Atomic. */
int mp_allocator_set_bit(mp_allocator *allocator, size_t index, int value);

/* The bit, 0 or 1; -1 if there is no such bit. */
int mp_allocator_get_bit(mp_allocator *allocator, size_t index);

/* Bytes in use, rounded up to the sizes that were served. */
size_t mp_allocator_live(mp_allocator *allocator);

/* Prints to stdout where the bytes are and what each pool has done. */
void mp_allocator_print_stats(mp_allocator *allocator);

#ifdef __cplusplus
}
#endif

/* Names without a prefix, for a program that defines ALLOCATOR_SHORT_NAMES before it includes this. `use_bitset`: 65536 bits, or
 * none. */
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
