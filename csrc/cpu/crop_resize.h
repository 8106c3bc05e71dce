// What the kernels of all instruction sets are given; see crop_resize_kernel.h for the method.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

// How one axis is resampled: result i is the sum over k < count[i] of weight[i * taps + k] * input[first[i] + k], in
// units of 2^-bits.
struct Resampling {
  int64_t taps;
  int bits;
  std::vector<int32_t> weight;
  std::vector<int64_t> first, count;
};

// One crop of an image that is given column by column: [3 * width][stride], so that a vector is of rows.
struct Crop {
  const uint8_t* columns;
  int64_t stride;  // at least the image's height and SLACK more
  int64_t top, left, height, size;
  Resampling across, down;
  uint8_t* out;  // [3, size, size]
};

constexpr int64_t SLACK = 64;  // bytes that vectors may read beyond a column

inline int64_t whole(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  void transpose_bytes(                                                                                              \
      uint8_t* to, int64_t to_row, const uint8_t* from, int64_t from_row, int64_t rows, int64_t columns);            \
  void resize(const Crop&);                                                                                          \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
