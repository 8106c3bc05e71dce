// What the kernels of all instruction sets are given; see linear_kernel.h for the method.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

constexpr int64_t PANEL = 64;  // columns of a weight that stay in a cache

struct Linear {
  int64_t ins, outs;
  const float *weight, *bias;  // [outs, ins] if transposed, else [ins, outs]; [outs], or none
  bool transposed;
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  void linear_columns(                                                                                               \
      const Linear& p, int64_t rows, const float* x, float* out, int64_t begin, int64_t columns);                    \
  void linear_weight_gradient(                                                                                       \
      const float* grad, const float* x, float* dweight, float* dbias, int64_t tokens, int64_t outs, int64_t ins,    \
      int64_t begin, int64_t end);                                                                                   \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
