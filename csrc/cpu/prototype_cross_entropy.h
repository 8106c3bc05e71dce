// What the kernels of all instruction sets are given; see prototype_cross_entropy_kernel.h for the method.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace esvit_fast {

// One group of rows. T is what is computed in. Sizes are in elements.
template <typename T>
struct Assignment {
  static constexpr int64_t tile = 128;  // prototypes taken at once
  static constexpr int64_t depth = 64;  // products summed up before they are added to others
  int64_t prototypes, width, filled;    // K; D, and D filled up to whole vectors of any instruction set
  int64_t chunk, chunks, rows;          // chunks of rows, the last one filled up with zeros
  int64_t shares, tiles_of_share;       // prototypes are shared among tasks, in whole tiles
  const T *keys, *key_scale, *key_bias;  // [K, D], [K], [K] or null
  const T *values, *value_scale;         // [K, D], [K]; values are null where no mean is wanted
  const T* rows_t;                       // [chunks, D, chunk]
  const T* outer;                        // [chunks, chunk, filled], or null
  T* sum;                                // [K, D], with outer
  bool fresh;                            // whether there is nothing in sum yet
  T* usage;                              // [K], or null
  T* weights;                            // [chunks, K, chunk]
  T* level;                              // [chunks, tiles, chunk]: what a tile's weights are relative to
  T *most, *total, *rest, *moment;       // [chunks, shares, chunk]: of a row and a share of the prototypes
  int64_t* best;                         // the same
  const T *highest, *inverse;            // [chunks, chunk]: of a row and all prototypes; one over their total
  T* mean;                               // [chunks, shares, chunk, filled]
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  template <typename T>                                                                                              \
  void score(const Assignment<T>&, int64_t chunk, int64_t share);                                                    \
  template <typename T>                                                                                              \
  void gather_prototypes(const Assignment<T>&, int64_t share);                                                       \
  template <typename T>                                                                                              \
  void weight_norm_backward(                                                                                         \
      T* dweight, T* dg, const T* weight, const T* g, const T* length, int64_t width, int64_t begin, int64_t end);   \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
