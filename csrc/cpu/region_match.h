// What the kernels of all instruction sets are given; see region_match_kernel.h for the method.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

// One call. Sizes are in elements. R: what numbers are rounded to before they are compared, or T itself.
template <typename T>
struct RegionMatch {
  int64_t batch, views, tokens, candidates, channels;
  const T* student;  // [batch, tokens, channels]
  const T* teacher;  // [batch, views, candidates, channels]
  int64_t* index;    // [batch, views, tokens], as are:
  T *similarity, *margin;
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  template <typename T, typename R>                                                                                  \
  void match(const RegionMatch<T>&, int64_t image, int64_t view);                                                    \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
