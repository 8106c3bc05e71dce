// The intrinsics of csrc/cuda/device.cuh on the host.
#pragma once

#include <cmath>
#include <cstdint>

#include "executor.h"
#include "numbers.h"

#define DEVICE inline
#define UNROLL
#define ROLL
#define threadIdx ::host::indices.thread
#define blockIdx ::host::indices.block
#define blockDim ::host::indices.threads
#define gridDim ::host::indices.blocks

HOST_INLINE void __syncthreads() { host::synchronize_block(); }
HOST_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { host::synchronize_warp(mask); }

template <class T>
HOST_INLINE T __shfl_sync(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) == 4);
  const auto bits = __builtin_bit_cast(uint32_t, value);
  return __builtin_bit_cast(T, host::shuffle(host::Shuffle::from, mask, bits, static_cast<unsigned>(lane)));
}

template <class T>
HOST_INLINE T __shfl_xor_sync(unsigned mask, T value, int distance) {
  static_assert(sizeof(T) == 4);
  const auto bits = __builtin_bit_cast(uint32_t, value);
  return __builtin_bit_cast(T, host::shuffle(host::Shuffle::exclusive_or, mask, bits, static_cast<unsigned>(distance)));
}

template <class T>
HOST_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  static_assert(sizeof(T) == 4);
  return __builtin_bit_cast(
      T, host::shuffle(host::Shuffle::down, mask, __builtin_bit_cast(uint32_t, value), distance));
}

HOST_INLINE unsigned __ballot_sync(unsigned mask, int fact) { return host::vote(host::Vote::ballot, mask, fact != 0); }
HOST_INLINE int __any_sync(unsigned mask, int fact) { return host::vote(host::Vote::any, mask, fact != 0); }
HOST_INLINE int __all_sync(unsigned mask, int fact) { return host::vote(host::Vote::all, mask, fact != 0); }

template <class T>
HOST_INLINE T atomicAdd(T* to, T value) {
  return host::atomic_add(to, value);
}

namespace device {

HOST_INLINE char* shared_memory() { return host::shared_memory(); }

template <int bytes>
HOST_INLINE vector<bytes> load(const void* from) {
  return host::load<bytes>(from, host::Space::global);
}
template <int bytes>
HOST_INLINE vector<bytes> load_shared(const void* from) {
  return host::load<bytes>(from, host::Space::shared);
}
template <int bytes>
HOST_INLINE void store(void* to, vector<bytes> value) {
  host::store<bytes>(to, value, host::Space::global);
}
template <int bytes>
HOST_INLINE void store_shared(void* to, vector<bytes> value) {
  host::store<bytes>(to, value, host::Space::shared);
}

template <class T>
constexpr host::Format format_of = host::Format::half;
template <>
constexpr host::Format format_of<bfloat16> = host::Format::bfloat16;

template <class T>
HOST_INLINE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::mma(format_of<T>, 16, d, a, b);
}
template <class T>
HOST_INLINE void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  host::mma(format_of<T>, 8, d, a, b);
}

HOST_INLINE void ldmatrix_x4(uint32_t (&to)[4], const void* row) { host::load_matrices(to, row, 4, false); }
HOST_INLINE void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row) { host::load_matrices(to, row, 4, true); }
HOST_INLINE void ldmatrix_x2(uint32_t (&to)[2], const void* row) { host::load_matrices(to, row, 2, false); }
HOST_INLINE void ldmatrix_x2_trans(uint32_t (&to)[2], const void* row) { host::load_matrices(to, row, 2, true); }

template <int bytes>
HOST_INLINE void copy_async(void* to, const void* from, bool real) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  host::copy_async(to, from, bytes, real);
}
HOST_INLINE void commit() { host::commit(); }
template <int groups>
HOST_INLINE void wait() {
  host::wait(groups);
}

HOST_INLINE void assume(bool fact) { host::assume(fact); }
template <class Pointer>
HOST_INLINE Pointer at_row(Pointer base, uint32_t row, uint32_t row_bytes) {
  return reinterpret_cast<Pointer>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(row) * row_bytes);
}

HOST_INLINE float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
HOST_INLINE uint32_t as_word(float x) { return __builtin_bit_cast(uint32_t, x); }
HOST_INLINE float infinity() { return __builtin_inff(); }

// Subnormal numbers are zeros to the approximations below, coming and going.
HOST_INLINE float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
HOST_INLINE float exp2(float x) { return flushed(::exp2f(flushed(x))); }
HOST_INLINE float reciprocal(float x) { return flushed(1 / flushed(x)); }

// Each nibble of the selector picks one of eight bytes, a's and then b's; its highest bit repeats that byte's sign.
HOST_INLINE uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}

}  // namespace device
