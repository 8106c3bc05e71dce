// The forward pass of window attention: each warp attends in windows of its own, in registers.
//
// Rows come from global memory as operands of products, 16 bytes a lane, since the order of what is summed is free: for
// scores, a lane of quad t has the channels from HEAD_DIM / 4 * t on, of queries and keys alike; and so is the order of
// the values' channels: group g has those from HEAD_DIM / 8 * g on.
#pragma once

#include "window_attention.cuh"

namespace window_attention {

// A type of 16 bits; channels of a head; column tiles, of 8 keys each.
template <class ELEMENT, int HEAD_DIM, int KEYS>
struct ForwardTraits {
  using Element = ELEMENT;
  static constexpr int head_dim = HEAD_DIM, keys = KEYS, warps = 4, threads = warps * LANES;
  static constexpr int blocks = HEAD_DIM == 64 ? 2 : 3;  // of a multiprocessor, that registers must suffice for
  static constexpr int shared_bytes = (KEYS + 1) / 2 * KEYS * LANES * 16;
};

// The rows of the map in which a window's tokens lie, those of `lane` and `lane` + 32; any row of it beyond the tokens.
struct Rows {
  unsigned low, high;

  // That of token 8 * eight + i, i its own in each lane.
  DEVICE unsigned of(int eight, int i) const {
    return __shfl_sync(0xffffffffu, eight < 4 ? low : high, eight % 4 * 8 + i);
  }
};

DEVICE Rows rows_of(const Arguments& a, const Share& share, int item, int lane) {
  const int32_t* places = a.positions + int64_t(share.begin + item % share.windows) * a.stride;
  const unsigned image = unsigned(item / share.windows) * a.area;
  return {
      image + (lane < share.tokens ? places[lane] : 0),
      image + (lane + LANES < share.tokens ? places[lane + LANES] : 0)};
}

// Queries 16 * m + group and 8 more, as operands: HEAD_DIM / 16 steps of the sum over channels.
//
// Zeros take the place of what was loaded, not of the load: the selection moves words to where operands are, which
// would else be done anew for each product.
template <int STEPS>
DEVICE void load_queries(
    uint32_t (&q)[STEPS][4], const char* from, unsigned row_bytes, const Rows& rows, int m, int group, int tokens) {
  UNROLL for (int half = 0; half < 2; ++half) {
    uint32_t words[2 * STEPS];
    load_words(words, device::at_row(from, rows.of(2 * m + half, group), row_bytes), true);
    const bool real = 16 * m + 8 * half + group < tokens;
    UNROLL for (int w = 0; w < 2 * STEPS; ++w) q[w / 2][w % 2 * 2 + half] = real ? words[w] : 0;
  }
}

template <class Traits>
DEVICE void forward(Arguments a) {
  using T = typename Traits::Element;
  constexpr int D = Traits::head_dim, KEYS = Traits::keys, WORDS = D / 8;
  constexpr int BYTES = 2;
  // eight column tiles leave no registers for the rows of the next window
  constexpr bool AHEAD = KEYS < 8;
  const int lane = threadIdx.x % LANES, group = lane / 4, quad = lane % 4;
  const int warp = warp_of_block();
  const int head = blockIdx.x % a.heads;
  const Share share = share_of(a.shares, blockIdx.x / a.heads);
  const int tokens = share.tokens, row_tiles = (tokens + 15) / 16;
  float* tile = reinterpret_cast<float*>(device::shared_memory());
  stage_tile<KEYS>(tile, a, share.klass * a.heads + head, tokens, row_tiles);
  __syncthreads();

  const float factor = a.scale * LOG2E;
  const unsigned part = a.channels * BYTES, row_bytes = 3 * part;
  const char* qkv = static_cast<const char*>(a.qkv) + head * D * BYTES;
  const char* queries = qkv + quad * D / 4 * BYTES;
  const char* keys = queries + part;
  const char* values = qkv + 2 * part + group * D / 8 * BYTES;
  const char* pad = static_cast<const char*>(a.pad_kv) + head * D * BYTES;

  const int step = share.step * Traits::warps;
  int item = share.first + warp * share.step;
  Rows next = AHEAD && item < share.stop ? rows_of(a, share, item, lane) : Rows{};
  for (; item < share.stop; item += step) {
    const Rows rows = AHEAD ? next : rows_of(a, share, item, lane);
    uint32_t q[WORDS / 2][4], k[KEYS][WORDS], v[KEYS][WORDS];
    load_queries(q, queries, row_bytes, rows, 0, group, tokens);
    UNROLL for (int n = 0; n < KEYS; ++n) {
      load_words(k[n], device::at_row(keys, rows.of(n, group), row_bytes), 8 * n + group < tokens);
    }
    if (a.pad_kv != nullptr) {
      UNROLL for (int n = 0; n < KEYS; ++n) {
        if (8 * n + group == tokens) load_words(k[n], pad + quad * D / 4 * BYTES, true);
      }
    }
    UNROLL for (int n = 0; n < KEYS; ++n) {
      uint32_t pair[2][WORDS / 2];
      UNROLL for (int half = 0; half < 2; ++half) {
        const int j = 2 * quad + half;
        load_words(pair[half], device::at_row(values, rows.of(n, j), row_bytes), 8 * n + j < tokens);
        if (8 * n + j == tokens && a.pad_kv != nullptr) {
          load_words(pair[half], pad + part + group * D / 8 * BYTES, true);
        }
      }
      UNROLL for (int w = 0; w < WORDS / 2; ++w) {
        v[n][2 * w] = device::byte_perm(pair[0][w], pair[1][w], 0x5410);
        v[n][2 * w + 1] = device::byte_perm(pair[0][w], pair[1][w], 0x7632);
      }
    }
    if (AHEAD && item + step < share.stop) next = rows_of(a, share, item + step, lane);

    ROLL for (int m = 0; m < row_tiles; ++m) {
      float p[KEYS][4];
      UNROLL for (int n = 0; n < KEYS; ++n) {
        p[n][0] = p[n][1] = p[n][2] = p[n][3] = 0.0f;
        UNROLL for (int w = 0; w < WORDS; w += 2) device::mma_m16n8k16<T>(p[n], q[w / 2], {k[n][w], k[n][w + 1]});
      }
      // the queries of the next row tile come while this one's weights are computed
      if (m + 1 < row_tiles) load_queries(q, queries, row_bytes, rows, m + 1, group, tokens);
      float sum[2];
      weigh<KEYS>(p, sum, tile + (m * KEYS * LANES + lane) * 4, factor);
      float o[WORDS][4] = {};
      UNROLL for (int n = 0; n < KEYS; n += 2) {
        const uint32_t left[2] = {device::pack<T>(p[n][0], p[n][1]), device::pack<T>(p[n][2], p[n][3])};
        if (n + 1 == KEYS) {
          UNROLL for (int w = 0; w < WORDS; ++w) device::mma_m16n8k8<T>(o[w], left, {v[n][w]});
        } else {
          const uint32_t both[4] = {left[0], left[1], device::pack<T>(p[n + 1][0], p[n + 1][1]),
                                    device::pack<T>(p[n + 1][2], p[n + 1][3])};
          UNROLL for (int w = 0; w < WORDS; ++w) device::mma_m16n8k16<T>(o[w], both, {v[n][w], v[n + 1][w]});
        }
      }
      UNROLL for (int half = 0; half < 2; ++half) {
        // a lane's numbers are HEAD_DIM / 4 channels side by side
        const float over = device::reciprocal(sum[half]);
        uint32_t words[WORDS];
        UNROLL for (int w = 0; w < WORDS / 2; ++w) {
          words[w] = device::pack<T>(o[2 * w][2 * half] * over, o[2 * w + 1][2 * half] * over);
          words[WORDS / 2 + w] = device::pack<T>(o[2 * w][2 * half + 1] * over, o[2 * w + 1][2 * half + 1] * over);
        }
        char* out = static_cast<char*>(a.out) + (head * D + quad * D / 4) * BYTES;
        store_words(device::at_row(out, rows.of(2 * m + half, group), part), words, 16 * m + 8 * half + group < tokens);
      }
    }
  }
}

}  // namespace window_attention
