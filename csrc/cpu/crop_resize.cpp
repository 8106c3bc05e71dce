// Crops of an image, resized, on CPUs: checks, weights, the instruction set, and crops shared among threads.
#include "crop_resize.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>

#include "dispatch.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Keys's cubic convolution with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// Antialiased bicubic interpolation from `from` to `to` positions: weights, and their fixed point, as torch has them.
Resampling resampling(int64_t from, int64_t to) {
  const double scale = double(from) / to, stretch = std::max(scale, 1.0), support = 2 * stretch;
  const int64_t taps = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  Resampling made{taps, 0, std::vector<int32_t>(to * taps), {}, {}};
  std::vector<double> weights(to * taps);
  double largest = 0;
  for (int64_t i = 0; i < to; ++i) {
    const double center = scale * (i + 0.5);
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t end = std::min(static_cast<int64_t>(center + support + 0.5), from);
    const int64_t count = std::min(end - first, taps);
    double* weight = weights.data() + i * taps;
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      sum += weight[k] = cubic((k + first - center + 0.5) * (1 / stretch));
    }
    for (int64_t k = 0; k < count; ++k) largest = std::max(largest, weight[k] /= sum);
    made.first.push_back(first), made.count.push_back(count);
  }
  // as many bits as 16-bit weights allow
  while (made.bits < 22 && static_cast<int>(0.5 + largest * (1 << (made.bits + 1))) < 1 << 15) ++made.bits;
  for (int64_t i = 0; i < to * taps; ++i) {
    made.weight[i] = static_cast<int32_t>(weights[i] * (1 << made.bits) + (weights[i] < 0 ? -0.5 : 0.5));
  }
  return made;
}

}  // namespace

// image [height, width, 3], boxes [crops, 5] of (top, left, height, width, size): [3, size, size] each, one behind the
// other.
Tensor crop_resize(Tensor image, Tensor boxes) {
  STD_TORCH_CHECK(
      image.scalar_type() == ScalarType::Byte && image.dim() == 3 && image.size(2) == 3 && image.is_contiguous() &&
          boxes.scalar_type() == ScalarType::Long && boxes.dim() == 2 && boxes.size(1) == 5 && boxes.is_contiguous(),
      "image and boxes do not fit together");
  const int64_t height = image.size(0), width = image.size(1), crops = boxes.size(0);
  const int64_t* box = data<const int64_t>(boxes);
  std::vector<int64_t> begin(crops + 1);
  for (int64_t i = 0; i < crops; ++i) {
    const auto [top, left, h, w, size] = reinterpret_cast<const int64_t(&)[5]>(box[5 * i]);
    STD_TORCH_CHECK(
        top >= 0 && left >= 0 && h > 0 && w > 0 && size > 0 && top + h <= height && left + w <= width,
        "a box lies outside of the image");
    begin[i + 1] = begin[i] + 3 * size * size;
  }
  Tensor out = torch::stable::new_empty(image, {begin[crops]});
  const Isa chosen = isa();
  const int64_t stride = whole(height, SLACK) + SLACK;
  const std::unique_ptr<uint8_t[]> columns(new uint8_t[whole(3 * width, 16) * stride]);
  BY_ISA(chosen, transpose_bytes(
      columns.get(), stride, data<const uint8_t>(image), 3 * width, height, 3 * width));
  uint8_t* to = data<uint8_t>(out);
  torch::stable::parallel_for(0, crops, 1, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const auto [top, left, h, w, size] = reinterpret_cast<const int64_t(&)[5]>(box[5 * i]);
      const Crop crop{columns.get(), stride, top, left, h, size, resampling(w, size), resampling(h, size), to + begin[i]};
      BY_ISA(chosen, resize(crop));
    }
  });
  return out;
}

}  // namespace esvit_fast
