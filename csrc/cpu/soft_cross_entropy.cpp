// Cross-entropy of pairs of logits on CPUs: checks, the instruction set, and rows shared among threads.
#include "soft_cross_entropy.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "dispatch.h"

namespace esvit_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// student [R, K], teacher [M, K], center [K]; pairs sorted by the student's row: those of row r are [start[r],
// start[r + 1]) of the teacher's rows `row` and of `weight`. Returns each student's row's loss [R]; of the teacher's
// rows log of the sum of exponentials relative to the highest, entropy and first prototype that has the highest score
// [M]; and how much of all of them each prototype has [K]. The derivative of the sum of losses is written to
// `gradient`, which may be `student`.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_cross_entropy(
    Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, double student_temp,
    double teacher_temp, std::optional<Tensor> gradient) {
  const ScalarType in = student.scalar_type();
  const ScalarType computed = in == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      student.dim() == 2 && teacher.dim() == 2 && center.dim() == 1 && student.size(1) == teacher.size(1) &&
          center.size(0) == student.size(1) && teacher.scalar_type() == in && center.scalar_type() == computed &&
          weight.scalar_type() == computed && start.scalar_type() == ScalarType::Long &&
          row.scalar_type() == ScalarType::Long && start.numel() == student.size(0) + 1 &&
          row.numel() == weight.numel() && student.is_contiguous() && teacher.is_contiguous() &&
          center.is_contiguous() && start.is_contiguous() && row.is_contiguous() && weight.is_contiguous() &&
          (!gradient || (gradient->scalar_type() == in && gradient->is_contiguous() &&
                         gradient->numel() == student.numel())),
      "student, teacher, center, pairs and gradient do not fit together");
  const int64_t rows = student.size(0), teachers = teacher.size(0), prototypes = student.size(1);
  const int64_t *first_pair = data<int64_t>(start), *of_teacher = data<int64_t>(row), pairs = row.numel();
  bool inside = first_pair[0] == 0 && first_pair[rows] == pairs;
  for (int64_t r = 0; r < rows; ++r) inside = inside && first_pair[r] <= first_pair[r + 1];
  for (int64_t i = 0; i < pairs; ++i) inside = inside && of_teacher[i] >= 0 && of_teacher[i] < teachers;
  STD_TORCH_CHECK(inside, "pairs have rows that are out of range");
  const auto new_empty = [&](int64_t count, ScalarType dtype) {
    return torch::stable::new_empty(student, {count}, dtype);
  };
  Tensor loss = new_empty(rows, computed), log_total = new_empty(teachers, computed);
  Tensor entropy = new_empty(teachers, computed), most = new_empty(teachers, computed);
  Tensor inverse = new_empty(teachers, computed);
  Tensor best = new_empty(teachers, ScalarType::Long), usage = new_empty(prototypes, computed);
  const Isa chosen = isa();
  with_dtype(in, [&](auto compute, auto given) {
    using T = decltype(compute);
    using In = decltype(given);
    const SoftCrossEntropy<T> p{
        prototypes, data<T>(center), T(1 / student_temp), T(1 / teacher_temp), data<T>(log_total), data<T>(entropy),
        data<T>(most), data<T>(inverse), data<int64_t>(best), first_pair, of_teacher, data<T>(weight)};
    const In *s = data<In>(student), *t = data<In>(teacher);
    In* to = gradient ? data<In>(*gradient) : nullptr;
    T *used = data<T>(usage), *losses = data<T>(loss);
    constexpr int64_t block = decltype(p)::block;
    torch::stable::parallel_for(0, teachers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) BY_ISA(chosen, teach(p, t, m));
    });
    torch::stable::parallel_for(0, (prototypes + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        BY_ISA(chosen, use(p, t, teachers, used, b * block, std::min(prototypes, (b + 1) * block)));
      }
    });
    torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) BY_ISA(chosen, learn(p, s, t, to, losses, r));
    });
  });
  return {loss, log_total, entropy, best, usage};
}

}  // namespace esvit_fast
