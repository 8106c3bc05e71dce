// The kernels of the executor's tests, for Python.
#include "planted.cuh"
#include "probes.cuh"
#include "product.cuh"

namespace {

using host::Call;
using host::Kernel;
using host::Report;

#define BIND(NAME)                                                                                \
  template <bool bug>                                                                             \
  std::vector<Report> NAME(const Call& call) {                                                    \
    const planted::Arguments arguments = {                                                        \
        call.pointer<const float>("x"), call.pointer<float>("y"), call.pointer<unsigned>("counter"), \
        call.scalar<int>("count")};                                                               \
    return call.launch([arguments] { planted::NAME<bug>(arguments); });                           \
  }                                                                                               \
  const Kernel NAME##_planted("planted." #NAME, NAME<true>), NAME##_mended("mended." #NAME, NAME<false>);

PLANTED_KERNELS(BIND)
#undef BIND

const Kernel block_sum_kernel("block_sum", [](const Call& call) {
  const SumArguments arguments = {
      call.pointer<const float>("x"), call.pointer<float>("sums"), call.scalar<int>("count")};
  return call.launch([arguments] { block_sum(arguments); });
});

template <class T, Bug bug>
std::vector<Report> product_of(const Call& call) {
  const ProductArguments<T> arguments = {
      call.pointer<const T>("a"), call.pointer<const T>("b"), call.pointer<float>("d"),
      call.scalar<int>("m"),      call.scalar<int>("n"),      call.scalar<int>("k")};
  return call.launch([arguments] { product<T, bug>(arguments); });
}

using device::bfloat16;
using device::half;
const Kernel product_half("product.float16", product_of<half, Bug::none>);
const Kernel product_bfloat16("product.bfloat16", product_of<bfloat16, Bug::none>);
const Kernel product_swapped("product.swapped_fragment", product_of<half, Bug::swapped_fragment>);
const Kernel product_early("product.early_wait", product_of<half, Bug::early_wait>);
const Kernel product_barrier("product.missing_barrier", product_of<half, Bug::missing_barrier>);
const Kernel product_behind("product.row_behind", product_of<half, Bug::row_behind>);

template <void (*probe)(probes::Words)>
std::vector<Report> on_words(const Call& call) {
  const probes::Words arguments = {
      call.pointer<const uint32_t>("a"), call.pointer<const uint32_t>("b"), call.pointer<const uint32_t>("c"),
      call.pointer<uint32_t>("to")};
  return call.launch([arguments] { probe(arguments); });
}

const Kernel lanes("lanes", on_words<probes::lanes>), byte_perm("byte_perm", on_words<probes::byte_perm>);
const Kernel ldmatrix("ldmatrix", on_words<probes::ldmatrix>), copy_4("copy.4", on_words<probes::copy<4>>);
const Kernel copy_8("copy.8", on_words<probes::copy<8>>), copy_16("copy.16", on_words<probes::copy<16>>);

const Kernel approximations("approximations", [](const Call& call) {
  const probes::Numbers arguments = {call.pointer<const float>("x"), call.pointer<float>("to")};
  return call.launch([arguments] { probes::approximations(arguments); });
});

template <class T>
std::vector<Report> pack(const Call& call) {
  const probes::Packing arguments = {
      call.pointer<const float>("x"), call.pointer<const float>("y"), call.pointer<uint32_t>("to"),
      call.pointer<float>("back")};
  return call.launch([arguments] { probes::pack<T>(arguments); });
}

template <class T>
std::vector<Report> convert(const Call& call) {
  const probes::Conversion<T> arguments = {
      call.pointer<const T>("x"), call.pointer<float>("to"), call.pointer<T>("back")};
  return call.launch([arguments] { probes::convert(arguments); });
}

template <void (*probe)(probes::Fragments)>
std::vector<Report> on_fragments(const Call& call) {
  const probes::Fragments arguments = {
      call.pointer<const uint32_t>("a"), call.pointer<const uint32_t>("b"), call.pointer<float>("d")};
  return call.launch([arguments] { probe(arguments); });
}

const Kernel pack_half("pack.float16", pack<half>), pack_bfloat16("pack.bfloat16", pack<bfloat16>);
const Kernel convert_half("convert.float16", convert<half>), convert_bfloat16("convert.bfloat16", convert<bfloat16>);
const Kernel mma_k16_half("mma_k16.float16", on_fragments<probes::mma_k16<half>>);
const Kernel mma_k16_bfloat16("mma_k16.bfloat16", on_fragments<probes::mma_k16<bfloat16>>);
const Kernel mma_k8_half("mma_k8.float16", on_fragments<probes::mma_k8<half>>);
const Kernel mma_k8_bfloat16("mma_k8.bfloat16", on_fragments<probes::mma_k8<bfloat16>>);

}  // namespace
