/*
 * A small interface to learn with: allocate, free, and a report of what was done. Millpond does the work (link with
 * libmillpond.so or libmillpond.a). Each call is counted, and each allocation timed, which costs more than the allocation.
 *
 * Any thread may call any function at any time.
 */
#ifndef FAST_ALLOCATOR_H
#define FAST_ALLOCATOR_H

/* Programs written for this interface expect these from it. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets all counts to zero. One may allocate without it. */
void fast_allocator_init(void);

/* As malloc and free, and of the same memory: what one allocates, the other may free. Counted are the calls: a fast_free of what
 * malloc gave is a deallocation, a free of what fast_malloc gave is none. */
void *fast_malloc(size_t size);
void fast_free(void *ptr);

/* Prints to stdout what was done since the counts were zero: in total, and for each size of chunk that was used. Average times are
 * those of allocations. Utilization is the share of the pool's chunks that are in the program's hands, whoever asked for them. */
void fast_allocator_stats(void);

/* Sets all counts to zero and gives free memory back to the system. What is in use stays valid. */
void fast_allocator_cleanup(void);

#ifdef __cplusplus
}
#endif

#endif
