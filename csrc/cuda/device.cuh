// All that device code may use of a GPU, so that it also runs thread by thread on a CPU, where csrc/host is the GPU.
//
// Fragments of `mma` and `ldmatrix` lie among the lanes of a warp as in the PTX ISA.
#pragma once

#ifdef __CUDACC__

#include <cstdint>

#include "types.cuh"

#define DEVICE __device__ __forceinline__
// A loop that is written out as many times as it turns, without which arrays are not in registers; one that is not.
#define UNROLL _Pragma("unroll")
#define ROLL _Pragma("unroll 1")

namespace device {

// The block's dynamic shared memory.
DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

DEVICE uint32_t shared_address(const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }

// base + row * row_bytes in one instruction, which the compiler does not take apart to share its parts.
template <class Pointer>
DEVICE Pointer at_row(Pointer base, uint32_t row, uint32_t row_bytes) {
  size_t address = __cvta_generic_to_global(base);
  asm volatile("mad.wide.u32 %0, %1, %2, %0;" : "+l"(address) : "r"(row), "r"(row_bytes));
  return static_cast<Pointer>(__cvta_global_to_generic(address));
}

DEVICE void assume(bool condition) { __builtin_assume(condition); }
DEVICE float infinity() { return __int_as_float(0x7f800000); }

// Two to the power of x; 0 for what is below the smallest normal number.
DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float as_float(uint32_t word) { return __uint_as_float(word); }
DEVICE uint32_t as_word(float x) { return __float_as_uint(x); }

DEVICE uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

// Two numbers in a word, rounded to nearest even.
template <class T>
DEVICE uint32_t pack(float low, float high);

template <>
DEVICE uint32_t pack<half>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <>
DEVICE uint32_t pack<bfloat16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

DEVICE float to_float(half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

DEVICE float to_float(bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <class T>
DEVICE T from_float(float x) {
  return {static_cast<uint16_t>(pack<T>(x, 0.0f))};
}

template <class T>
DEVICE float_2 unpack(uint32_t word) {
  return {to_float(T{static_cast<uint16_t>(word)}), to_float(T{static_cast<uint16_t>(word >> 16)})};
}

template <int BYTES>
DEVICE vector<BYTES> load(const void* from) {
  return *static_cast<const vector<BYTES>*>(from);
}

template <int BYTES>
DEVICE void store(void* to, vector<BYTES> value) {
  *static_cast<vector<BYTES>*>(to) = value;
}

template <int BYTES>
DEVICE vector<BYTES> load_shared(const void* from) {
  return *static_cast<const vector<BYTES>*>(from);
}

template <int BYTES>
DEVICE void store_shared(void* to, vector<BYTES> value) {
  *static_cast<vector<BYTES>*>(to) = value;
}

#define MMA_K16(TYPE)                                                                                      \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                               \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                               \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define MMA_K8(TYPE)                                                                                       \
  asm("mma.sync.aligned.m16n8k8.row.col.f32." TYPE "." TYPE                                                \
      ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                           \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
      : "r"(a[0]), "r"(a[1]), "r"(b[0]))

// d += a b
template <class T>
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
DEVICE void mma_m16n8k16<half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MMA_K16("f16");
}

template <>
DEVICE void mma_m16n8k16<bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MMA_K16("bf16");
}

template <class T>
DEVICE void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]);

template <>
DEVICE void mma_m16n8k8<half>(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  MMA_K8("f16");
}

template <>
DEVICE void mma_m16n8k8<bfloat16>(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  MMA_K8("bf16");
}

#undef MMA_K16
#undef MMA_K8

// The 8 x 8 matrices of 16-bit numbers whose rows lanes 0-7, 8-15, … point to; the memory clobber keeps them after
// the stores before them.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

// Global to shared memory, read there after `wait` and a barrier; zeros where not real, and then nothing is read.
template <int BYTES>
DEVICE void copy_async(void* shared, const void* global, bool real) {
  const int bytes = real ? BYTES : 0;
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(BYTES),
                 "r"(bytes)
                 : "memory");
  }
}

// What was copied since the last commit is a group.
DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until no more than N of this thread's groups are under way.
template <int N>
DEVICE void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace device

#else
#include "../host/device.h"
#endif
