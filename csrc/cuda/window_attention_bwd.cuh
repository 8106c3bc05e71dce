// The backward pass of window attention: a block attends in one window after another, each warp for 16 of its queries,
// then for 16 of its keys.
//
// A warp keeps the sums of its queries' rows of the tile's gradient in registers, for all windows of the share: their
// order, and so their bits, depend on nothing else. What a product of the second half needs of other warps' queries,
// weights and their derivatives, goes through shared memory.
#pragma once

#include "window_attention.cuh"

namespace window_attention {

// As of the forward pass. With two stages, the rows of the next window come while those of one are computed with.
template <class ELEMENT, int HEAD_DIM, int KEYS>
struct BackwardTraits {
  using Element = ELEMENT;
  static constexpr int head_dim = HEAD_DIM, keys = KEYS, stages = HEAD_DIM == 64 ? 1 : 2;
  static constexpr int warps = (KEYS + 1) / 2, rows = 16 * warps, threads = warps * LANES;
  // 8 or 12 warps have the registers of a multiprocessor
  static constexpr int blocks = (HEAD_DIM == 64 || KEYS == 8 ? 2 : 3) * 4 / warps;
  // an odd number of 16 bytes apart, rows beside each other lie in different banks
  static constexpr int pitch = 2 * HEAD_DIM + 16, weight_pitch = 16 * (KEYS | 1);
  static constexpr int tile_bytes = warps * KEYS * LANES * 16, weight_bytes = rows * weight_pitch;
  static constexpr int query_bytes = rows * pitch, key_bytes = 8 * KEYS * pitch;
  static constexpr int stage_bytes = 2 * (query_bytes + key_bytes) + rows * 4;
  // a row is so many times 16 bytes; a thread copies 16 bytes of so many rows, so many tokens apart
  static constexpr int chunks = HEAD_DIM / 8, copies = chunks / 2, apart = threads / chunks;
  static constexpr int pad_bytes = 2 * HEAD_DIM * 4;
  static constexpr int shared_bytes =
      tile_bytes + pad_bytes + 2 * weight_bytes + query_bytes + stages * stage_bytes;
};

// The rows of a window in shared memory, and where in the map they are.
template <class Traits>
struct Stage {
  char *q, *grad, *k, *v;
  uint32_t* rows;

  DEVICE explicit Stage(char* at)
      : q(at),
        grad(q + Traits::query_bytes),
        k(grad + Traits::query_bytes),
        v(k + Traits::key_bytes),
        rows(reinterpret_cast<uint32_t*>(v + Traits::key_bytes)) {}
};

// The rows of the map of the tokens that this thread copies; any row of it beyond the tokens.
template <class Traits>
DEVICE void find(uint32_t (&rows)[Traits::copies], const Arguments& a, const Share& share, int item) {
  const int32_t* places = a.positions + int64_t(share.begin + item % share.windows) * a.stride;
  const uint32_t image = uint32_t(item / share.windows) * a.area;
  UNROLL for (int c = 0; c < Traits::copies; ++c) {
    const int i = threadIdx.x / Traits::chunks + c * Traits::apart;
    rows[c] = image + (i < share.tokens ? places[i] : 0);
  }
}

// Copy a window's rows; zeros beyond tokens and keys.
template <class Traits>
DEVICE void fetch(
    const Stage<Traits>& to, const uint32_t (&rows)[Traits::copies], const Arguments& a, int tokens, int head) {
  const uint32_t part = a.channels * 2, chunk = threadIdx.x % Traits::chunks;
  const uint32_t from = (head * Traits::chunks + chunk) * 16;
  UNROLL for (int c = 0; c < Traits::copies; ++c) {
    const int i = threadIdx.x / Traits::chunks + c * Traits::apart, into = i * Traits::pitch + chunk * 16;
    const bool real = i < tokens;
    const char* token = device::at_row(static_cast<const char*>(a.qkv) + from, rows[c], 3 * part);
    device::copy_async<16>(to.q + into, token, real);
    device::copy_async<16>(
        to.grad + into, device::at_row(static_cast<const char*>(a.grad) + from, rows[c], part), real);
    if (i < 8 * Traits::keys) {
      const bool pad = i == tokens && a.pad_kv != nullptr;
      const char* key = pad ? static_cast<const char*>(a.pad_kv) + from : token + part;
      device::copy_async<16>(to.k + into, key, real || pad);
      device::copy_async<16>(to.v + into, key + part, real || pad);
    }
    if (chunk == 0) device::store_shared<4>(to.rows + i, {rows[c]});
  }
  device::commit();
}

// Rows `row` to row + 15, all channels, as the left operand: HEAD_DIM / 16 steps of the sum over channels.
template <int PITCH, int STEPS>
DEVICE void left_of(uint32_t (&a)[STEPS][4], const char* rows, int row, int lane) {
  const char* from = rows + (row + lane % 16) * PITCH + lane / 16 * 16;
  UNROLL for (int s = 0; s < STEPS; ++s) device::ldmatrix_x4(a[s], from + s * 32);
}

// p += the products of 16 rows `a` with each of 8 KEYS rows.
template <class Traits, int STEPS>
DEVICE void multiply_rows(float (&p)[Traits::keys][4], const uint32_t (&a)[STEPS][4], const char* rows, int lane) {
  UNROLL for (int n = 0; n < Traits::keys; ++n) {
    const char* from = rows + (8 * n + lane % 8) * Traits::pitch + lane / 8 * 16;
    if constexpr (STEPS == 1) {
      uint32_t b[2];
      device::ldmatrix_x2(b, from - lane / 16 * 32);
      device::mma_m16n8k16<typename Traits::Element>(p[n], a[0], b);
    } else {
      UNROLL for (int s = 0; s < STEPS; s += 2) {
        uint32_t b[4];
        device::ldmatrix_x4(b, from + s * 32);
        device::mma_m16n8k16<typename Traits::Element>(p[n], a[s], {b[0], b[1]});
        device::mma_m16n8k16<typename Traits::Element>(p[n], a[s + 1], {b[2], b[3]});
      }
    }
  }
}

// sum += a [16, 16] times 16 rows from `row` on, or times 8 of them where `a` has but 8 columns.
template <class Traits, int WORDS>
DEVICE void multiply_columns(
    float (&sum)[Traits::head_dim / 8][4], const uint32_t (&a)[WORDS], const char* rows, int row, int lane) {
  using T = typename Traits::Element;
  UNROLL for (int j = 0; j < Traits::head_dim / 8; j += 2) {
    if constexpr (WORDS == 4) {
      uint32_t b[4];
      device::ldmatrix_x4_trans(b, rows + (row + lane % 16) * Traits::pitch + (j + lane / 16) * 16);
      device::mma_m16n8k16<T>(sum[j], a, {b[0], b[1]});
      device::mma_m16n8k16<T>(sum[j + 1], a, {b[2], b[3]});
    } else {
      uint32_t b[2];
      device::ldmatrix_x2_trans(b, rows + (row + lane % 8) * Traits::pitch + (j + lane / 8 % 2) * 16);
      device::mma_m16n8k8<T>(sum[j], a, {b[0]});
      device::mma_m16n8k8<T>(sum[j + 1], a, {b[1]});
    }
  }
}

// Store 16 rows times `factor`, those of tokens `first` and after, by way of this warp's own shared memory. `to` are
// where this lane's 16 bytes go.
template <class Traits>
DEVICE void store_rows(
    char* const (&to)[Traits::copies], uint32_t offset, const float (&sum)[Traits::chunks][4], float factor, int first,
    int tokens, char* own, int lane) {
  using T = typename Traits::Element;
  __syncwarp();  // until all lanes have read what was there
  char* at = own + lane / 4 * Traits::pitch + lane % 4 * 4;
  UNROLL for (int j = 0; j < Traits::chunks; ++j) {
    device::store_shared<4>(at + 16 * j, {device::pack<T>(sum[j][0] * factor, sum[j][1] * factor)});
    device::store_shared<4>(at + 16 * j + 8 * Traits::pitch, {device::pack<T>(sum[j][2] * factor, sum[j][3] * factor)});
  }
  __syncwarp();
  UNROLL for (int c = 0; c < Traits::copies; ++c) {
    const int i = lane / Traits::chunks + c * (LANES / Traits::chunks);
    const auto words = device::load_shared<16>(own + i * Traits::pitch + lane % Traits::chunks * 16);
    if (first + i < tokens) device::store<16>(to[c] + offset, words);
  }
}

// Add row `tokens` of the sums of keys from 16 * warp on, times `factor`, to the sums of the virtual one.
template <int TILES>
DEVICE void add_virtual(float* to, const float (&sum)[TILES][4], float factor, int row, int lane) {
  UNROLL for (int half = 0; half < 2; ++half) {
    if (row == 8 * half + lane / 4) {
      UNROLL for (int j = 0; j < TILES; ++j) {
        UNROLL for (int e = 0; e < 2; ++e) {
          float* at = to + 8 * j + lane % 4 * 2 + e;
          const auto before = device::load_shared<4>(at);
          device::store_shared<4>(
              at, {device::as_word(fmaf(sum[j][2 * half + e], factor, device::as_float(before.word[0])))});
        }
      }
    }
  }
}

template <class Traits>
DEVICE void backward(Arguments a) {
  using T = typename Traits::Element;
  constexpr int D = Traits::head_dim, KEYS = Traits::keys, TILES = Traits::chunks;
  const int lane = threadIdx.x % LANES;
  const int warp = warp_of_block();
  const int head = blockIdx.x % a.heads, number = blockIdx.x / a.heads;
  const Share share = share_of(a.shares, number);
  const int tokens = share.tokens, row = 16 * warp;
  const bool has_queries = row < tokens, has_keys = row < tokens + (a.pad_kv != nullptr) && row < 8 * KEYS;

  // where this lane points to of 16 queries' weights of this warp's 16 keys; for the last 8 of an odd number of column
  // tiles, to these twice: what is made of them is not stored
  const int eight = 2 * warp + lane / 8 % 2;
  const int transposed = (lane / 16 * 8 + lane % 8) * Traits::weight_pitch + (eight < KEYS ? eight : KEYS - 1) * 16;

  char* memory = device::shared_memory();
  float* tile = reinterpret_cast<float*>(memory);
  float* dpad = reinterpret_cast<float*>(memory + Traits::tile_bytes);
  char* weights = memory + Traits::tile_bytes + Traits::pad_bytes;
  char* derivatives = weights + Traits::weight_bytes;
  char* own = derivatives + Traits::weight_bytes + row * Traits::pitch;
  char* stages = derivatives + Traits::weight_bytes + Traits::query_bytes;

  uint32_t rows[Traits::copies] = {};
  if (share.first < share.stop) {
    find<Traits>(rows, a, share, share.first);
    fetch(Stage<Traits>(stages), rows, a, tokens, head);
    if (share.first + share.step < share.stop) find<Traits>(rows, a, share, share.first + share.step);
  }
  stage_tile<KEYS>(tile, a, share.klass * a.heads + head, tokens, Traits::warps);
  for (int d = threadIdx.x; d < 2 * D; d += Traits::threads) device::store_shared<4>(dpad + d, {0});

  float dtile[KEYS][4] = {};
  int turn = 0;
  ROLL for (int item = share.first; item < share.stop; item += share.step) {
    const Stage<Traits> here(stages + turn * Traits::stage_bytes);
    device::wait<0>();
    __syncthreads();
    if constexpr (Traits::stages == 2) {
      turn ^= 1;
      if (item + share.step < share.stop) {
        fetch(Stage<Traits>(stages + turn * Traits::stage_bytes), rows, a, tokens, head);
        if (item + 2 * share.step < share.stop) find<Traits>(rows, a, share, item + 2 * share.step);
      }
    }
    const uint32_t part = a.channels * 2;
    char* to[Traits::copies];
    UNROLL for (int c = 0; c < Traits::copies; ++c) {
      const auto at = device::load_shared<4>(here.rows + row + lane / TILES + c * (LANES / TILES));
      to[c] = static_cast<char*>(a.dqkv) + (head * TILES + lane % TILES) * 16;
      to[c] = device::at_row(to[c], at.word[0], 3 * part);
    }
    if (has_queries) {
      float p[KEYS][4] = {}, ds[KEYS][4] = {};
      uint32_t left[D / 16][4];
      left_of<Traits::pitch>(left, here.q, row, lane);
      multiply_rows<Traits>(p, left, here.k, lane);
      float sum[2];
      weigh<KEYS>(p, sum, tile + (warp * KEYS * LANES + lane) * 4, a.scale * LOG2E);
      left_of<Traits::pitch>(left, here.grad, row, lane);
      multiply_rows<Traits>(ds, left, here.v, lane);
      const float over[2] = {device::reciprocal(sum[0]), device::reciprocal(sum[1])};
      float mean[2] = {0.0f, 0.0f};
      UNROLL for (int n = 0; n < KEYS; ++n) {
        UNROLL for (int e = 0; e < 4; ++e) {
          p[n][e] *= over[e / 2];
          mean[e / 2] = fmaf(p[n][e], ds[n][e], mean[e / 2]);
        }
      }
      mean[0] = sum_of_quad(mean[0]), mean[1] = sum_of_quad(mean[1]);
      const int at = (row + lane / 4) * Traits::weight_pitch + lane % 4 * 4;
      uint32_t rounded[KEYS][2];
      UNROLL for (int n = 0; n < KEYS; ++n) {
        UNROLL for (int e = 0; e < 4; ++e) {
          ds[n][e] = p[n][e] * (ds[n][e] - mean[e / 2]);
          dtile[n][e] += ds[n][e];
        }
        UNROLL for (int half = 0; half < 2; ++half) {
          const int to = at + 8 * half * Traits::weight_pitch + 16 * n;
          rounded[n][half] = device::pack<T>(ds[n][2 * half], ds[n][2 * half + 1]);
          device::store_shared<4>(weights + to, {device::pack<T>(p[n][2 * half], p[n][2 * half + 1])});
          device::store_shared<4>(derivatives + to, {rounded[n][half]});
        }
      }
      float dq[TILES][4] = {};
      UNROLL for (int n = 0; n < KEYS; n += 2) {
        if (n + 1 < KEYS) {
          const uint32_t both[4] = {rounded[n][0], rounded[n][1], rounded[n + 1][0], rounded[n + 1][1]};
          multiply_columns<Traits>(dq, both, here.k, 8 * n, lane);
        } else {
          multiply_columns<Traits>(dq, rounded[n], here.k, 8 * n, lane);
        }
      }
      store_rows<Traits>(to, 0, dq, a.scale, row, tokens, own, lane);
    }
    __syncthreads();
    if (has_keys) {
      float dk[TILES][4] = {}, dv[TILES][4] = {};
      UNROLL for (int i = 0; i < Traits::rows; i += 16) {
        if (i >= tokens) break;
        uint32_t p[4], ds[4];
        device::ldmatrix_x4_trans(p, weights + transposed + i * Traits::weight_pitch);
        device::ldmatrix_x4_trans(ds, derivatives + transposed + i * Traits::weight_pitch);
        multiply_columns<Traits>(dv, p, here.grad, i, lane);
        multiply_columns<Traits>(dk, ds, here.q, i, lane);
      }
      if (a.pad_kv != nullptr && tokens < 8 * KEYS) {
        add_virtual(dpad, dk, a.scale, tokens - row, lane);
        add_virtual(dpad + D, dv, 1.0f, tokens - row, lane);
      }
      store_rows<Traits>(to, part, dk, a.scale, row, tokens, own, lane);
      store_rows<Traits>(to, 2 * part, dv, 1.0f, row, tokens, own, lane);
    }
    if constexpr (Traits::stages == 1) {
      __syncthreads();
      if (item + share.step < share.stop) {
        fetch(here, rows, a, tokens, head);
        if (item + 2 * share.step < share.stop) find<Traits>(rows, a, share, item + 2 * share.step);
      }
    }
  }

  float* to = a.dtiles + (int64_t(number) * a.heads + head) * a.tile_rows * a.tile_columns;
  UNROLL for (int half = 0; half < 2; ++half) {
    const int i = row + 8 * half + lane / 4;
    if (i < a.tile_rows) {
      float* at = to + i * a.tile_columns + lane % 4 * 2;
      UNROLL for (int n = 0; n < KEYS; ++n) {
        const uint32_t low = device::as_word(dtile[n][2 * half]), high = device::as_word(dtile[n][2 * half + 1]);
        if (8 * n < a.tile_columns) device::store<8>(at + 8 * n, {low, high});
      }
      for (int j = 8 * KEYS; j < a.tile_columns; j += 8) device::store<8>(at + j, {0, 0});
    }
  }
  if (a.pad_kv != nullptr) {
    __syncthreads();
    for (int d = threadIdx.x; d < 2 * D; d += Traits::threads) {
      const auto sum = device::load_shared<4>(dpad + d);
      device::store<4>(a.dpad_kv + (int64_t(number) * 2 + d / D) * a.channels + head * D + d % D, sum);
    }
  }
}

}  // namespace window_attention
