// Cross-entropy of pairs of logits on CPUs: checks, the instruction set, and rows shared among threads.
#include "soft_cross_entropy.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <tuple>

#include "isa.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <typename T, typename In, typename F>
void each_isa(F f) {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return f(avx512::teach<T, In>, avx512::use<T, In>, avx512::learn<T, In>);
    case Isa::avx2: return f(avx2::teach<T, In>, avx2::use<T, In>, avx2::learn<T, In>);
#endif
    default: return f(baseline::teach<T, In>, baseline::use<T, In>, baseline::learn<T, In>);
  }
}

}  // namespace

// student [R, K], teacher [M, K], center [K]; pairs sorted by the student's row: those of row r are [start[r],
// start[r + 1]) of the teacher's rows `row` and of `weight`. Returns each student's row's loss [R]; of the teacher's
// rows log of the sum of exponentials relative to the highest, entropy and first prototype that has the highest score
// [M]; and how much of all of them each prototype has [K]. The derivative of the sum of losses is written to `gradient`, which may be `student`.
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
  const auto run = [&](auto zero, auto given) {
    using T = decltype(zero);
    using In = decltype(given);
    const SoftCrossEntropy<T> p{
        prototypes, data<T>(center), T(1 / student_temp), T(1 / teacher_temp), data<T>(log_total), data<T>(entropy),
        data<T>(most), data<T>(inverse), data<int64_t>(best), data<int64_t>(start), data<int64_t>(row), data<T>(weight)};
    const In *s = data<In>(student), *t = data<In>(teacher);
    In* to = gradient ? data<In>(*gradient) : nullptr;
    constexpr int64_t block = 1024;
    each_isa<T, In>([&](auto teach, auto use, auto learn) {
      torch::stable::parallel_for(0, teachers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) teach(p, t, m);
      });
      torch::stable::parallel_for(0, (prototypes + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          use(p, t, teachers, data<T>(usage), b * block, std::min(prototypes, (b + 1) * block));
        }
      });
      torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) data<T>(loss)[r] = learn(p, s, t, to, r);
      });
    });
  };
  switch (in) {
    case ScalarType::Double: run(double{}, double{}); break;
    case ScalarType::Float: run(float{}, float{}); break;
    case ScalarType::Half: run(float{}, torch::headeronly::Half{}); break;
    case ScalarType::BFloat16: run(float{}, torch::headeronly::BFloat16{}); break;
    default: STD_TORCH_CHECK(false, "logits on the CPU are float64, float32, float16 or bfloat16");
  }
  return {loss, log_total, entropy, best, usage};
}

}  // namespace esvit_fast
