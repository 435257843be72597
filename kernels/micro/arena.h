/* An arena: memory that a layout function divides into buffers.
 *
 * The layout function runs twice: first on an arena without memory, to measure the size, and then on an arena with memory, to assign
 * the buffers. The source code therefore states each size only once. With guards, a cache line with a known pattern follows each buffer,
 * and the layout function runs a third time to find guards that have been overwritten. AddressSanitizer also reports each read or write
 * of a guard. */
#ifndef MOBILESAM_ARENA_H
#define MOBILESAM_ARENA_H
#include "sanitize.h"
#include <stddef.h>
#include <string.h>

enum { ARENA_LINE = 64, ARENA_PATTERN = 0x5a };
enum arena_use { ARENA_MEASURE, ARENA_ASSIGN, ARENA_CHECK };

typedef struct {
    char *memory; /* start of the arena's memory, aligned to ARENA_LINE; NULL if use is ARENA_MEASURE */
    size_t used;  /* bytes that buffers have taken so far, a multiple of ARENA_LINE */
    enum arena_use use;
    int guarded;
    int overwritten; /* number of overwritten guards, if use is ARENA_CHECK */
} arena;

static inline size_t whole_lines(size_t bytes) { return (bytes + ARENA_LINE - 1) / ARENA_LINE * ARENA_LINE; }

/* Fills or checks a guard: the bytes from the end of a buffer to the end of the cache line that follows. */
static inline void arena_guard(arena *a, char *from, size_t count)
{
    ASAN_UNPOISON_MEMORY_REGION(from, count);
    if (a->use == ARENA_ASSIGN)
        memset(from, ARENA_PATTERN, count);
    for (size_t i = 0; a->use == ARENA_CHECK && i < count; i++)
        if (from[i] != ARENA_PATTERN) {
            a->overwritten++;
            break;
        }
    ASAN_POISON_MEMORY_REGION(from, count);
}

/* Returns the next buffer of the arena, of `bytes` bytes and aligned to ARENA_LINE. Returns NULL if the arena only measures. */
static inline void *arena_take(arena *a, size_t bytes)
{
    char *buffer = a->memory ? a->memory + a->used : NULL;
    a->used += whole_lines(bytes) + (a->guarded ? ARENA_LINE : 0);
    if (buffer)
        ASAN_UNPOISON_MEMORY_REGION(buffer, bytes); /* another layout may have had guards here */
    if (a->guarded && buffer)
        arena_guard(a, buffer + bytes, a->memory + a->used - (buffer + bytes));
    return buffer;
}

#endif
