/* A pool of freed blocks that memory.pyx reuses: at most POOL_SLOTS blocks, which together have at most POOL_LIMIT bytes. Any thread may
 * call the pool's functions. A call that cannot take the lock at once works without the pool, so that it cannot hang in a process that was
 * forked while another thread held the lock.
 *
 * With AddressSanitizer there is no pool: each array has its own block from the heap, freed with the array. Accesses past a block's end
 * and accesses after the free are then reported. */
#ifndef MOBILESAM_POOL_H
#define MOBILESAM_POOL_H
#include "platform.h"
#include "sanitize.h"
#include <stdatomic.h>

#if MOBILESAM_ASAN

#define POOL_LEAST ((size_t)1)
#define SHARED_BYTES ((size_t)0)

static void *pool_take(size_t bytes, size_t *got)
{
    *got = bytes;
    return lines_take(bytes);
}

static void pool_give(void *memory, size_t bytes)
{
    (void)bytes;
    lines_give(memory);
}

#else

#define POOL_LEAST ((size_t)1 << 18) /* bytes; smaller arrays get their memory from NumPy */
#define SHARED_BYTES ((size_t)8 << 20) /* size of a block that several arrays of memory.lasting share */
#define POOL_LIMIT ((size_t)60 << 20)
enum { POOL_SLOTS = 16 };

static struct {
    atomic_flag locked;
    size_t held;
    struct {
        void *memory;
        size_t bytes;
    } slots[POOL_SLOTS];
} pool = {.locked = ATOMIC_FLAG_INIT};

/* Returns a block of at least `bytes` bytes and stores its size in `*got`. Returns NULL if there is no memory. */
static void *pool_take(size_t bytes, size_t *got)
{
    void *memory = NULL;
    int best = -1;
    if (!atomic_flag_test_and_set_explicit(&pool.locked, memory_order_acquire)) {
        for (int i = 0; i < POOL_SLOTS; i++)
            if (pool.slots[i].bytes >= bytes && pool.slots[i].bytes / 2 <= bytes &&
                (best < 0 || pool.slots[i].bytes < pool.slots[best].bytes))
                best = i;
        if (best >= 0) {
            memory = pool.slots[best].memory;
            *got = pool.slots[best].bytes;
            pool.held -= *got;
            pool.slots[best].memory = NULL;
            pool.slots[best].bytes = 0;
        }
        atomic_flag_clear_explicit(&pool.locked, memory_order_release);
    }
    if (!memory) { /* whole pages, because malloc would keep memory that another thread has freed */
        *got = bytes;
        memory = pages_take(bytes);
    }
    return memory;
}

/* Keeps a block in the pool, or returns it to the operating system if the pool is full. */
static void pool_give(void *memory, size_t bytes)
{
    if (!atomic_flag_test_and_set_explicit(&pool.locked, memory_order_acquire)) {
        for (int i = 0; i < POOL_SLOTS && memory && pool.held + bytes <= POOL_LIMIT; i++)
            if (!pool.slots[i].memory) {
                pool.slots[i].memory = memory;
                pool.slots[i].bytes = bytes;
                pool.held += bytes;
                memory = NULL;
            }
        atomic_flag_clear_explicit(&pool.locked, memory_order_release);
    }
    if (memory)
        pages_give(memory, bytes);
}

#endif
#endif
