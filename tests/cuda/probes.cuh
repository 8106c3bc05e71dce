// One intrinsic each, from memory to memory.
#pragma once

#include "../../csrc/cuda/device.cuh"

namespace probes {

DEVICE int index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

struct Words {
  const uint32_t *a, *b, *c;
  uint32_t* to;
};

// to[lane] is what the lane holds after the shuffles by c[0] and the votes on a's lowest bit: [9, lanes].
DEVICE void lanes(Words with) {
  constexpr unsigned all = 0xffffffffu;
  const uint32_t mine = with.a[index()];
  const int by = static_cast<int>(with.c[0]);
  const unsigned half = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  with.to[index()] = __shfl_sync(all, mine, by);
  with.to[32 + index()] = __shfl_xor_sync(all, mine, by);
  with.to[64 + index()] = __shfl_down_sync(all, mine, static_cast<unsigned>(by));
  with.to[96 + index()] = device::as_word(__shfl_xor_sync(all, device::as_float(mine), by));
  with.to[128 + index()] = __ballot_sync(all, mine & 1);
  with.to[160 + index()] = __any_sync(all, mine & 1);
  with.to[192 + index()] = __all_sync(all, mine & 1);
  with.to[224 + index()] = __ballot_sync(half, mine & 1);
  with.to[256 + index()] = __shfl_sync(all, mine, static_cast<int>(with.b[index()]));
}

DEVICE void byte_perm(Words with) {
  with.to[index()] = device::byte_perm(with.a[index()], with.b[index()], with.c[index()]);
}

struct Numbers {
  const float* x;
  float* to;
};

DEVICE void approximations(Numbers with) {
  const int count = static_cast<int>(gridDim.x * blockDim.x);
  const float x = with.x[index()];
  with.to[index()] = device::exp2(x);
  with.to[count + index()] = device::reciprocal(x);
}

// to = pack(x, y) as words; back = what unpack makes of them.
struct Packing {
  const float *x, *y;
  uint32_t* to;
  float* back;
};

template <class T>
DEVICE void pack(Packing with) {
  const uint32_t both = device::pack<T>(with.x[index()], with.y[index()]);
  const device::float_2 back = device::unpack<T>(both);
  with.to[index()] = both;
  with.back[2 * index()] = back.x;
  with.back[2 * index() + 1] = back.y;
}

template <class T>
struct Conversion {
  const T* x;
  float* to;
  T* back;
};

template <class T>
DEVICE void convert(Conversion<T> with) {
  with.to[index()] = device::to_float(with.x[index()]);
  with.back[index()] = device::from_float<T>(with.to[index()]);
}

// Fragments as they are: a [32, 4] or [32, 2], b [32, 2] or [32, 1], d [32, 4].
struct Fragments {
  const uint32_t *a, *b;
  float* d;
};

template <class T>
DEVICE void mma_k16(Fragments with) {
  const int lane = index();
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = with.a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) b[i] = with.b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) d[i] = with.d[lane * 4 + i];
  device::mma_m16n8k16<T>(d, a, b);
  for (int i = 0; i < 4; ++i) with.d[lane * 4 + i] = d[i];
}

template <class T>
DEVICE void mma_k8(Fragments with) {
  const int lane = index();
  const uint32_t a[2] = {with.a[lane * 2], with.a[lane * 2 + 1]}, b[1] = {with.b[lane]};
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = with.d[lane * 4 + i];
  device::mma_m16n8k8<T>(d, a, b);
  for (int i = 0; i < 4; ++i) with.d[lane * 4 + i] = d[i];
}

// Rows of 16 bytes, 32 of them, in `a`; lane l points to row b[l]. to: x4, x4 transposed, x2, x2 transposed.
DEVICE void ldmatrix(Words with) {
  char* shared = device::shared_memory();
  const int lane = index();
  device::store_shared<16>(shared + lane * 16, device::load<16>(with.a + lane * 4));
  __syncwarp();
  const char* row = shared + with.b[lane] * 16;
  uint32_t four[4], two[2];
  device::ldmatrix_x4(four, row);
  for (int i = 0; i < 4; ++i) with.to[lane * 12 + i] = four[i];
  device::ldmatrix_x4_trans(four, row);
  for (int i = 0; i < 4; ++i) with.to[lane * 12 + 4 + i] = four[i];
  device::ldmatrix_x2(two, row);
  for (int i = 0; i < 2; ++i) with.to[lane * 12 + 8 + i] = two[i];
  device::ldmatrix_x2_trans(two, row);
  for (int i = 0; i < 2; ++i) with.to[lane * 12 + 10 + i] = two[i];
}

// Copies of `bytes` each, of which every third is not real and points nowhere.
template <int bytes>
DEVICE void copy(Words with) {
  char* shared = device::shared_memory();
  const int i = index(), words = bytes / 4;
  const bool real = i % 3 != 1;
  device::copy_async<bytes>(shared + i * bytes, real ? with.a + i * words : nullptr, real);
  device::commit();
  device::wait<0>();
  __syncthreads();
  const int other = static_cast<int>(blockDim.x) - 1 - i;
  device::store<bytes>(with.to + other * words, device::load_shared<bytes>(shared + other * bytes));
}

}  // namespace probes
