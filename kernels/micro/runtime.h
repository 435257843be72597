/* The state that isa.pyx shares with the other extension modules through a capsule: the tables of micro-kernels, the current table, and
 * each calling thread's scratch memory. */
#ifndef MOBILESAM_RUNTIME_H
#define MOBILESAM_RUNTIME_H
#include "micro.h"
#include <stddef.h>

typedef struct {
    const micro *tables; /* (ISAs, PRECISIONS) */
    const int *active; /* *active: index of the current ISA's float32 table */
    /* Returns scratch memory, 64-byte aligned and uninitialized, or NULL if there is no memory. The calling thread's next call reuses
     * the memory. All threads of a kernel call's team share the memory. */
    void *(*scratch)(size_t bytes);
    int guards; /* guards: whether arenas have guards (arena.h), which the variable MOBILESAM_GUARDS switches on */
} runtime;

static const runtime *rt; /* `rt` is set by import_runtime in common.pxd */

#endif
