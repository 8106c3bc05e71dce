// How operators check what they are given, and launch kernels.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace esvit_fast {

template <class T>
T* data(const torch::stable::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

inline void check(const torch::stable::Tensor& x, const char* name, const torch::stable::Tensor& beside) {
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == beside.get_device_index(), name, " must be where others are");
  STD_TORCH_CHECK(
      x.is_contiguous() && reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0, name,
      " must be contiguous and begin at a multiple of 16 bytes");
}

// On the current stream of the device that `beside` is on, which a guard has made the current one.
template <class Arguments>
void launch(
    void (*kernel)(Arguments), int64_t blocks, int threads, int shared_bytes, const torch::stable::Tensor& beside,
    const Arguments& arguments) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "there are more blocks than a grid may have");
  if (blocks == 0) return;
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(beside.get_device_index(), &stream));
  if (shared_bytes > 48 * 1024) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace esvit_fast
