// A linear layer and its weight gradient on CPUs: checks, the instruction set, and what is shared among threads.
#include "linear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "dispatch.h"

namespace esvit_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// x [tokens, ins] times weight, [outs, ins] if transposed, else [ins, outs]; and bias [outs].
Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias, bool transposed) {
  const auto fits = [](const Tensor& y) { return y.scalar_type() == ScalarType::Float && y.is_contiguous(); };
  STD_TORCH_CHECK(
      fits(x) && fits(weight) && x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(transposed) &&
          (!bias || (fits(*bias) && bias->dim() == 1 && bias->size(0) == weight.size(!transposed))),
      "x, weight and bias must be contiguous float32 and fit together");
  const int64_t tokens = x.size(0), ins = x.size(1), outs = weight.size(!transposed);
  Tensor out = torch::stable::new_empty(x, {tokens, outs});
  const Linear p{ins, outs, data<float>(weight), data<float>(bias), transposed};
  const float* from = data<float>(x);
  float* to = data<float>(out);
  // as many rows as stay in a cache while panels of the weight pass
  const int64_t most = std::clamp<int64_t>((1 << 18) / std::max<int64_t>(ins, 1), 256, 512);
  const int64_t panels = (outs + PANEL - 1) / PANEL;
  const int64_t parts = std::max<int64_t>((tokens + most - 1) / most, 1), rows = (tokens + parts - 1) / parts;
  const Isa chosen = isa();
  torch::stable::parallel_for(0, parts * panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / panels * rows, column = i % panels * PANEL;
      BY_ISA(chosen, linear_columns(
          p, std::min(rows, tokens - row), from + row * ins, to + row * outs, column, std::min(PANEL, outs - column)));
    }
  });
  return out;
}

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
