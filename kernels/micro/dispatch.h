/* The tables of micro-kernels of this build, and the features that the CPU and the OS support. Included by isa.pyx. */
#ifndef MOBILESAM_DISPATCH_H
#define MOBILESAM_DISPATCH_H
#include "platform.h"
#include "runtime.h"
#include <stddef.h>

enum {
    CPU_SSE42 = 1, CPU_AVX2_FMA = 2, CPU_AVX512 = 4, CPU_NEON = 8, CPU_AVX512_BF16 = 16, CPU_AVX512_VNNI = 32,
    CPU_AVX_VNNI = 64, CPU_AMX_BF16 = 128, CPU_AMX_INT8 = 256, CPU_ADDS_BESIDE = 512 /* additions and FMAs run in the same cycle */,
};

/* An ISA: its float32 table, and for each precision the product that replaces `gemm` (or NULL) and the CPU features it needs. */
typedef struct {
    const char *name;
    const micro *table;
    const packed_product *packed[PRECISIONS];
    int needs[PRECISIONS];
} isa_entry;

#ifdef __x86_64__
#include <cpuid.h>

static const isa_entry isas[] = {
    {"amx", &micro_avx512, {&packed_amx_fp32, &packed_amx_bf16, &packed_amx_int8},
     {CPU_AVX512 | CPU_AMX_BF16, CPU_AVX512_BF16, CPU_AMX_INT8}},
    {"zen4", &micro_avx512, {&packed_zen4_fp32, &packed_avx512_bf16, &packed_avx512_int8},
     {CPU_AVX512 | CPU_ADDS_BESIDE, CPU_AVX512_BF16, CPU_AVX512_VNNI}},
    {"avx512", &micro_avx512, {NULL, &packed_avx512_bf16, &packed_avx512_int8}, {CPU_AVX512, CPU_AVX512_BF16, CPU_AVX512_VNNI}},
    {"avx2", &micro_avx2, {NULL, NULL, &packed_avx2_int8}, {CPU_AVX2_FMA, 0, CPU_AVX_VNNI}},
    {"x86-64-v2", &micro_x86_64_v2, {NULL}, {CPU_SSE42}},
};

/* Returns whether the CPU is of AMD's family 0x19, which is Zen 4 if it has AVX-512. As measured, Zen 4 executes a vector addition with
 * a broadcast from memory and an FMA in each cycle. Later families have not been measured. */
static int adds_beside(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx || d != signature_AMD_edx)
        return 0;
    __get_cpuid(1, &a, &b, &c, &d);
    return (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}

/* Returns the supported CPU_ flags. An instruction set is supported only if the OS saves its registers. */
static int cpu_supports(void)
{
    unsigned a, b, c, d, found = 0;
    unsigned long long saved = 0; /* XCR0: the registers that the OS saves */
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
    const int has_subleaf_1 = a >= 1, has_tiles = d >> 24 & 1, tile_bf16 = d >> 22 & 1, tile_int8 = d >> 25 & 1;
    if ((saved & SAVES_AVX) == SAVES_AVX && (b & bit_AVX2) && fma) {
        found |= CPU_AVX2_FMA | (adds_beside() ? CPU_ADDS_BESIDE : 0);
        const unsigned all = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
        if (saves_avx512(saved) && (b & all) == all) {
            found |= CPU_AVX512;
            if (c & bit_AVX512VNNI)
                found |= CPU_AVX512_VNNI;
            if (has_tiles && (tile_bf16 || tile_int8) && saves_tiles(saved))
                found |= (tile_bf16 ? CPU_AMX_BF16 : 0) | (tile_int8 ? CPU_AMX_INT8 : 0);
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
static const isa_entry isas[] = {{"neon", &micro_neon, {NULL}, {CPU_NEON}}};
static int cpu_supports(void) { return CPU_NEON; }
#else
#error "mobilesam's kernels are written for x86-64 and AArch64"
#endif

enum { isa_count = sizeof isas / sizeof *isas };

static micro tables[isa_count * PRECISIONS]; /* one table of micro-kernels for each ISA and precision */

/* Returns whether a CPU with these features runs ISA i in this precision. */
static int isa_has(int i, int precision, int features)
{
    const int needs = isas[i].needs[IN_FP32] | isas[i].needs[precision];
    return (precision == IN_FP32 || isas[i].packed[precision]) && (needs & features) == needs;
}

/* Fills `tables`, on a CPU with these features. */
static void make_tables(int features)
{
    for (int i = 0; i < isa_count; i++)
        for (int p = 0; p < PRECISIONS; p++) {
            micro *table = &tables[i * PRECISIONS + p];
            const packed_product *packed = isas[i].packed[p];
            *table = *isas[i].table;
            if (packed) {
                table->pack_operand = packed->pack_operand;
                table->product = packed->product;
                table->product_to_operand = packed->product_to_operand;
                table->weight = packed->weight;
                table->pack = packed->pack;
                table->pack_columns = packed->pack_columns;
                table->attend = packed->attend; /* an int8 table takes the `attend` of bf16, if the CPU has bf16 */
                if (p == IN_INT8 && isa_has(i, IN_BF16, features))
                    table->attend = isas[i].packed[IN_BF16]->attend;
            }
        }
}

#endif
