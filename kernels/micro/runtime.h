/* What isa.pyx shares with the other extension modules, through a capsule: the micro-kernels compiled in, which of them is
 * in force, and memory that belongs to the calling thread and is reused by its next call. */
#ifndef MOBILESAM_RUNTIME_H
#define MOBILESAM_RUNTIME_H
#include "micro.h"
#include <stddef.h>

typedef struct {
    const micro *tables; /* ISA by ISA, PRECISIONS each */
    const int *active; /* the index of the float32 table in force */
    /* 64-byte aligned, contents undefined; NULL when memory runs out. A call's threads have scratch each; it has room for all. */
    void *(*scratch)(size_t bytes);
    void *(*room)(size_t bytes);
} runtime;

#endif
