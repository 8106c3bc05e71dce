// Which of a kernel's copies is called: by the machine's instruction set, and by dtype.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

#include "isa.h"

// A statement: BY_ISA(chosen, kernel(arguments)). `isa()` itself may throw, and is called before threads are at work.
#if defined(__x86_64__)
#define BY_ISA(chosen, ...)                         \
  switch (chosen) {                                 \
    case Isa::avx512: avx512::__VA_ARGS__; break;   \
    case Isa::avx2: avx2::__VA_ARGS__; break;       \
    default: baseline::__VA_ARGS__;                 \
  }
#else
#define BY_ISA(chosen, ...) (void)(chosen), baseline::__VA_ARGS__
#endif

namespace esvit_fast {

template <typename T>
T* data(const torch::stable::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <typename T>
const T* data(const std::optional<torch::stable::Tensor>& x) {
  return x ? data<T>(*x) : nullptr;
}

// f(T{}, In{}) for tensors of dtype In that are computed with in T.
template <typename F>
void with_dtype(torch::headeronly::ScalarType dtype, F f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Double: return f(double{}, double{});
    case ScalarType::Float: return f(float{}, float{});
    case ScalarType::Half: return f(float{}, torch::headeronly::Half{});
    case ScalarType::BFloat16: return f(float{}, torch::headeronly::BFloat16{});
    default: STD_TORCH_CHECK(false, "kernels on the CPU take float64, float32, float16 and bfloat16");
  }
}

// The same for tensors of the dtype that is computed in: f(T{}).
template <typename F>
void with_exact_dtype(torch::headeronly::ScalarType dtype, F f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    default: STD_TORCH_CHECK(false, "this is computed in float64 or float32");
  }
}

}  // namespace esvit_fast
