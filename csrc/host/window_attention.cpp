// The kernels of window attention on the host, by name: pass, type, head_dim, column tiles.
#include <utility>

#include "../cuda/window_attention_bwd.cuh"
#include "../cuda/window_attention_fwd.cuh"
#include "executor.h"

namespace {

using namespace window_attention;

Arguments arguments(const host::Call& call) {
  return {
      call.pointer<const void>("qkv"),
      call.pointer<const void>("pad_kv"),
      call.pointer<const float>("tiles"),
      call.pointer<const int32_t>("positions"),
      call.pointer<const int32_t>("shares"),
      call.scalar<float>("scale"),
      call.scalar<int>("heads"),
      call.scalar<int>("channels"),
      call.scalar<int>("area"),
      call.scalar<int>("stride"),
      call.scalar<int>("tile_rows"),
      call.scalar<int>("tile_columns"),
      call.pointer<void>("out"),
      call.pointer<const void>("grad"),
      call.pointer<void>("dqkv"),
      call.pointer<float>("dtiles"),
      call.pointer<float>("dpad_kv"),
  };
}

template <class Traits, void kernel(Arguments)>
std::vector<host::Report> run(const host::Call& given) {
  host::Call call = given;
  call.block = Traits::threads, call.shared_bytes = Traits::shared_bytes;
  return call.launch([a = arguments(call)] { kernel(a); });
}

template <class T, int HEAD_DIM, int KEYS>
struct Bound {
  explicit Bound(const std::string& type) {
    const std::string of = " " + type + " " + std::to_string(HEAD_DIM) + " " + std::to_string(KEYS);
    using Forward = ForwardTraits<T, HEAD_DIM, KEYS>;
    using Backward = BackwardTraits<T, HEAD_DIM, KEYS>;
    host::kernels()["forward" + of] = run<Forward, forward<Forward>>;
    host::kernels()["backward" + of] = run<Backward, backward<Backward>>;
  }
};

#define BIND(TYPE, HEAD_DIM, KEYS) \
  const Bound<device::TYPE, HEAD_DIM, KEYS> TYPE##_##HEAD_DIM##_##KEYS(#TYPE);
WINDOW_ATTENTION_VARIANTS(BIND)

}  // namespace
