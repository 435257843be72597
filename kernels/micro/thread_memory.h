/* Memory that belongs to a thread and is used again by its next call: scratch, which each thread of a call has, and room, which
 * the calling thread has for all of them. Included by isa.pyx. */
#ifndef MOBILESAM_THREAD_MEMORY_H
#define MOBILESAM_THREAD_MEMORY_H
#include <pthread.h>
#include <stdlib.h>

typedef struct {
    size_t bytes;
    void *memory;
} block;

typedef struct {
    block scratch, room;
} thread_memory;

static pthread_key_t memory_key;

static void memory_free(void *p)
{
    thread_memory *own = p;
    free(own->scratch.memory);
    free(own->room.memory);
    free(own);
}

static int memory_init(void) { return pthread_key_create(&memory_key, memory_free); }

static thread_memory *own_memory(void)
{
    thread_memory *own = pthread_getspecific(memory_key);
    if (!own && (own = calloc(1, sizeof *own)) && pthread_setspecific(memory_key, own)) {
        free(own);
        own = NULL;
    }
    return own;
}

static void *grown(block *b, size_t bytes)
{
    if (b->bytes < bytes) {
        free(b->memory);
        b->bytes = 0;
        if (posix_memalign(&b->memory, 64, bytes)) {
            b->memory = NULL;
            return NULL;
        }
        b->bytes = bytes;
    }
    return b->memory;
}

static void *scratch_get(size_t bytes)
{
    thread_memory *own = own_memory();
    return own ? grown(&own->scratch, bytes) : NULL;
}

static void *room_get(size_t bytes)
{
    thread_memory *own = own_memory();
    return own ? grown(&own->room, bytes) : NULL;
}

#endif
