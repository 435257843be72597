/* The host's side of isa.pyx: which tables this build has, what the CPU and the OS support, per-thread scratch. */
#ifndef MOBILESAM_HOST_H
#define MOBILESAM_HOST_H
#include "runtime.h"
#include <pthread.h>
#include <stdlib.h>

enum { CPU_SSE42 = 1, CPU_AVX2_FMA = 2, CPU_AVX512 = 4, CPU_NEON = 8, CPU_AVX512_BF16 = 16, CPU_AVX512_VNNI = 32, CPU_AVX_VNNI = 64 };

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

static const micro *const micro_tables[] = {&micro_avx512, &micro_avx2, &micro_x86_64_v2};
static const int micro_needs[] = {CPU_AVX512, CPU_AVX2_FMA, CPU_SSE42};

/* A register set counts only if the OS saves it: XCR0 bits 1-2 for AVX, 5-7 for AVX-512 (Intel SDM vol. 1, 13.3). */
static int cpu_supports(void)
{
    unsigned a, b, c, d, found = 0;
    unsigned long long saved = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    if ((c & bit_SSE4_2) && (c & bit_POPCNT) && (c & bit_SSSE3))
        found |= CPU_SSE42;
    if (c & bit_OSXSAVE) {
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        saved = ((unsigned long long)high << 32) | low;
    }
    const int fma = (c & bit_FMA) && (c & bit_F16C);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return found;
    const int has_subleaf_1 = a >= 1;
    if ((saved & 0x6) == 0x6 && (b & bit_AVX2) && fma) {
        found |= CPU_AVX2_FMA;
        const unsigned all = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
        if ((saved & 0xe6) == 0xe6 && (b & all) == all) {
            found |= CPU_AVX512;
            if (c & bit_AVX512VNNI)
                found |= CPU_AVX512_VNNI;
        }
        if (has_subleaf_1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
            if (a & (1u << 4))
                found |= CPU_AVX_VNNI;
            if ((found & CPU_AVX512) && (a & (1u << 5)))
                found |= CPU_AVX512_BF16;
        }
    }
    return found;
}
#elif defined(__aarch64__)
static const micro *const micro_tables[] = {&micro_neon};
static const int micro_needs[] = {CPU_NEON};
static int cpu_supports(void) { return CPU_NEON; }
#else
#error "mobilesam's kernels are written for x86-64 and AArch64"
#endif

enum { micro_count = sizeof micro_tables / sizeof *micro_tables };

typedef struct {
    size_t bytes;
    void *memory;
} scratch_block;

static pthread_key_t scratch_key;

static void scratch_free(void *p)
{
    free(((scratch_block *)p)->memory);
    free(p);
}

static int scratch_init(void) { return pthread_key_create(&scratch_key, scratch_free); }

static void *scratch_get(size_t bytes)
{
    scratch_block *block = pthread_getspecific(scratch_key);
    if (!block) {
        block = calloc(1, sizeof *block);
        if (!block || pthread_setspecific(scratch_key, block)) {
            free(block);
            return NULL;
        }
    }
    if (block->bytes < bytes) {
        free(block->memory);
        block->bytes = 0;
        if (posix_memalign(&block->memory, 64, bytes)) {
            block->memory = NULL;
            return NULL;
        }
        block->bytes = bytes;
    }
    return block->memory;
}

#ifdef _OPENMP
enum { has_openmp = 1 };
#else
enum { has_openmp = 0 };
#endif

#endif
