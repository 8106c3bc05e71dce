// Assignments of rows to prototypes on CPUs: checks, the instruction set, and work shared among threads.
#include "prototype_cross_entropy.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "dispatch.h"

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

constexpr int64_t most_rows = 256, most_shares = 32, bytes_of_weights = int64_t(32) << 20;

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

void check(const Tensor& x, const char* name, ScalarType dtype, std::initializer_list<int64_t> shape) {
  bool fits = x.scalar_type() == dtype && x.is_contiguous() && x.dim() == int64_t(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) fits = fits && x.size(d++) == size;
  STD_TORCH_CHECK(fits, name, " has another shape or dtype than it must, or is not contiguous");
}

// What is found of each row, [n]: log of the sum, entropy, highest score and the first prototype that has it.
template <typename T>
struct Found {
  T *log_total, *entropy, *most;
  int64_t* best;
};

// The shares of a group's rows become one, in their order. `highest` and `inverse` are of this group.
template <typename T>
void merge(const Assignment<T>& p, int64_t row, T* highest, T* inverse, const Found<T>& to) {
  const int64_t chunk = row / p.chunk, base = chunk * p.shares * p.chunk + row % p.chunk;
  T most = p.most[base];
  int64_t best = p.best[base];
  for (int64_t s = 1; s < p.shares; ++s) {
    const int64_t at = base + s * p.chunk;
    if (p.most[at] > most) most = p.most[at], best = p.best[at];
  }
  double total = 0;
  T moment = 0;
  for (int64_t s = 0; s < p.shares; ++s) {
    const int64_t at = base + s * p.chunk;
    const T drop = p.most[at] - most, factor = std::exp(drop);
    total += factor * (double(p.total[at]) + p.rest[at]), moment += factor * (p.moment[at] + p.total[at] * drop);
  }
  highest[row] = most, inverse[row] = T(1 / total);
  if (row >= p.rows) return;
  to.most[row] = most, to.best[row] = best;
  to.log_total[row] = T(most + std::log(total)), to.entropy[row] = T(std::log(total) - moment / total);
}

// Rows [first, first + n) of a matrix of `width` columns: turned, [chunks, width, chunk], or filled up with zeros,
// [chunks, chunk, filled].
template <typename T>
void pack(T* to, const T* from, int64_t n, int64_t width, int64_t chunk, int64_t rows, int64_t filled, bool turned) {
  torch::stable::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t c = r / chunk, j = r % chunk;
      for (int64_t d = 0; d < (turned ? width : filled); ++d) {
        const T value = r < n && d < width ? from[r * width + d] : T(0);
        to[turned ? (c * width + d) * chunk + j : r * filled + d] = value;
      }
    }
  });
}

}  // namespace

// Softmax of scores rows . (key_scale * keys) + key_bias over all prototypes, and what follows from it. Returns for
// each row its log of the sum of exponentials, entropy, highest score and first prototype that has it, and, where
// there are values, the mean of value_scale * values; and how much of all rows each prototype has. The product of the
// weights, transposed, and `outer` [n, D] is added to `sum` [K, D], or, where that is fresh, written.
//
// Splits depend on K alone: a row's results have the same bits whatever other rows there are, and how many threads.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> prototype_assignment(
    Tensor rows, Tensor keys, Tensor key_scale, Optional key_bias, Optional values, Optional value_scale,
    Optional outer, Optional sum, bool fresh) {
  const ScalarType dtype = rows.scalar_type();
  STD_TORCH_CHECK(rows.dim() == 2 && keys.dim() == 2, "rows and keys must be matrices");
  const int64_t n = rows.size(0), width = rows.size(1), prototypes = keys.size(0);
  check(rows, "rows", dtype, {n, width}), check(keys, "keys", dtype, {prototypes, width});
  check(key_scale, "key_scale", dtype, {prototypes});
  if (key_bias) check(*key_bias, "key_bias", dtype, {prototypes});
  STD_TORCH_CHECK(values.has_value() == value_scale.has_value(), "values need value_scale");
  if (values) {
    check(*values, "values", dtype, {prototypes, width}), check(*value_scale, "value_scale", dtype, {prototypes});
  }
  STD_TORCH_CHECK(outer.has_value() == sum.has_value(), "outer needs sum");
  if (outer) check(*outer, "outer", dtype, {n, width}), check(*sum, "sum", dtype, {prototypes, width});
  STD_TORCH_CHECK(n > 0 && width > 0 && prototypes > 0, "there are no rows, no columns or no prototypes");

  Tensor log_total = torch::stable::new_empty(rows, {n}), entropy = torch::stable::new_empty(rows, {n});
  Tensor most = torch::stable::new_empty(rows, {n});
  Tensor best = torch::stable::new_empty(rows, {n}, ScalarType::Long);
  Tensor mean = torch::stable::new_empty(rows, {values ? n : 0, width});
  Tensor usage = torch::stable::new_zeros(rows, {prototypes});
  const Isa chosen = isa();
  with_exact_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    Assignment<T> p{};
    p.prototypes = prototypes, p.width = width, p.filled = parts(width, 16) * 16;
    // scratch_bytes in ops/_cpu/prototype_cross_entropy.py says how much all this is
    const int64_t bytes_of_row = prototypes * int64_t(sizeof(T));
    const int64_t fit = std::clamp<int64_t>(bytes_of_weights / bytes_of_row / 16 * 16, 16, most_rows);
    p.chunk = parts(parts(n, parts(n, fit)), 16) * 16;
    const int64_t most_chunks = std::min<int64_t>(4, parts(n, p.chunk));
    const int64_t group = std::clamp<int64_t>(bytes_of_weights / (bytes_of_row * p.chunk), 1, most_chunks);
    const int64_t tiles = parts(prototypes, p.tile);
    p.tiles_of_share = parts(tiles, most_shares), p.shares = parts(tiles, p.tiles_of_share);
    p.keys = data<T>(keys), p.key_scale = data<T>(key_scale), p.key_bias = data<T>(key_bias);
    p.values = data<T>(values), p.value_scale = data<T>(value_scale);
    p.sum = sum ? data<T>(*sum) : nullptr, p.usage = data<T>(usage);

    const int64_t columns = group * p.chunk, shared = columns * p.shares;
    const auto scratch = [&](int64_t count) { return torch::stable::new_empty(rows, {count}); };
    Tensor weights = scratch(prototypes * columns), level = scratch(tiles * columns), rows_t = scratch(width * columns);
    Tensor packed = scratch(outer ? columns * p.filled : 0), means = scratch(values ? shared * p.filled : 0);
    Tensor of_share = scratch(4 * shared), of_row = scratch(2 * columns);
    Tensor bests = torch::stable::new_empty(rows, {shared}, ScalarType::Long);
    p.weights = data<T>(weights), p.level = data<T>(level), p.rows_t = data<T>(rows_t);
    p.outer = outer ? data<T>(packed) : nullptr, p.mean = data<T>(means);
    p.most = data<T>(of_share), p.total = p.most + shared, p.rest = p.total + shared;
    p.moment = p.rest + shared, p.best = data<int64_t>(bests);
    T *highest = data<T>(of_row), *inverse = highest + columns;
    p.highest = highest, p.inverse = inverse;

    for (int64_t first = 0; first < n; first += columns) {
      p.rows = std::min(columns, n - first), p.chunks = parts(p.rows, p.chunk), p.fresh = fresh && first == 0;
      const int64_t filled_rows = p.chunks * p.chunk;
      pack(data<T>(rows_t), data<T>(rows) + first * width, p.rows, width, p.chunk, filled_rows, p.filled, true);
      if (outer) {
        pack(data<T>(packed), data<T>(*outer) + first * width, p.rows, width, p.chunk, filled_rows, p.filled, false);
      }
      std::fill_n(p.best, shared, 0);
      std::memset(p.mean, 0, values ? shared * p.filled * sizeof(T) : 0);
      const Found<T> found{
          data<T>(log_total) + first, data<T>(entropy) + first, data<T>(most) + first, data<int64_t>(best) + first};
      torch::stable::parallel_for(0, p.chunks * p.shares, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) BY_ISA(chosen, score(p, task / p.shares, task % p.shares));
      });
      for (int64_t row = 0; row < filled_rows; ++row) merge(p, row, highest, inverse, found);
      if (!values && !outer) continue;
      torch::stable::parallel_for(0, p.shares, 1, [&](int64_t begin, int64_t end) {
        for (int64_t share = begin; share < end; ++share) BY_ISA(chosen, gather_prototypes(p, share));
      });
      if (!values) continue;
      T* to = data<T>(mean) + first * width;
      torch::stable::parallel_for(0, p.rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const T* from = p.mean + (row / p.chunk * p.shares * p.chunk + row % p.chunk) * p.filled;
          for (int64_t d = 0; d < width; ++d) {
            T total = 0;
            for (int64_t s = 0; s < p.shares; ++s) total += from[s * p.chunk * p.filled + d];
            to[row * width + d] = total;
          }
        }
      });
    }
  });
  return {log_total, entropy, most, best, mean, usage};
}

// The derivative of weights g * weight / length: dweight [K, D] in place, and that of g [K].
Tensor prototype_weight_norm_backward(Tensor dweight, Tensor weight, Tensor g, Tensor length) {
  const ScalarType dtype = weight.scalar_type();
  STD_TORCH_CHECK(weight.dim() == 2, "weight must be a matrix");
  const int64_t prototypes = weight.size(0), width = weight.size(1);
  check(dweight, "dweight", dtype, {prototypes, width}), check(weight, "weight", dtype, {prototypes, width});
  check(g, "g", dtype, {prototypes}), check(length, "length", dtype, {prototypes});
  Tensor dg = torch::stable::new_empty(g, {prototypes});
  const Isa chosen = isa();
  with_exact_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    T *d = data<T>(dweight), *to = data<T>(dg);
    const T *v = data<T>(weight), *scale = data<T>(g), *norm = data<T>(length);
    torch::stable::parallel_for(0, prototypes, 256, [&](int64_t begin, int64_t end) {
      BY_ISA(chosen, weight_norm_backward(d, to, v, scale, norm, width, begin, end));
    });
  });
  return dg;
}

}  // namespace esvit_fast
