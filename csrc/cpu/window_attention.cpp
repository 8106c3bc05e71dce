// The operator on CPUs: checks, the instruction set, and work shared among threads.
#include "window_attention.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "dispatch.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

template <typename T>
constexpr ScalarType computed = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

// Where the parts of a call lie, once they fit together. The numbers in rows and columns are trusted.
template <typename T>
WindowAttention<T> describe(
    const Tensor& qkv, const Tensor& tiles, const Optional& pad_kv, const Optional& cosine_scale, const Tensor& rows,
    const Tensor& columns, int64_t column_kinds, double scale) {
  STD_TORCH_CHECK(
      qkv.dim() == 4 && tiles.dim() == 4 && tiles.size(1) > 0 && qkv.size(3) % (3 * tiles.size(1)) == 0,
      "qkv and tiles do not fit together");
  STD_TORCH_CHECK(tiles.scalar_type() == computed<T>, "tiles must have the dtype that is computed in");
  STD_TORCH_CHECK(tiles.size(3) % 16 == 0, "tiles must have a multiple of 16 columns");
  STD_TORCH_CHECK(
      !pad_kv || (pad_kv->scalar_type() == computed<T> && 3 * pad_kv->numel() == 2 * qkv.size(3)),
      "pad_kv must have the dtype that is computed in, and 2 C elements");
  STD_TORCH_CHECK(
      !cosine_scale || (cosine_scale->scalar_type() == computed<T> && cosine_scale->numel() == tiles.size(1)),
      "cosine_scale must have the dtype that is computed in, and an element for each head");
  STD_TORCH_CHECK(
      rows.scalar_type() == ScalarType::Int && columns.scalar_type() == ScalarType::Int && rows.dim() == 2 &&
          columns.dim() == 2 && rows.size(1) > 2 && columns.size(1) > 2 && rows.is_contiguous() &&
          columns.is_contiguous(),
      "rows and columns must be contiguous int32 [windows, 2 + window]");
  STD_TORCH_CHECK(
      qkv.is_contiguous() && tiles.is_contiguous() && (!pad_kv || pad_kv->is_contiguous()) &&
          (!cosine_scale || cosine_scale->is_contiguous()),
      "a tensor is not contiguous");
  WindowAttention<T> p{};
  p.batch = qkv.size(0), p.height = qkv.size(1), p.width = qkv.size(2), p.channels = qkv.size(3) / 3;
  p.classes = tiles.size(0), p.heads = tiles.size(1), p.tile_rows = tiles.size(2), p.tile_columns = tiles.size(3);
  p.head_dim = p.channels / p.heads;
  p.window_y = rows.size(1) - 2, p.window_x = columns.size(1) - 2;
  p.windows_x = columns.size(0), p.windows = rows.size(0) * p.windows_x;
  p.row_axis = data<int32_t>(rows);
  p.column_axis = data<int32_t>(columns);
  p.column_kinds = column_kinds;
  p.tiles = data<T>(tiles);
  p.pad_kv = data<T>(pad_kv);
  p.cosine_scale = data<T>(cosine_scale);
  p.scale = static_cast<T>(scale);
  return p;
}

// How many groups the heads make: what is gathered of a group stays in a core's cache, and there is work for all
// threads where windows alone are too few. No result depends on it.
template <typename T>
int64_t head_groups(const WindowAttention<T>& p, int64_t tasks) {
  const int64_t bytes_of_head = 7 * p.tile_rows * p.head_dim * int64_t(sizeof(T));
  const int64_t fit = std::max<int64_t>(1, 512 * 1024 / bytes_of_head);
  const int64_t wanted = 2 * int64_t(torch::stable::get_num_threads()) / std::max<int64_t>(1, tasks);
  return std::min(p.heads, std::max((p.heads + fit - 1) / fit, wanted));
}

template <typename T, typename In>
void run_forward(const WindowAttention<T>& p, const Tensor& qkv, Tensor& out) {
  const In* from = data<In>(qkv);
  In* to = data<In>(out);
  const int64_t total = p.batch * p.windows, groups = head_groups(p, total);
  const Isa chosen = isa();
  torch::stable::parallel_for(0, groups * total, 1, [&](int64_t first, int64_t last) {
    for (int64_t group = first / std::max<int64_t>(1, total); group * total < last; ++group) {
      const int64_t begin = group * p.heads / groups, end = (group + 1) * p.heads / groups;
      const int64_t from_window = std::max(first - group * total, int64_t(0));
      const int64_t to_window = std::min(last - group * total, total);
      BY_ISA(chosen, forward(p, from, to, begin, end, from_window, to_window));
    }
  });
}

// Each task has a group of heads and a fixed share of the windows, whatever the number of threads, and sums of its own;
// these are then added in the order of the shares: the same bits for any number of threads.
template <typename T, typename In>
void run_backward(
    const WindowAttention<T>& p, const Tensor& grad, const Tensor& qkv, Tensor& dqkv, T* dtiles, T* dpad_kv,
    T* dcosine_scale, int64_t shares) {
  const In *from = data<In>(qkv), *by = data<In>(grad);
  In* to = data<In>(dqkv);
  const int64_t total = p.batch * p.windows, groups = head_groups(p, shares);
  const int64_t tiles_of_share = p.heads * p.classes * p.tile_rows * p.tile_columns;
  const Isa chosen = isa();
  torch::stable::parallel_for(0, shares * groups, 1, [&](int64_t first_task, int64_t last_task) {
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t share = task / groups, group = task % groups;
      const int64_t begin = group * p.heads / groups, end = (group + 1) * p.heads / groups;
      const int64_t first = share * total / shares, last = (share + 1) * total / shares;
      T *dt = dtiles + share * tiles_of_share, *dp = dpad_kv + share * 2 * p.channels;
      T* dc = dcosine_scale + share * p.heads;
      BY_ISA(chosen, backward(p, from, by, to, dt, dp, dc, begin, end, first, last));
    }
  });
}

}  // namespace

Tensor window_attention(
    Tensor qkv, Tensor tiles, Optional pad_kv, Optional cosine_scale, Tensor rows, Tensor columns,
    int64_t column_kinds, double scale) {
  Tensor out = torch::stable::new_empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), qkv.size(3) / 3});
  with_dtype(qkv.scalar_type(), [&](auto compute, auto in) {
    using T = decltype(compute);
    const auto p = describe<T>(qkv, tiles, pad_kv, cosine_scale, rows, columns, column_kinds, scale);
    run_forward<T, decltype(in)>(p, qkv, out);
  });
  return out;
}

// Gradients of qkv, and of tiles, pad_kv and cosine_scale as sums of each share of the windows:
// [shares, heads, classes, rows, columns], [shares, 2 C] and [shares, heads].
std::tuple<Tensor, Tensor, Tensor, Tensor> window_attention_backward(
    Tensor grad, Tensor qkv, Tensor tiles, Optional pad_kv, Optional cosine_scale, Tensor rows, Tensor columns,
    int64_t column_kinds, double scale, int64_t shares) {
  STD_TORCH_CHECK(
      grad.scalar_type() == qkv.scalar_type() && 3 * grad.numel() == qkv.numel() && grad.is_contiguous() && shares > 0,
      "grad must be contiguous, of the dtype of qkv and a third of its size");
  const int64_t heads = tiles.size(1);
  Tensor dqkv = torch::stable::new_empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), qkv.size(3)});
  Tensor dtiles = torch::stable::new_zeros(tiles, {shares, heads, tiles.size(0), tiles.size(2), tiles.size(3)});
  Tensor dpad_kv = torch::stable::new_zeros(tiles, {shares, qkv.size(3) / 3 * 2});
  Tensor dcosine_scale = torch::stable::new_zeros(tiles, {shares, heads});
  with_dtype(qkv.scalar_type(), [&](auto compute, auto in) {
    using T = decltype(compute);
    const auto p = describe<T>(qkv, tiles, pad_kv, cosine_scale, rows, columns, column_kinds, scale);
    run_backward<T, decltype(in)>(
        p, grad, qkv, dqkv, data<T>(dtiles), data<T>(dpad_kv), data<T>(dcosine_scale), shares);
  });
  return {dqkv, dtiles, dpad_kv, dcosine_scale};
}

// The derivative of bias[index]: sums of grad [heads, pairs], in their order, at index [pairs], none where that is
// `rows`: [rows, heads].
Tensor window_attention_bias_backward(Tensor grad, Tensor index, int64_t rows) {
  const int64_t heads = grad.size(0), pairs = grad.size(1);
  STD_TORCH_CHECK(
      grad.dim() == 2 && index.numel() == pairs && index.scalar_type() == ScalarType::Int && grad.is_contiguous() &&
          index.is_contiguous(),
      "grad must be [heads, pairs] and index int32 [pairs], both contiguous");
  Tensor out = torch::stable::new_zeros(grad, {rows, heads});
  const int32_t* at = data<int32_t>(index);
  for (int64_t i = 0; i < pairs; ++i) STD_TORCH_CHECK(at[i] >= 0 && at[i] <= rows, "index is out of range");
  with_exact_dtype(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = data<T>(grad);
    T* to = data<T>(out);
    torch::stable::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> sums(rows);
      for (int64_t head = begin; head < end; ++head) {
        std::fill(sums.begin(), sums.end(), T(0));
        for (int64_t i = 0; i < pairs; ++i) {
          if (at[i] < rows) sums[at[i]] += from[head * pairs + i];
        }
        for (int64_t row = 0; row < rows; ++row) to[row * heads + head] = sums[row];
      }
    });
  });
  return out;
}

}  // namespace esvit_fast
