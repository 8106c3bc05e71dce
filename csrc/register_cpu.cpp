// Private operators that the Python implementations call; the public ones are defined in Python.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

namespace esvit_fast {

using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

Tensor crop_resize(Tensor, Tensor);
Tensor linear(Tensor, Tensor, Optional, bool);
std::tuple<Tensor, Tensor> linear_weight_gradient(Tensor, Tensor);
Tensor multicrop_augment(Tensor, Tensor, Tensor, int64_t, torch::headeronly::ScalarType);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> prototype_assignment(
    Tensor, Tensor, Tensor, Optional, Optional, Optional, Optional, Optional, bool);
Tensor prototype_weight_norm_backward(Tensor, Tensor, Tensor, Tensor);
std::tuple<Tensor, Tensor, Tensor> region_match(Tensor, Tensor, std::optional<torch::headeronly::ScalarType>);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_cross_entropy(
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, double, double, Optional);
Tensor window_attention(Tensor, Tensor, Optional, Optional, Tensor, Tensor, int64_t, double);
std::tuple<Tensor, Tensor, Tensor, Tensor> window_attention_backward(
    Tensor, Tensor, Tensor, Optional, Optional, Tensor, Tensor, int64_t, double, int64_t);
Tensor window_attention_bias_backward(Tensor, Tensor, int64_t);

}  // namespace esvit_fast

STABLE_TORCH_LIBRARY(esvit_fast_cpu, m) {
  m.def("crop_resize(Tensor image, Tensor boxes) -> Tensor");
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, bool transposed) -> Tensor");
  m.def("linear_weight_gradient(Tensor grad, Tensor x) -> (Tensor, Tensor)");
  m.def(
      "multicrop_augment(Tensor images, Tensor parameters, Tensor levels, int radius, ScalarType dtype) -> Tensor");
  m.def(
      "prototype_assignment(Tensor rows, Tensor keys, Tensor key_scale, Tensor? key_bias, Tensor? values, "
      "Tensor? value_scale, Tensor? outer, Tensor(a!)? sum, bool fresh) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("prototype_weight_norm_backward(Tensor(a!) dweight, Tensor weight, Tensor g, Tensor length) -> Tensor");
  m.def("region_match(Tensor student, Tensor teacher, ScalarType? rounding) -> (Tensor, Tensor, Tensor)");
  m.def(
      "soft_cross_entropy(Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, "
      "float student_temp, float teacher_temp, Tensor(a!)? gradient) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "window_attention(Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor? cosine_scale, Tensor rows, Tensor columns, "
      "int column_kinds, float scale) -> Tensor");
  m.def(
      "window_attention_backward(Tensor grad, Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor? cosine_scale, "
      "Tensor rows, Tensor columns, int column_kinds, float scale, int shares) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("window_attention_bias_backward(Tensor grad, Tensor index, int rows) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(esvit_fast_cpu, CPU, m) {
  m.impl("crop_resize", TORCH_BOX(&esvit_fast::crop_resize));
  m.impl("linear", TORCH_BOX(&esvit_fast::linear));
  m.impl("linear_weight_gradient", TORCH_BOX(&esvit_fast::linear_weight_gradient));
  m.impl("multicrop_augment", TORCH_BOX(&esvit_fast::multicrop_augment));
  m.impl("prototype_assignment", TORCH_BOX(&esvit_fast::prototype_assignment));
  m.impl("prototype_weight_norm_backward", TORCH_BOX(&esvit_fast::prototype_weight_norm_backward));
  m.impl("region_match", TORCH_BOX(&esvit_fast::region_match));
  m.impl("soft_cross_entropy", TORCH_BOX(&esvit_fast::soft_cross_entropy));
  m.impl("window_attention", TORCH_BOX(&esvit_fast::window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&esvit_fast::window_attention_backward));
  m.impl("window_attention_bias_backward", TORCH_BOX(&esvit_fast::window_attention_bias_backward));
}
