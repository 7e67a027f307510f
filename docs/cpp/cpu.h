// Whether this processor has the instruction sets that a manifest names (by LLVM's names).
#pragma once

#include <map>
#include <string>
#include <utility>

#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace cpu {

#if defined(__aarch64__)

inline std::string machine() { return "aarch64"; }

// Bits of the kernel's AT_HWCAP (first) and AT_HWCAP2 (second).
inline bool has(const std::string& feature) {
  static const std::map<std::string, std::pair<unsigned long, unsigned long>> bits = {
      {"fp-armv8", {1ul << 0, 0}},   {"neon", {1ul << 1, 0}},     {"crc", {1ul << 7, 0}},
      {"lse", {1ul << 8, 0}},        {"fullfp16", {3ul << 9, 0}}, {"rdm", {1ul << 12, 0}},
      {"jsconv", {1ul << 13, 0}},    {"complxnum", {1ul << 14, 0}}, {"rcpc", {1ul << 15, 0}},
      {"dotprod", {1ul << 20, 0}},   {"sve", {1ul << 22, 0}},     {"fp16fml", {1ul << 23, 0}},
      {"sve2", {0, 1ul << 1}},       {"i8mm", {0, 1ul << 13}},    {"bf16", {0, 1ul << 14}},
  };
  auto found = bits.find(feature);
  if (found == bits.end()) return false;
  auto [first, second] = found->second;
  return (getauxval(AT_HWCAP) & first) == first && (getauxval(AT_HWCAP2) & second) == second;
}

#elif defined(__x86_64__)

inline std::string machine() { return "x86_64"; }

enum Register { EAX, EBX, ECX, EDX };

struct Bit {
  unsigned leaf, subleaf;
  Register where;
  int bit;
};

inline bool has(const std::string& feature) {
  static const std::map<std::string, Bit> bits = {
      {"sse3", {1, 0, ECX, 0}},         {"ssse3", {1, 0, ECX, 9}},        {"fma", {1, 0, ECX, 12}},
      {"sse4.1", {1, 0, ECX, 19}},      {"sse4.2", {1, 0, ECX, 20}},      {"movbe", {1, 0, ECX, 22}},
      {"popcnt", {1, 0, ECX, 23}},      {"avx", {1, 0, ECX, 28}},         {"f16c", {1, 0, ECX, 29}},
      {"bmi", {7, 0, EBX, 3}},          {"avx2", {7, 0, EBX, 5}},         {"bmi2", {7, 0, EBX, 8}},
      {"avx512f", {7, 0, EBX, 16}},     {"avx512dq", {7, 0, EBX, 17}},    {"avx512ifma", {7, 0, EBX, 21}},
      {"avx512cd", {7, 0, EBX, 28}},    {"avx512bw", {7, 0, EBX, 30}},    {"avx512vl", {7, 0, EBX, 31}},
      {"avx512vbmi", {7, 0, ECX, 1}},   {"avx512vbmi2", {7, 0, ECX, 6}},  {"gfni", {7, 0, ECX, 8}},
      {"avx512vnni", {7, 0, ECX, 11}},  {"avx512bitalg", {7, 0, ECX, 12}}, {"avx512vpopcntdq", {7, 0, ECX, 14}},
      {"amx-bf16", {7, 0, EDX, 22}},    {"avx512fp16", {7, 0, EDX, 23}},  {"amx-tile", {7, 0, EDX, 24}},
      {"amx-int8", {7, 0, EDX, 25}},    {"avxvnni", {7, 1, EAX, 4}},      {"avx512bf16", {7, 1, EAX, 5}},
      {"lzcnt", {0x80000001, 0, ECX, 5}}, {"sse4a", {0x80000001, 0, ECX, 6}},
  };
  auto found = bits.find(feature);
  if (found == bits.end()) return false;
  const Bit& bit = found->second;
  unsigned registers[4] = {0, 0, 0, 0};
  __get_cpuid_count(bit.leaf, bit.subleaf, &registers[EAX], &registers[EBX], &registers[ECX], &registers[EDX]);
  return (registers[bit.where] >> bit.bit & 1) != 0;
}

#else
#error "graphopt compiles for x86-64 and AArch64 only"
#endif

}  // namespace cpu
