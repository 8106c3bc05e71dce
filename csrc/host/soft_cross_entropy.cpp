// The kernels of csrc/cuda/soft_cross_entropy.cuh, for Python.
#include "../cuda/soft_cross_entropy.cuh"

namespace {

using host::Call;
using host::Kernel;
using host::Report;

soft_cross_entropy_kernels::Teacher teacher_of(const Call& call) {
  return {
      call.pointer<const void>("logits"), call.pointer<const float>("center"), call.pointer<float>("found"),
      call.pointer<int64_t>("best"),      call.pointer<float>("usage"),        call.scalar<int>("rows"),
      call.scalar<int>("count"),          call.scalar<float>("scale")};
}

template <class T>
std::vector<Report> rows(const Call& call) {
  const auto given = teacher_of(call);
  return call.launch([given] { soft_cross_entropy_kernels::rows<T>(given); });
}

template <class T>
std::vector<Report> usage(const Call& call) {
  const auto given = teacher_of(call);
  return call.launch([given] { soft_cross_entropy_kernels::usage<T>(given); });
}

template <class T>
std::vector<Report> loss(const Call& call) {
  const soft_cross_entropy_kernels::Student given = {
      call.pointer<const void>("logits"),
      call.pointer<const void>("teacher"),
      call.pointer<const float>("center"),
      call.pointer<const float>("found"),
      call.pointer<const int64_t>("start"),
      call.pointer<const int64_t>("teacher_row"),
      call.pointer<const float>("weight"),
      call.pointer<float>("loss"),
      call.pointer<void>(call.scalar<int>("in_place") ? "logits" : "gradient"),
      call.scalar<int>("teacher_rows"),
      call.scalar<int>("count"),
      call.scalar<float>("scale"),
      call.scalar<float>("teacher_scale")};
  return call.launch([given] { soft_cross_entropy_kernels::loss<T>(given); });
}

using device::bfloat16;
using device::half;
const Kernel rows_half("rows.float16", rows<half>), rows_bfloat16("rows.bfloat16", rows<bfloat16>);
const Kernel usage_half("usage.float16", usage<half>), usage_bfloat16("usage.bfloat16", usage<bfloat16>);
const Kernel loss_half("loss.float16", loss<half>), loss_bfloat16("loss.bfloat16", loss<bfloat16>);

}  // namespace
