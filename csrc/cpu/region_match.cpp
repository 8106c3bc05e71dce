// Matching regions on CPUs: checks, the instruction set, and images shared among threads.
#include "region_match.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "dispatch.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T, typename R>
void run(const RegionMatch<T>& p) {
  const Isa chosen = isa();
  torch::stable::parallel_for(0, p.batch * p.views, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      BY_ISA(chosen, match<T, R>(p, task / p.views, task % p.views));
    }
  });
}

}  // namespace

// student [batch, tokens, channels], teacher [batch, views, candidates, channels]: index, similarity and margin to the
// second best, [batch, views, tokens]. Numbers are rounded to `rounding` before they are compared.
std::tuple<Tensor, Tensor, Tensor> region_match(Tensor student, Tensor teacher, std::optional<ScalarType> rounding) {
  const ScalarType dtype = student.scalar_type();
  STD_TORCH_CHECK(
      student.dim() == 3 && teacher.dim() == 4 && teacher.scalar_type() == dtype && student.is_contiguous() &&
          teacher.is_contiguous() && student.size(0) == teacher.size(0) && student.size(2) == teacher.size(3) &&
          teacher.size(2) > 0,
      "student and teacher do not fit together");
  const int64_t batch = student.size(0), tokens = student.size(1), views = teacher.size(1);
  Tensor index = torch::stable::new_empty(student, {batch, views, tokens}, ScalarType::Long);
  Tensor similarity = torch::stable::new_empty(student, {batch, views, tokens});
  Tensor margin = torch::stable::new_empty(student, {batch, views, tokens});
  with_exact_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const RegionMatch<T> p{
        batch, views, tokens, teacher.size(2), student.size(2), data<T>(student),
        data<T>(teacher), data<int64_t>(index), data<T>(similarity), data<T>(margin)};
    if (!rounding) return run<T, T>(p);
    switch (*rounding) {
      case ScalarType::Double: return run<T, T>(p);
      case ScalarType::Float: return run<T, float>(p);
      case ScalarType::Half: return run<T, torch::headeronly::Half>(p);
      case ScalarType::BFloat16: return run<T, torch::headeronly::BFloat16>(p);
      default: STD_TORCH_CHECK(false, "numbers can be rounded to float32, float16 and bfloat16");
    }
  });
  return {index, similarity, margin};
}

}  // namespace esvit_fast
