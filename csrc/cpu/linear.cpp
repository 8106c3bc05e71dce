// The weight gradient of a linear layer on CPUs: checks, the instruction set, and rows shared among threads.
#include "linear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <tuple>

#include "dispatch.h"

namespace esvit_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> linear_weight_gradient(Tensor grad, Tensor x) {
  STD_TORCH_CHECK(
      grad.dim() == 2 && x.dim() == 2 && grad.size(0) == x.size(0), "grad must be [tokens, outs] and x [tokens, ins]");
  STD_TORCH_CHECK(
      grad.scalar_type() == ScalarType::Float && x.scalar_type() == ScalarType::Float && grad.is_contiguous() &&
          x.is_contiguous(),
      "grad and x must be contiguous float32");
  const int64_t tokens = grad.size(0), outs = grad.size(1), ins = x.size(1);
  if (tokens == 0) return {torch::stable::new_zeros(x, {outs, ins}), torch::stable::new_zeros(x, {outs})};
  Tensor dweight = torch::stable::new_empty(x, {outs, ins}), dbias = torch::stable::new_empty(x, {outs});
  const float *from = data<float>(grad), *by = data<float>(x);
  float *to = data<float>(dweight), *sums = data<float>(dbias);
  constexpr int64_t strip = 24;
  const Isa chosen = isa();
  torch::stable::parallel_for(0, (outs + strip - 1) / strip, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * strip, end = last * strip < outs ? last * strip : outs;
    BY_ISA(chosen, linear_weight_gradient(from, by, to, sums, tokens, outs, ins, begin, end));
  });
  return {dweight, dbias};
}

}  // namespace esvit_fast
