/* What isa.pyx shares with the other extension modules, through a capsule: the micro-kernels compiled in, which of them is
 * in force, and memory that belongs to the calling thread and is reused by its next call. */
#ifndef MOBILESAM_RUNTIME_H
#define MOBILESAM_RUNTIME_H
#include "micro.h"
#include <stddef.h>

typedef struct {
    const micro *tables; /* ISA by ISA, PRECISIONS each */
    const int *active; /* the index of the float32 table in force */
    void *(*scratch)(size_t bytes); /* for a call's threads together: 64-byte aligned, contents undefined; NULL: no memory */
    int guards; /* whether arenas have guards (arena.h); the environment variable MOBILESAM_GUARDS says so */
} runtime;

static const runtime *rt; /* of the including module, set by import_runtime in common.pxd */

#endif
