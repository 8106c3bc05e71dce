#pragma once
#include "../../csrc/cuda/device.cuh"
struct SumArguments { const float* x; float* sums; int count; };
template <bool planted>
DEVICE void block_sum(SumArguments to) {
  float* shared = reinterpret_cast<float*>(device::shared_memory());
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = i < unsigned(to.count) ? to.x[i] : 0;
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  if (!planted) __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) all += shared[w];
    to.sums[blockIdx.x] = all;
  }
}
