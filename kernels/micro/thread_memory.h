/* Scratch memory: each thread that calls kernels owns a block, which it reuses from call to call. Included by isa.pyx.
 *
 * With AddressSanitizer, each call allocates a new block of the exact size. Accesses past its end, and accesses to the block of an earlier
 * call, are then reported. */
#ifndef MOBILESAM_THREAD_MEMORY_H
#define MOBILESAM_THREAD_MEMORY_H
#include "platform.h"
#include "sanitize.h"

typedef struct {
    size_t bytes;
    void *memory;
} block;

static thread_slot memory_slot;

static void memory_free(void *p)
{
    block *own = p;
    lines_give(own->memory);
    free(own);
}

static int memory_init(void) { return slot_new(&memory_slot, memory_free); }

/* Returns the calling thread's block, or NULL if there is no memory. */
static block *own_block(void)
{
    block *own = slot_get(memory_slot);
    if (!own && (own = calloc(1, sizeof *own)) && slot_set(memory_slot, own)) {
        free(own);
        own = NULL;
    }
    return own;
}

/* Returns the calling thread's scratch memory, enlarged to `bytes` bytes, or NULL if there is no memory. */
static void *scratch_get(size_t bytes)
{
    block *own = own_block();
    if (!own)
        return NULL;
    if (own->bytes < bytes || MOBILESAM_ASAN) {
        lines_give(own->memory);
        own->memory = lines_take(bytes);
        own->bytes = own->memory ? bytes : 0;
    }
    return own->memory;
}

#endif
