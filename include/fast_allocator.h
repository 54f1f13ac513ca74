/*
 * A small interface to learn with: allocate, free, and a report of what was done. Millpond does the work (link with
 * libmillpond.so or libmillpond.a); each call is counted and timed, which costs more than an allocation itself.
 *
 * Any thread may call any of them at any time.
 */
#ifndef FAST_ALLOCATOR_H
#define FAST_ALLOCATOR_H

/* What programs that use it expect of it. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Begins to count at zero. Not needed in order to allocate. */
void fast_allocator_init(void);

/* As malloc and free; memory of either may be freed by the other's. */
void *fast_malloc(size_t size);
void fast_free(void *ptr);

/* Prints to stdout what was done since the beginning: in all, and for each size of chunk that was used. Utilization is the
 * part of the pool's chunks that this interface has handed out and not got back. */
void fast_allocator_stats(void);

/* Ends the count and gives free memory back to the system. What is in use stays valid. */
void fast_allocator_cleanup(void);

#ifdef __cplusplus
}
#endif

#endif
