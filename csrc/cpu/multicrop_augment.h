// What the kernels of all instruction sets are given; see multicrop_augment_kernel.h for the method.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

// What is done to one sample: a row of parameters, in the order of its columns, but for `order`.
struct Augmentation {
  bool flip;
  int order[4], jitters;  // operations of the jitter, and how many of them there are: 4, or none
  float brightness, contrast, saturation, hue;
  bool grey;
  float sigma;
  bool solarize;
};

// One call. Colours are levels, 0 to 255, until they are normalised to (level - mean) * scale.
template <typename Out>
struct MulticropAugment {
  int64_t height, width, radius;
  const uint8_t* images;  // [samples, 3, height, width]
  float mean[3], scale[3];
  Out* out;  // [samples, 3, height, width]
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  template <typename Out>                                                                                            \
  void augment(const MulticropAugment<Out>&, const Augmentation&, int64_t sample);                                   \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
