/*
 * allocator.h under names without a prefix, with what programs that use them expect to be there: such a program needs
 * another #include line, and nothing else.
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
