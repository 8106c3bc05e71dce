// The widest instruction set that this machine has and this library was built for.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace esvit_fast {

enum class Isa { baseline, avx2, avx512 };

// ESVIT_FAST_CPU_ISA=baseline|avx2|avx512 asks for a narrower one, so that each can be tested on one machine.
inline Isa isa() {
  static const Isa chosen = [] {
    Isa widest = Isa::baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
      widest = Isa::avx2;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        widest = Isa::avx512;
      }
    }
#endif
    const char* asked = std::getenv("ESVIT_FAST_CPU_ISA");
    if (!asked || !*asked) return widest;
    const std::string name = asked;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      const char* known = isa == Isa::baseline ? "baseline" : isa == Isa::avx2 ? "avx2" : "avx512";
      if (name == known && isa <= widest) return isa;
    }
    throw std::invalid_argument(
        "ESVIT_FAST_CPU_ISA='" + name + "' must be baseline, avx2 or avx512, and one that this machine has");
  }();
  return chosen;
}

}  // namespace esvit_fast
