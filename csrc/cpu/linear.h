// What the kernels of all instruction sets are given; see linear_kernel.h for the method.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  void linear_weight_gradient(                                                                                       \
      const float* grad, const float* x, float* dweight, float* dbias, int64_t tokens, int64_t outs, int64_t ins,    \
      int64_t begin, int64_t end);                                                                                   \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
