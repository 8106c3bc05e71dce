// The same kernels for a GPU: what the executor runs is also CUDA.
#include "planted.cuh"
#include "probes.cuh"
#include "product.cuh"

template <class Arguments, void (*function)(Arguments)>
__global__ void kernel(Arguments arguments) {
  function(arguments);
}

#define INSTANTIATE(NAME) \
  template __global__ void kernel<planted::Arguments, planted::NAME<true>>(planted::Arguments);
PLANTED_KERNELS(INSTANTIATE)

using device::bfloat16;
using device::half;
template __global__ void kernel<SumArguments, block_sum>(SumArguments);
template __global__ void kernel<ProductArguments<half>, product<half, Bug::none>>(ProductArguments<half>);
template __global__ void kernel<ProductArguments<bfloat16>, product<bfloat16, Bug::none>>(ProductArguments<bfloat16>);
template __global__ void kernel<probes::Words, probes::lanes>(probes::Words);
template __global__ void kernel<probes::Words, probes::byte_perm>(probes::Words);
template __global__ void kernel<probes::Words, probes::ldmatrix>(probes::Words);
template __global__ void kernel<probes::Words, probes::copy<4>>(probes::Words);
template __global__ void kernel<probes::Words, probes::copy<8>>(probes::Words);
template __global__ void kernel<probes::Words, probes::copy<16>>(probes::Words);
template __global__ void kernel<probes::Numbers, probes::approximations>(probes::Numbers);
template __global__ void kernel<probes::Packing, probes::pack<half>>(probes::Packing);
template __global__ void kernel<probes::Packing, probes::pack<bfloat16>>(probes::Packing);
template __global__ void kernel<probes::Conversion<half>, probes::convert<half>>(probes::Conversion<half>);
template __global__ void kernel<probes::Conversion<bfloat16>, probes::convert<bfloat16>>(probes::Conversion<bfloat16>);
template __global__ void kernel<probes::Fragments, probes::mma_k16<half>>(probes::Fragments);
template __global__ void kernel<probes::Fragments, probes::mma_k16<bfloat16>>(probes::Fragments);
template __global__ void kernel<probes::Fragments, probes::mma_k8<half>>(probes::Fragments);
template __global__ void kernel<probes::Fragments, probes::mma_k8<bfloat16>>(probes::Fragments);
