/* AddressSanitizer (MOBILESAM_SANITIZE=1 in setup.py): whether the build has it, and poisoned memory, which kernels must not touch. */
#ifndef MOBILESAM_SANITIZE_H
#define MOBILESAM_SANITIZE_H

#ifdef __has_feature /* Clang */
#if __has_feature(address_sanitizer)
#define MOBILESAM_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(MOBILESAM_ASAN) /* GCC */
#define MOBILESAM_ASAN 1
#endif

#ifdef MOBILESAM_ASAN
#include <sanitizer/asan_interface.h>
#else
#define MOBILESAM_ASAN 0
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

#endif
