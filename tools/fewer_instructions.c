/* Lets a program believe that it runs on an older x86 processor: Linux traps CPUID (arch_prctl ARCH_SET_CPUID, where the
   processor can), and this answers it without some instruction sets.

       gcc -O2 -shared -fPIC tools/fewer_instructions.c -o fewer.so
       FEWER_INSTRUCTIONS=avx2 LD_PRELOAD=$PWD/fewer.so GRAPHOPT_HOST_FEATURES=x86-64-v3 \
           python tools/bench.py --int8 --reduce-range --batches 1 --threads 1 --clock cpu

   FEWER_INSTRUCTIONS: "avx512" leaves out VNNI, bf16, fp16 and AMX; "avx2" all of AVX-512 as well. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SET_CPUID 0x1012

/* Leaf 7, by its bits: in EBX F, DQ, IFMA, PF, ER, CD, BW, VL; in ECX VBMI, VBMI2, GFNI, BITALG, VPOPCNTDQ; in EDX
   VP2INTERSECT. Then those that "avx512" leaves out too: in ECX VNNI; in EDX 4VNNIW, 4FMAPS, AMX, FP16. */
#define EBX_AVX512 (1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31)
#define ECX_AVX512 (1u << 1 | 1u << 6 | 1u << 8 | 1u << 12 | 1u << 14)
#define EDX_AVX512 (1u << 8)
#define ECX_VNNI (1u << 11)
#define EDX_VNNI (1u << 2 | 1u << 3 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25)
/* Its second part: in EAX AVX-VNNI and BF16; in EDX AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10. */
#define EAX_SECOND (1u << 4 | 1u << 5)
#define EDX_SECOND (1u << 4 | 1u << 5 | 1u << 10 | 1u << 19)

static int only_avx2;
static struct sigaction before;

static void trap(int on) { syscall(SYS_arch_prctl, SET_CPUID, on ? 0UL : 1UL); }

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* not CPUID: a real fault, which happens again */
        sigaction(SIGSEGV, &before, NULL);
        return;
    }
    trap(0);
    __cpuid_count(leaf, part, a, b, c, d);
    trap(1);
    if (leaf == 7 && part == 0) {
        c &= ~ECX_VNNI;
        d &= ~EDX_VNNI;
        if (only_avx2) {
            b &= ~EBX_AVX512;
            c &= ~ECX_AVX512;
            d &= ~EDX_AVX512;
        }
    } else if (leaf == 7 && part == 1) {
        a &= ~EAX_SECOND;
        d &= ~EDX_SECOND;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *level = getenv("FEWER_INSTRUCTIONS");
    struct sigaction action;
    if (!level)
        return;
    only_avx2 = !strcmp(level, "avx2");
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before);
    trap(1);
}
