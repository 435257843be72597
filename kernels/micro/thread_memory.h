/* Scratch memory: each thread that calls kernels owns a block, which it reuses from call to call. Included by isa.pyx.
 *
 * With AddressSanitizer, each call allocates a new block of the exact size. Accesses past its end, and accesses to the block of an earlier
 * call, are then reported. */
#ifndef MOBILESAM_THREAD_MEMORY_H
#define MOBILESAM_THREAD_MEMORY_H
#include "sanitize.h"
#include <pthread.h>
#include <stdlib.h>

typedef struct {
    size_t bytes;
    void *memory;
} block;

static pthread_key_t memory_key;

static void memory_free(void *p)
{
    block *own = p;
    free(own->memory);
    free(own);
}

static int memory_init(void) { return pthread_key_create(&memory_key, memory_free); }

/* Returns the calling thread's block, or NULL if there is no memory. */
static block *own_block(void)
{
    block *own = pthread_getspecific(memory_key);
    if (!own && (own = calloc(1, sizeof *own)) && pthread_setspecific(memory_key, own)) {
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
        free(own->memory);
        own->bytes = 0;
        if (posix_memalign(&own->memory, 64, bytes)) {
            own->memory = NULL;
            return NULL;
        }
        own->bytes = bytes;
    }
    return own->memory;
}

#endif
