/*
 * allocator.h under names without a prefix (allocator_create and so on), with the standard headers that programs written for
 * these names expect. Such a program changes its #include line, and nothing else.
 */
#ifndef IMPROVED_ALLOCATOR_H
#define IMPROVED_ALLOCATOR_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ALLOCATOR_SHORT_NAMES
#define ALLOCATOR_SHORT_NAMES
#endif
#include "allocator.h"

#endif
