// Whether this processor has the instruction sets that a manifest names (by LLVM's names).
#pragma once

#include <functional>
#include <map>
#include <string>

#if defined(__aarch64__)
#include <sys/auxv.h>
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

inline bool has(const std::string& feature) {
  __builtin_cpu_init();
#define FEATURE(name, gcc) {name, [] { return __builtin_cpu_supports(gcc) != 0; }}
  static const std::map<std::string, std::function<bool()>> checks = {
      FEATURE("sse3", "sse3"), FEATURE("ssse3", "ssse3"), FEATURE("sse4.1", "sse4.1"), FEATURE("sse4.2", "sse4.2"),
      FEATURE("sse4a", "sse4a"), FEATURE("popcnt", "popcnt"), FEATURE("avx", "avx"), FEATURE("avx2", "avx2"),
      FEATURE("fma", "fma"), FEATURE("bmi", "bmi"), FEATURE("bmi2", "bmi2"), FEATURE("gfni", "gfni"),
      FEATURE("avx512f", "avx512f"), FEATURE("avx512cd", "avx512cd"), FEATURE("avx512bw", "avx512bw"),
      FEATURE("avx512dq", "avx512dq"), FEATURE("avx512vl", "avx512vl"), FEATURE("avx512ifma", "avx512ifma"),
      FEATURE("avx512vbmi", "avx512vbmi"), FEATURE("avx512vbmi2", "avx512vbmi2"),
      FEATURE("avx512vnni", "avx512vnni"), FEATURE("avx512bitalg", "avx512bitalg"),
      FEATURE("avx512vpopcntdq", "avx512vpopcntdq"), FEATURE("avx512bf16", "avx512bf16"),
  };
#undef FEATURE
  auto found = checks.find(feature);
  // Compilers do not know names for the rest, which come with those above on every processor that has them.
  return found == checks.end() || found->second();
}

#else
#error "graphopt compiles for x86-64 and AArch64 only"
#endif

}  // namespace cpu
