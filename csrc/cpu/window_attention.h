// What the kernels of all instruction sets are given; see window_attention_kernel.h for the method.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace esvit_fast {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// One call. T is what is computed in. Offsets and sizes are in elements or tokens.
template <typename T>
struct WindowAttention {
  int64_t batch, height, width, channels, heads, head_dim;
  int64_t window_y, window_x, windows_x, windows;  // windows: of one image
  // [windows along the axis, 2 + window]: kind, number of tokens, and their positions on the axis
  const int32_t* row_axis;
  const int32_t* column_axis;
  int64_t column_kinds;
  const T* tiles;  // [classes, heads, tile_rows, tile_columns]
  int64_t classes, tile_rows, tile_columns;
  const T* pad_kv;  // [2 C], or null: padded positions are not attended
  const T* cosine_scale;  // [heads], or null: scores are dot products times scale
  T scale;
};

#define DECLARE(isa)                                                                                                 \
  namespace isa {                                                                                                    \
  template <typename T, typename In>                                                                                 \
  void forward(                                                                                                      \
      const WindowAttention<T>&, const In* qkv, In* out, int64_t begin, int64_t end, int64_t first, int64_t last);   \
  template <typename T, typename In>                                                                                 \
  void backward(                                                                                                     \
      const WindowAttention<T>&, const In* qkv, const In* grad, In* dqkv, T* dtiles, T* dpad_kv, T* dcosine_scale,   \
      int64_t begin, int64_t end, int64_t first, int64_t last);                                                      \
  }
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE

}  // namespace esvit_fast
