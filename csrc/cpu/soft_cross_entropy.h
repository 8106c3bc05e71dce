// What the kernels of all instruction sets are given; see soft_cross_entropy_kernel.h for the method.
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

// One call. T is what is computed in; logits are In. Sizes are in elements.
template <typename T>
struct SoftCrossEntropy {
  static constexpr int64_t block = 1024;  // prototypes at a time
  int64_t prototypes;
  const T* center;  // [K]
  T student_scale, teacher_scale;  // one over the temperatures
  // of the teacher's rows: log of the sum relative to the highest score, entropy, that score, one over the sum
  T *log_total, *entropy, *most, *inverse;
  int64_t* best;
  // of the student's row r: pairs [start[r], start[r + 1]), their teacher's rows and weights
  const int64_t *start, *row;
  const T* weight;
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  template <typename T, typename In>                                                                                 \
  void teach(const SoftCrossEntropy<T>&, const In* teacher, int64_t row);                                            \
  template <typename T, typename In>                                                                                 \
  void use(const SoftCrossEntropy<T>&, const In* teacher, int64_t rows, T* usage, int64_t begin, int64_t end);       \
  template <typename T, typename In>                                                                                 \
  void learn(                                                                                                        \
      const SoftCrossEntropy<T>&, const In* student, const In* teacher, In* gradient, T* loss, int64_t row);         \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
