// Right kernels: a sum over a block, and a product of matrices on tensor cores with two stages of asynchronous copies.
#pragma once

#include "../../csrc/cuda/device.cuh"

struct SumArguments {
  const float* x;
  float* sums;
  int count;
};

DEVICE void block_sum(SumArguments to) {
  float* shared = reinterpret_cast<float*>(device::shared_memory());
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < to.count ? to.x[i] : 0;
  for (int distance = 16; distance; distance /= 2) sum += __shfl_down_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  for (unsigned half = blockDim.x / 64; half; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) to.sums[blockIdx.x] = shared[0];
}

template <class T>
struct ProductArguments {
  const T *a, *b;  // [m, k], [n, k]
  float* d;        // [m, n]
  int m, n, k;     // k is a multiple of 8
};

enum class Bug { none, swapped_fragment, early_wait, missing_barrier, row_behind };

// A block of two warps has 32 rows and 16 columns; k advances by 16.
template <class T, Bug bug>
DEVICE void product(ProductArguments<T> to) {
  constexpr int stride = 24, tile = 48 * stride;  // rows of 16 and a pad, of A and then of B
  T* shared = reinterpret_cast<T*>(device::shared_memory());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int across = (to.n + 15) / 16, steps = (to.k + 15) / 16;
  const int row = static_cast<int>(blockIdx.x) / across * 32, column = static_cast<int>(blockIdx.x) % across * 16;

  const auto copy = [&](int step) {
    for (int i = threadIdx.x; i < 96; i += 64) {
      const int r = i / 2, k = step * 16 + i % 2 * 8;
      const bool of_a = r < 32;
      const int at = of_a ? row + r : column + r - 32;
      const int rows = of_a ? to.m + (bug == Bug::row_behind) : to.n;
      const T* from = (of_a ? to.a : to.b) + static_cast<int64_t>(at) * to.k + k;
      const bool real = at < rows && k < to.k;
      device::copy_async<16>(shared + step % 2 * tile + r * stride + i % 2 * 8, from, real);  // seen: copies
    }
    device::commit();
  };

  float d[2][4] = {};
  copy(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy(step + 1);
      device::wait<bug == Bug::early_wait ? 2 : 1>();
    } else {
      device::wait<0>();
    }
    __syncthreads();
    const T* stage = shared + step % 2 * tile;
    uint32_t a[4], b[2];
    device::ldmatrix_x4(a, stage + (warp * 16 + lane % 16) * stride + lane / 16 * 8);  // seen: early_wait
    if (bug == Bug::swapped_fragment) {
      const uint32_t kept = a[1];
      a[1] = a[2];
      a[2] = kept;
    }
    for (int half = 0; half < 2; ++half) {
      device::ldmatrix_x2(b, stage + (32 + half * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
      device::mma_m16n8k16<T>(d[half], a, b);
    }
    if (bug != Bug::missing_barrier) __syncthreads();
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) {
      const int r = row + warp * 16 + lane / 4 + i / 2 * 8, c = column + half * 8 + lane % 4 * 2 + i % 2;
      if (r < to.m && c < to.n) to.d[static_cast<int64_t>(r) * to.n + c] = d[half][i];
    }
  }
}
