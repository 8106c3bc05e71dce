// What the kernels of window attention share: their arguments, where windows lie, tiles.
//
// Of a lane, `group` is lane / 4 and `quad` lane % 4. A fragment that is accumulated [16, 8] has rows group and
// group + 8, columns 2 quad and 2 quad + 1.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace window_attention {

constexpr float LOG2E = 1.4426950408889634f;
constexpr int LANES = 32;

// The tables of ops/window_attention/tables.py; rows of C channels, those of all heads, have a multiple of 16 bytes.
struct Arguments {
  const void* qkv;           // [batch, area, 3 C]
  const void* pad_kv;        // [2 C], the virtual key and value after the tokens; null: there are none
  const float* tiles;        // [classes, heads, tile_rows, tile_columns], added to scores
  const int32_t* positions;  // [windows of an image, stride], the places of their tokens, sorted by class
  const int32_t* shares;     // [shares, 8], see Share
  float scale;
  int heads, channels, area, stride, tile_rows, tile_columns;
  void* out;         // [batch, area, C]
  const void* grad;  // [batch, area, C]
  void* dqkv;        // like qkv
  float* dtiles;     // [shares, heads, tile_rows, tile_columns], sums over the windows of a share
  float* dpad_kv;    // [shares, 2 C], likewise; null without pad_kv
};

// The windows of one class that a block attends: items first, first + step, … below stop. An item is a window of the
// class in one image: image * windows + window - begin.
struct Share {
  int klass, first, step, stop, begin, windows, tokens;
};

DEVICE Share share_of(const int32_t* shares, int number) {
  const int32_t* row = shares + int64_t(number) * 8;
  const auto low = device::load<16>(row), high = device::load<16>(row + 4);
  return {int(low.word[0]), int(low.word[1]), int(low.word[2]), int(low.word[3]), int(high.word[0]),
          int(high.word[1]), int(high.word[2])};
}

// As a number that the compiler knows to be the same in all lanes, so that no branch on it is guarded.
DEVICE int warp_of_block() { return __shfl_sync(0xffffffffu, int(threadIdx.x / LANES), 0); }

// [i, j] and [i, j + 1], j even, of a tile, as exponents of two: -infinity beyond its columns, zeros beyond the tokens.
DEVICE device::vector<8> tile_pair(const float* tile, int tokens, int columns, int i, int j) {
  device::float_2 pair = {0.0f, 0.0f};
  if (i < tokens) {
    pair = {-device::infinity(), -device::infinity()};
    if (j < columns) {
      const auto both = device::load<8>(tile + i * columns + j);
      pair = {LOG2E * device::as_float(both.word[0]), LOG2E * device::as_float(both.word[1])};
    }
  }
  return {device::as_word(pair.x), device::as_word(pair.y)};
}

// The tile of a block, 16 * row_tiles rows and 8 * KEYS columns, to shared memory, in the order of fragments: four
// numbers of a lane, then lanes, then column tiles, then row tiles. All threads of the block take part.
template <int KEYS>
DEVICE void stage_tile(float* to, const Arguments& a, int number, int tokens, int row_tiles) {
  const float* tile = a.tiles + int64_t(number) * a.tile_rows * a.tile_columns;
  for (int at = threadIdx.x; at < row_tiles * KEYS * LANES * 2; at += blockDim.x) {
    const int lane = at / 2 % LANES, fragment = at / (2 * LANES);
    const int i = fragment / KEYS * 16 + at % 2 * 8 + lane / 4, j = fragment % KEYS * 8 + lane % 4 * 2;
    device::store_shared<8>(to + 2 * at, tile_pair(tile, tokens, a.tile_columns, i, j));
  }
}

// WORDS words from global memory, in accesses as wide as may be; zeros where not real.
template <int WORDS>
DEVICE void load_words(uint32_t (&to)[WORDS], const char* from, bool real) {
  constexpr int EACH = WORDS < 4 ? WORDS : 4;
  UNROLL for (int w = 0; w < WORDS; w += EACH) {
    device::vector<4 * EACH> some = {};
    if (real) some = device::load<4 * EACH>(from + 4 * w);
    UNROLL for (int e = 0; e < EACH; ++e) to[w + e] = some.word[e];
  }
}

template <int WORDS>
DEVICE void store_words(char* to, const uint32_t (&from)[WORDS], bool real) {
  constexpr int EACH = WORDS < 4 ? WORDS : 4;
  UNROLL for (int w = 0; w < WORDS; w += EACH) {
    device::vector<4 * EACH> some;
    UNROLL for (int e = 0; e < EACH; ++e) some.word[e] = from[w + e];
    if (real) device::store<4 * EACH>(to + 4 * w, some);
  }
}

// The largest, and the sum, of the four lanes of a group, all of which have the same rows.
DEVICE float largest_of_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

DEVICE float sum_of_quad(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// From products [16, 8 KEYS] to exponentials, largest 1, and the sums of rows group and group + 8. `tile` is this
// lane's, in the order of `stage_tile`.
template <int KEYS>
DEVICE void weigh(float (&p)[KEYS][4], float (&sum)[2], const float* tile, float factor) {
  float largest[2] = {-device::infinity(), -device::infinity()};
  UNROLL for (int n = 0; n < KEYS; ++n) {
    const auto add = device::load_shared<16>(tile + n * LANES * 4);
    UNROLL for (int e = 0; e < 4; ++e) {
      p[n][e] = fmaf(p[n][e], factor, device::as_float(add.word[e]));
      largest[e / 2] = fmaxf(largest[e / 2], p[n][e]);
    }
  }
  largest[0] = largest_of_quad(largest[0]), largest[1] = largest_of_quad(largest[1]);
  sum[0] = sum[1] = 0.0f;
  UNROLL for (int n = 0; n < KEYS; ++n) {
    UNROLL for (int e = 0; e < 4; ++e) {
      p[n][e] = device::exp2(p[n][e] - largest[e / 2]);
      sum[e / 2] += p[n][e];
    }
  }
  sum[0] = sum_of_quad(sum[0]), sum[1] = sum_of_quad(sum[1]);
}

}  // namespace window_attention

// X(type, head_dim, column tiles) for all that is compiled: windows of up to 16, 32, 56 and 64 keys.
#define WINDOW_ATTENTION_KEYS(X, TYPE, HEAD_DIM) \
  X(TYPE, HEAD_DIM, 2) X(TYPE, HEAD_DIM, 4) X(TYPE, HEAD_DIM, 7) X(TYPE, HEAD_DIM, 8)
#define WINDOW_ATTENTION_HEADS(X, TYPE) \
  WINDOW_ATTENTION_KEYS(X, TYPE, 16) WINDOW_ATTENTION_KEYS(X, TYPE, 32) WINDOW_ATTENTION_KEYS(X, TYPE, 64)
#define WINDOW_ATTENTION_VARIANTS(X) WINDOW_ATTENTION_HEADS(X, half) WINDOW_ATTENTION_HEADS(X, bfloat16)
