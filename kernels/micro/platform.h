/* The functions that differ between operating systems: memory, memory of each thread, threads, and registers that the system saves. */
#ifndef MOBILESAM_PLATFORM_H
#define MOBILESAM_PLATFORM_H
#include <stddef.h>
#include <stdlib.h>

#ifndef __GNUC__
#error "mobilesam's kernels use GCC's vector extensions: compile with GCC or Clang (on Windows, CC=clang or gcc of mingw-w64)"
#endif

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <malloc.h>
#include <windows.h>

static inline void *pages_take(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

static inline void pages_give(void *memory, size_t bytes)
{
    (void)bytes;
    VirtualFree(memory, 0, MEM_RELEASE);
}

static inline int pages_forbid(void *memory, size_t bytes)
{
    DWORD before;
    return !VirtualProtect(memory, bytes, PAGE_NOACCESS, &before);
}

static inline void *lines_take(size_t bytes) { return _aligned_malloc(bytes, 64); }
static inline void lines_give(void *memory) { _aligned_free(memory); }

typedef DWORD thread_slot;
static inline int slot_new(thread_slot *slot, void (*at_end)(void *))
{
    return (*slot = FlsAlloc((PFLS_CALLBACK_FUNCTION)at_end)) == FLS_OUT_OF_INDEXES;
}
static inline void *slot_get(thread_slot slot) { return FlsGetValue(slot); }
static inline int slot_set(thread_slot slot, void *value) { return !FlsSetValue(slot, value); }

/* Windows limits the threads of a process only by memory. */
static inline int startable_threads(int count) { return count; }

#else
#include <pthread.h>
#include <sys/mman.h>

/* Returns zeroed memory, in whole pages, or NULL if there is no memory. */
static inline void *pages_take(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE /* Linux */
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

static inline void pages_give(void *memory, size_t bytes) { munmap(memory, bytes); }

/* Makes whole pages inaccessible. Returns 0 on success. */
static inline int pages_forbid(void *memory, size_t bytes) { return mprotect(memory, bytes, PROT_NONE); }

/* Returns memory that begins at a multiple of 64 bytes, a cache line, or NULL if there is no memory. */
static inline void *lines_take(size_t bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, bytes) ? NULL : memory;
}

static inline void lines_give(void *memory) { free(memory); }

/* A pointer of each thread. A thread that ends passes its pointer to `at_end`, unless the pointer is NULL. */
typedef pthread_key_t thread_slot;
static inline int slot_new(thread_slot *slot, void (*at_end)(void *)) { return pthread_key_create(slot, at_end); }
static inline void *slot_get(thread_slot slot) { return pthread_getspecific(slot); }
static inline int slot_set(thread_slot slot, void *value) { return pthread_setspecific(slot, value); }

/* What the threads that startable_threads starts share. Each thread counts itself in `running`, and waits until `ended` is set. */
struct attempt {
    pthread_mutex_t mutex;
    pthread_cond_t started, end;
    int running, ended;
};

static inline void *wait_for_end(void *argument)
{
    struct attempt *attempt = argument;
    void *volatile memory = malloc(1); /* an OpenMP thread allocates too, and glibc reserves 64 MB of addresses for its first block */
    free(memory);
    pthread_mutex_lock(&attempt->mutex);
    attempt->running++;
    pthread_cond_signal(&attempt->started);
    while (!attempt->ended)
        pthread_cond_wait(&attempt->end, &attempt->mutex);
    pthread_mutex_unlock(&attempt->mutex);
    return NULL;
}

/* Returns how many of `count` further threads can exist at once. Starts the threads one after the other to find out, and waits until they
 * have ended. */
static inline int startable_threads(int count)
{
    struct attempt attempt = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
    pthread_t *threads = malloc(count * sizeof *threads);
    int started = 0;
    if (!threads)
        return 0;
    pthread_mutex_lock(&attempt.mutex);
    while (started < count && !pthread_create(&threads[started], NULL, wait_for_end, &attempt)) {
        started++;
        while (attempt.running < started)
            pthread_cond_wait(&attempt.started, &attempt.mutex);
    }
    attempt.ended = 1;
    pthread_cond_broadcast(&attempt.end);
    pthread_mutex_unlock(&attempt.mutex);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    return started;
}
#endif

#ifdef __x86_64__
enum { SAVES_AVX = 0x6, SAVES_AVX512 = 0xe6, SAVES_TILES = 0x60000 }; /* bits of XCR0 (Intel SDM vol. 1, 13.3) */

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

static inline int saves_avx512(unsigned long long xcr0) { return (xcr0 & SAVES_AVX512) == SAVES_AVX512; }

/* Returns whether this process may use AMX tiles. Linux wants a request first (Documentation/arch/x86/xstate.rst). */
static inline int saves_tiles(unsigned long long xcr0)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return (xcr0 & SAVES_TILES) == SAVES_TILES && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

#elif defined(__APPLE__)
#include <sys/sysctl.h>

/* macOS sets the bits of AVX-512 in XCR0 only when a thread first uses AVX-512. */
static inline int saves_avx512(unsigned long long xcr0)
{
    int has = 0;
    size_t size = sizeof has;
    (void)xcr0;
    return !sysctlbyname("hw.optional.avx512f", &has, &size, NULL, 0) && has;
}

static inline int saves_tiles(unsigned long long xcr0) { return xcr0 & 0; } /* no Mac has AMX of x86-64 */

#elif defined(_WIN32)
static inline int saves_avx512(unsigned long long xcr0) { return (xcr0 & SAVES_AVX512) == SAVES_AVX512; }

/* Returns whether this process may use AMX tiles. Windows wants a request first, through a function that older Windows lack. */
static inline int saves_tiles(unsigned long long xcr0)
{
    typedef BOOL(WINAPI * request)(DWORD64);
    request enable = (request)(void *)GetProcAddress(GetModuleHandleA("kernel32.dll"), "EnableProcessOptionalXStateFeatures");
    return (xcr0 & SAVES_TILES) == SAVES_TILES && enable && enable(SAVES_TILES);
}
#endif
#endif

#endif
