// The operator on GPUs: checks, the variant of the kernels, and launches.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "launch.h"
#include "window_attention_bwd.cuh"
#include "window_attention_fwd.cuh"

namespace window_attention {

// Numbers of a launch are in a kernel's name, where the manifest reads them.
template <class Traits, int THREADS = Traits::threads, int SHARED_BYTES = Traits::shared_bytes>
__global__ void __launch_bounds__(THREADS, Traits::blocks) window_attention_fwd(Arguments a) {
  forward<Traits>(a);
}

template <class Traits, int THREADS = Traits::threads, int SHARED_BYTES = Traits::shared_bytes>
__global__ void __launch_bounds__(THREADS, Traits::blocks) window_attention_bwd(Arguments a) {
  backward<Traits>(a);
}

}  // namespace window_attention

namespace esvit_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using window_attention::Arguments;
using Optional = std::optional<Tensor>;
using Kernel = void (*)(Arguments);

struct Variant {
  Kernel kernel;
  int threads, shared_bytes;
};

struct Variants {
  Variant forward, backward;
};

// What was compiled for a type, a head_dim and a number of column tiles.
Variants variants_of(ScalarType type, int64_t head_dim, int64_t key_tiles) {
  using namespace window_attention;
  constexpr ScalarType half = ScalarType::Half, bfloat16 = ScalarType::BFloat16;
#define FIND(TYPE, HEAD_DIM, KEYS)                                                               \
  if (type == TYPE && head_dim == HEAD_DIM && key_tiles == KEYS) {                               \
    using Forward = ForwardTraits<device::TYPE, HEAD_DIM, KEYS>;                                 \
    using Backward = BackwardTraits<device::TYPE, HEAD_DIM, KEYS>;                               \
    return {                                                                                     \
        {window_attention_fwd<Forward>, Forward::threads, Forward::shared_bytes},                \
        {window_attention_bwd<Backward>, Backward::threads, Backward::shared_bytes}};            \
  }
  WINDOW_ATTENTION_VARIANTS(FIND)
#undef FIND
  STD_TORCH_CHECK(
      false, "no kernel was compiled for this dtype, head_dim=", head_dim, " and key_tiles=", key_tiles,
      ": half or bfloat16; 16, 32 or 64; 2, 4, 7 or 8");
}

// Where the parts of a call lie, once they fit together. The numbers in positions and shares are trusted.
Arguments describe(
    const Tensor& qkv, const Tensor& tiles, const Optional& pad_kv, const Tensor& positions, const Tensor& shares,
    double scale, int64_t key_tiles) {
  STD_TORCH_CHECK(
      qkv.dim() == 4 && tiles.dim() == 4 && tiles.size(1) > 0 && qkv.size(3) % (3 * tiles.size(1)) == 0,
      "qkv and tiles do not fit together");
  STD_TORCH_CHECK(
      qkv.size(0) * qkv.size(1) * qkv.size(2) < (int64_t(1) << 31) && qkv.size(3) < (int64_t(1) << 24),
      "qkv has more rows, or channels, than are counted");
  STD_TORCH_CHECK(tiles.scalar_type() == ScalarType::Float, "tiles must be float32");
  STD_TORCH_CHECK(
      tiles.size(2) <= 8 * key_tiles && tiles.size(3) % 16 == 0,
      "tiles must have a multiple of 16 columns, and no more rows than a window may have keys");
  STD_TORCH_CHECK(
      !pad_kv || (pad_kv->scalar_type() == qkv.scalar_type() && 3 * pad_kv->numel() == 2 * qkv.size(3)),
      "pad_kv must have the dtype of qkv, and 2 C elements");
  STD_TORCH_CHECK(
      positions.scalar_type() == ScalarType::Int && shares.scalar_type() == ScalarType::Int && positions.dim() == 2 &&
          shares.dim() == 2 && shares.size(1) == 8,
      "positions and shares must be int32 [windows, tokens] and [shares, 8]");
  check(qkv, "qkv", qkv), check(tiles, "tiles", qkv), check(positions, "positions", qkv), check(shares, "shares", qkv);
  if (pad_kv) check(*pad_kv, "pad_kv", qkv);
  Arguments a{};
  a.qkv = qkv.data_ptr(), a.pad_kv = pad_kv ? pad_kv->data_ptr() : nullptr;
  a.tiles = static_cast<const float*>(tiles.data_ptr());
  a.positions = static_cast<const int32_t*>(positions.data_ptr());
  a.shares = static_cast<const int32_t*>(shares.data_ptr());
  a.scale = static_cast<float>(scale);
  a.heads = static_cast<int>(tiles.size(1)), a.channels = static_cast<int>(qkv.size(3) / 3);
  a.area = static_cast<int>(qkv.size(1) * qkv.size(2)), a.stride = static_cast<int>(positions.size(1));
  a.tile_rows = static_cast<int>(tiles.size(2)), a.tile_columns = static_cast<int>(tiles.size(3));
  return a;
}

// A block for each head and share, heads fastest: their slices of one line of memory are read side by side.
void run(const Variant& variant, const Arguments& a, const Tensor& qkv, int64_t shares) {
  launch(variant.kernel, shares * a.heads, variant.threads, variant.shared_bytes, qkv, a);
}

}  // namespace

Tensor window_attention(
    Tensor qkv, Tensor tiles, Optional pad_kv, Tensor positions, Tensor shares, double scale, int64_t key_tiles) {
  Arguments a = describe(qkv, tiles, pad_kv, positions, shares, scale, key_tiles);
  const Variants found = variants_of(qkv.scalar_type(), a.channels / a.heads, key_tiles);
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  Tensor out = torch::stable::new_empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), qkv.size(3) / 3});
  a.out = out.data_ptr();
  run(found.forward, a, qkv, shares.size(0));
  return out;
}

// Gradients of qkv, and of tiles and pad_kv as sums of each share of the windows: [shares, heads, rows, columns] and
// [shares, 2 C], empty without pad_kv.
std::tuple<Tensor, Tensor, Tensor> window_attention_backward(
    Tensor grad, Tensor qkv, Tensor tiles, Optional pad_kv, Tensor positions, Tensor shares, double scale,
    int64_t key_tiles) {
  Arguments a = describe(qkv, tiles, pad_kv, positions, shares, scale, key_tiles);
  const Variants found = variants_of(qkv.scalar_type(), a.channels / a.heads, key_tiles);
  STD_TORCH_CHECK(
      grad.scalar_type() == qkv.scalar_type() && 3 * grad.numel() == qkv.numel(),
      "grad must have the dtype of qkv and a third of its size");
  check(grad, "grad", qkv);
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  const int64_t count = shares.size(0);
  Tensor dqkv = torch::stable::new_empty(qkv, {qkv.size(0), qkv.size(1), qkv.size(2), qkv.size(3)});
  Tensor dtiles = torch::stable::new_empty(tiles, {count, tiles.size(1), tiles.size(2), tiles.size(3)});
  Tensor dpad_kv = torch::stable::new_empty(tiles, {pad_kv ? count : 0, qkv.size(3) / 3 * 2});
  a.grad = grad.data_ptr(), a.dqkv = dqkv.data_ptr();
  a.dtiles = static_cast<float*>(dtiles.data_ptr()), a.dpad_kv = static_cast<float*>(dpad_kv.data_ptr());
  run(found.backward, a, qkv, count);
  return {dqkv, dtiles, dpad_kv};
}

}  // namespace esvit_fast
