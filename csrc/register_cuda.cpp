// Private operators that the Python implementations call; the public ones are defined in Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace esvit_fast {

using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cross_entropy(
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, double, double, Optional);
Tensor window_attention(Tensor, Tensor, Optional, Tensor, Tensor, double, int64_t);
std::tuple<Tensor, Tensor, Tensor> window_attention_backward(
    Tensor, Tensor, Tensor, Optional, Tensor, Tensor, double, int64_t);

}  // namespace esvit_fast

STABLE_TORCH_LIBRARY(esvit_fast_cuda, m) {
  m.def(
      "soft_cross_entropy(Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, "
      "float student_temp, float teacher_temp, Tensor(a!)? gradient) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "window_attention(Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor positions, Tensor shares, float scale, "
      "int key_tiles) -> Tensor");
  m.def(
      "window_attention_backward(Tensor grad, Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor positions, "
      "Tensor shares, float scale, int key_tiles) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(esvit_fast_cuda, CUDA, m) {
  m.impl("soft_cross_entropy", TORCH_BOX(&esvit_fast::soft_cross_entropy));
  m.impl("window_attention", TORCH_BOX(&esvit_fast::window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&esvit_fast::window_attention_backward));
}
