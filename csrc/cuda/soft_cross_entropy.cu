// The operator on GPUs: checks, and launches.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "launch.h"
#include "soft_cross_entropy.cuh"

namespace soft_cross_entropy_kernels {

// Threads are in a kernel's name, where the manifest reads them.
template <class T, int THREADS>
__global__ void __launch_bounds__(THREADS) soft_cross_entropy_rows(Teacher given) {
  rows<T>(given);
}

template <class T, int THREADS>
__global__ void __launch_bounds__(THREADS) soft_cross_entropy_usage(Teacher given) {
  usage<T>(given);
}

template <class T, int THREADS>
__global__ void __launch_bounds__(THREADS) soft_cross_entropy_loss(Student given) {
  loss<T>(given);
}

}  // namespace soft_cross_entropy_kernels

namespace esvit_fast {
namespace {

using soft_cross_entropy_kernels::Student;
using soft_cross_entropy_kernels::Teacher;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
void run(const Teacher& teacher, const Student& student, int64_t rows, const Tensor& beside) {
  using namespace soft_cross_entropy_kernels;
  constexpr int of_row = 1024, of_columns = 256;
  const int shared = shared_bytes(student.count, of_row);
  const int64_t blocks = (teacher.count / 2 + of_columns - 1) / of_columns;
  launch(soft_cross_entropy_rows<T, of_row>, teacher.rows, of_row, shared, beside, teacher);
  launch(soft_cross_entropy_usage<T, of_columns>, blocks, of_columns, 0, beside, teacher);
  launch(soft_cross_entropy_loss<T, of_row>, rows, of_row, shared, beside, student);
}

}  // namespace

// As the CPU's, but that of the teacher's rows there is `found` [3, M]: the highest logit less the centre, the sum of
// exponentials relative to it, and entropy. Numbers in `start` and `row` are trusted.
std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cross_entropy(
    Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, double student_temp,
    double teacher_temp, std::optional<Tensor> gradient) {
  const ScalarType type = student.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Half || type == ScalarType::BFloat16, "logits must be half or bfloat16");
  STD_TORCH_CHECK(
      student.dim() == 2 && teacher.dim() == 2 && center.dim() == 1 && student.size(1) == teacher.size(1) &&
          center.size(0) == student.size(1) && teacher.scalar_type() == type &&
          center.scalar_type() == ScalarType::Float && weight.scalar_type() == ScalarType::Float &&
          start.scalar_type() == ScalarType::Long && row.scalar_type() == ScalarType::Long &&
          start.numel() == student.size(0) + 1 && row.numel() == weight.numel() &&
          (!gradient || (gradient->scalar_type() == type && gradient->numel() == student.numel())),
      "student, teacher, center, pairs and gradient do not fit together");
  const int64_t count = student.size(1), rows = student.size(0), teachers = teacher.size(0);
  STD_TORCH_CHECK(
      count % soft_cross_entropy_kernels::CHUNK == 0 && count < (1 << 24),
      "rows must have a multiple of 8 logits, and fewer than 2^24");
  STD_TORCH_CHECK(rows < (int64_t(1) << 31) && teachers < (int64_t(1) << 31), "there are more rows than are counted");
  check(student, "student", student), check(teacher, "teacher", student), check(center, "center", student);
  check(start, "start", student), check(row, "row", student), check(weight, "weight", student);
  if (gradient) check(*gradient, "gradient", student);
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  Tensor loss = torch::stable::new_empty(center, {rows}), found = torch::stable::new_empty(center, {3, teachers});
  Tensor usage = torch::stable::new_empty(center, {count}), best = torch::stable::new_empty(start, {teachers});
  const Teacher described = {
      teacher.data_ptr(),   data<float>(center), data<float>(found),    data<int64_t>(best),
      data<float>(usage),   static_cast<int>(teachers), static_cast<int>(count), static_cast<float>(1 / teacher_temp)};
  const Student learned = {
      student.data_ptr(),
      teacher.data_ptr(),
      data<float>(center),
      data<float>(found),
      data<int64_t>(start),
      data<int64_t>(row),
      data<float>(weight),
      data<float>(loss),
      gradient ? gradient->data_ptr() : nullptr,
      static_cast<int>(teachers),
      static_cast<int>(count),
      static_cast<float>(1 / student_temp),
      static_cast<float>(1 / teacher_temp)};
  if (type == ScalarType::Half) {
    run<device::half>(described, learned, rows, student);
  } else {
    run<device::bfloat16>(described, learned, rows, student);
  }
  return {loss, found, best, usage};
}

}  // namespace esvit_fast
