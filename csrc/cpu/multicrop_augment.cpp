// Augmentation of crops on CPUs: checks, the instruction set, and samples shared among threads.
#include "multicrop_augment.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "dispatch.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t COLUMNS = 9;

Augmentation read(const float* row) {
  Augmentation a{row[0] != 0, {0, 1, 2, 3}, row[1] >= 0 ? 4 : 0, row[2], row[3], row[4], row[5], row[6] != 0, row[7],
                 row[8] != 0};
  // the orders are numbered as permutations follow each other
  for (int i = 0; i < row[1] && i < 23; ++i) std::next_permutation(a.order, a.order + 4);
  return a;
}

template <typename Out>
void run(const MulticropAugment<Out>& p, const float* parameters, int64_t samples) {
  const Isa chosen = isa();
  torch::stable::parallel_for(0, samples, 1, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) {
      BY_ISA(chosen, augment<Out>(p, read(parameters + sample * COLUMNS), sample));
    }
  });
}

}  // namespace

// images [samples, 3, height, width], parameters [samples, 9], levels [2, 3]: the mean that is subtracted from levels
// of 0 to 255, and what they are then multiplied by.
Tensor multicrop_augment(Tensor images, Tensor parameters, Tensor levels, int64_t radius, ScalarType dtype) {
  STD_TORCH_CHECK(
      images.scalar_type() == ScalarType::Byte && images.dim() == 4 && images.size(1) == 3 && images.is_contiguous() &&
          parameters.scalar_type() == ScalarType::Float && parameters.is_contiguous() && parameters.dim() == 2 &&
          parameters.size(0) == images.size(0) && parameters.size(1) == COLUMNS &&
          levels.scalar_type() == ScalarType::Float && levels.is_contiguous() && levels.numel() == 6 && radius >= 0,
      "images, parameters and levels do not fit together");
  const int64_t samples = images.size(0), height = images.size(2), width = images.size(3);
  Tensor out = torch::stable::new_empty(images, {samples, 3, height, width}, dtype);
  const float* level = data<float>(levels);
  const float* rows = data<float>(parameters);
  with_dtype(dtype, [&](auto, auto zero) {
    using Out = decltype(zero);
    if constexpr (!std::is_same_v<Out, double>) {
      const MulticropAugment<Out> p{
          height, width, radius, data<uint8_t>(images), {level[0], level[1], level[2]},
          {level[3], level[4], level[5]}, data<Out>(out)};
      run(p, rows, samples);
    } else {
      STD_TORCH_CHECK(false, "views are computed in float32");
    }
  });
  return out;
}

}  // namespace esvit_fast
