// Small kernels, each with a bug that `planted` puts in. "seen: name" marks the line where that shows.
#pragma once

#include "../../csrc/cuda/device.cuh"

#define PLANTED_KERNELS(DO)                                                                                          \
  DO(missing_barrier) DO(missing_second_barrier) DO(missing_warp_barrier) DO(shuffle_for_a_barrier)                  \
  DO(warp_barrier_for_a_block) DO(read_behind) DO(write_behind) DO(write_before) DO(shared_overrun) DO(wild_pointer) \
  DO(written_input) DO(wrong_memory) DO(uninitialised_shared) DO(uninitialised_output) DO(unwritten)                 \
  DO(divergent_barrier) DO(left_barrier) DO(missing_lane) DO(missing_lane_of_mma) DO(two_operations)                 \
  DO(two_instructions) DO(wrong_mask) DO(shuffle_from_outside) DO(misaligned) DO(misaligned_in_shared)               \
  DO(forgotten_wait) DO(forgotten_commit) DO(forgotten_barrier_of_copies) DO(two_blocks_write) DO(two_threads_write) \
  DO(read_from_another_block) DO(counter) DO(counter_read_early) DO(wrong_assumption)

namespace planted {

struct Arguments {
  const float* x;
  float* y;
  unsigned* counter;
  int count;
};

DEVICE int index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }
DEVICE int thread() { return static_cast<int>(threadIdx.x); }
DEVICE int last() { return static_cast<int>(blockDim.x) - 1; }
DEVICE float* shared() { return reinterpret_cast<float*>(device::shared_memory()); }
constexpr unsigned all_lanes = 0xffffffffu;

template <bool planted>
DEVICE void missing_barrier(Arguments to) {
  shared()[thread()] = to.x[index()];
  if (!planted) __syncthreads();
  to.y[index()] = shared()[last() - thread()];  // seen: missing_barrier
}

template <bool planted>
DEVICE void missing_second_barrier(Arguments to) {
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    shared()[thread()] = to.x[index()] + i;  // seen: missing_second_barrier
    __syncthreads();
    sum += shared()[last() - thread()];
    if (!planted) __syncthreads();
  }
  to.y[index()] = sum;
}

template <bool planted>
DEVICE void missing_warp_barrier(Arguments to) {
  shared()[thread()] = to.x[index()];
  if (!planted) __syncwarp();
  to.y[index()] = shared()[thread() ^ 1];  // seen: missing_warp_barrier
}

// A shuffle orders nothing in memory.
template <bool planted>
DEVICE void shuffle_for_a_barrier(Arguments to) {
  shared()[thread()] = to.x[index()];
  const float other = __shfl_xor_sync(all_lanes, to.x[index()], 1);
  if (!planted) __syncwarp();
  to.y[index()] = other + shared()[thread() ^ 1];  // seen: shuffle_for_a_barrier
}

// A warp's barrier orders one warp.
template <bool planted>
DEVICE void warp_barrier_for_a_block(Arguments to) {
  shared()[thread()] = to.x[index()];
  if (planted) __syncwarp();
  else __syncthreads();
  to.y[index()] = shared()[thread() ^ 32];  // seen: warp_barrier_for_a_block
}

template <bool planted>
DEVICE void read_behind(Arguments to) {
  if (index() < to.count) to.y[index()] = to.x[index() + planted];  // seen: read_behind
}

template <bool planted>
DEVICE void write_behind(Arguments to) {
  if (index() < to.count) to.y[index() + planted] = to.x[index()];  // seen: write_behind
}

template <bool planted>
DEVICE void write_before(Arguments to) {
  if (index() < to.count) device::store<4>(to.y + index() - planted, {});  // seen: write_before
}

template <bool planted>
DEVICE void shared_overrun(Arguments to) {
  shared()[thread() + planted] = to.x[index()];  // seen: shared_overrun
  __syncthreads();
  to.y[index()] = shared()[thread() + planted];
}

template <bool planted>
DEVICE void wild_pointer(Arguments to) {
  to.y[index()] = planted ? *reinterpret_cast<const float*>(size_t{64}) : to.x[index()];  // seen: wild_pointer
}

template <bool planted>
DEVICE void written_input(Arguments to) {
  float* y = planted ? const_cast<float*>(to.x) : to.y;
  y[index()] = 1;  // seen: written_input
  to.y[index()] = 2;
}

// An address of shared memory where one of global memory is asked for.
template <bool planted>
DEVICE void wrong_memory(Arguments to) {
  shared()[thread()] = to.x[index()];
  const device::vector<4> x = device::load<4>(planted ? shared() + thread() : to.x + index());  // seen: wrong_memory
  to.y[index()] = device::as_float(x.word[0]);
}

template <bool planted>
DEVICE void uninitialised_shared(Arguments to) {
  if (!planted || thread() != 5) shared()[thread()] = to.x[index()];
  __syncthreads();
  to.y[index()] = shared()[thread()];  // seen: uninitialised_shared
}

template <bool planted>
DEVICE void uninitialised_output(Arguments to) {
  if (!planted) to.y[index()] = 0;
  to.y[index()] += to.x[index()];  // seen: uninitialised_output
}

template <bool planted>
DEVICE void unwritten(Arguments to) {
  if (index() < to.count - planted) to.y[index()] = to.x[index()];
}

template <bool planted>
DEVICE void divergent_barrier(Arguments to) {
  shared()[thread()] = to.x[index()];
  if (!planted || thread() < 40) __syncthreads();
  to.y[index()] = thread() < 32 ? shared()[thread() ^ 1] : 0;
  if (planted && thread() < 40) return;
  __syncthreads();  // seen: divergent_barrier
}

template <bool planted>
DEVICE void left_barrier(Arguments to) {
  to.y[index()] = to.x[index()];
  if (planted && index() == to.count - 1) return;
  __syncthreads();  // seen: left_barrier
}

template <bool planted>
DEVICE void missing_lane(Arguments to) {
  float x = to.x[index()];
  if (!planted || thread() % 32 != 9) x += __shfl_xor_sync(all_lanes, x, 16);  // seen: missing_lane
  to.y[index()] = x;
}

template <bool planted>
DEVICE void missing_lane_of_mma(Arguments to) {
  float d[4] = {};
  const uint32_t a[4] = {1, 2, 3, 4}, b[2] = {5, 6};
  if (!planted || thread() % 32 < 31) device::mma_m16n8k16<device::half>(d, a, b);  // seen: missing_lane_of_mma
  to.y[index()] = d[0] + to.x[index()];
}

template <bool planted>
DEVICE void two_operations(Arguments to) {
  float x = to.x[index()];
  if (planted && thread() % 32 < 8) x += __any_sync(all_lanes, x > 0);
  else x += __shfl_xor_sync(all_lanes, x, 1);  // seen: two_operations
  to.y[index()] = x;
}

template <bool planted>
DEVICE void two_instructions(Arguments to) {
  float d[4] = {};
  const uint32_t a[4] = {1, 2, 3, 4}, b[2] = {5, 6};
  if (planted && thread() % 32 < 8) device::mma_m16n8k16<device::half>(d, a, b);
  else device::mma_m16n8k16<device::half>(d, a, b);  // seen: two_instructions
  to.y[index()] = d[0] + to.x[index()];
}

template <bool planted>
DEVICE void wrong_mask(Arguments to) {
  const unsigned mask = planted ? 0xfffffffeu : all_lanes;
  to.y[index()] = __shfl_sync(mask, to.x[index()], 3);  // seen: wrong_mask
}

template <bool planted>
DEVICE void shuffle_from_outside(Arguments to) {
  float x = to.x[index()];
  if (thread() % 32 < 16) x = __shfl_sync(0xffffu, x, planted ? 16 : 15);  // seen: shuffle_from_outside
  to.y[index()] = x;
}

template <bool planted>
DEVICE void misaligned(Arguments to) {
  const device::vector<16> x = device::load<16>(to.x + 4 * thread() % 16 + planted);  // seen: misaligned
  to.y[index()] = device::as_float(x.word[0]);
}

template <bool planted>
DEVICE void misaligned_in_shared(Arguments to) {
  if (thread() < 8) device::copy_async<8>(shared() + 2 * thread() + planted, to.x, true);  // seen: misaligned_in_shared
  to.y[index()] = 0;
}

template <bool planted>
DEVICE void forgotten_wait(Arguments to) {
  device::copy_async<4>(shared() + thread(), to.x + index(), true);
  device::commit();
  if (!planted) device::wait<0>();
  to.y[index()] = shared()[thread()];  // seen: forgotten_wait
}

template <bool planted>
DEVICE void forgotten_commit(Arguments to) {
  device::copy_async<4>(shared() + thread(), to.x + index(), true);
  if (!planted) device::commit();
  device::wait<0>();
  to.y[index()] = shared()[thread()];  // seen: forgotten_commit
}

// A thread waits for its own copies only.
template <bool planted>
DEVICE void forgotten_barrier_of_copies(Arguments to) {
  device::copy_async<4>(shared() + thread(), to.x + index(), true);
  device::commit();
  device::wait<0>();
  if (!planted) __syncthreads();
  to.y[index()] = shared()[last() - thread()];  // seen: forgotten_barrier_of_copies
}

template <bool planted>
DEVICE void two_blocks_write(Arguments to) {
  to.y[planted ? thread() : index()] = to.x[index()];  // seen: two_blocks_write
}

template <bool planted>
DEVICE void two_threads_write(Arguments to) {
  to.y[index()] = to.x[index()];
  if (planted) to.y[index() / 32 * 32] = 0;  // seen: two_threads_write
}

template <bool planted>
DEVICE void read_from_another_block(Arguments to) {
  to.y[index()] = to.x[index()];
  __syncthreads();
  to.counter[index()] = to.y[planted ? thread() : index()] > 0;  // seen: read_from_another_block
}

template <bool planted>
DEVICE void counter(Arguments to) {
  if (planted) *to.counter += 1;  // seen: counter
  else atomicAdd(to.counter, 1u);
  to.y[index()] = to.x[index()];
}

template <bool planted>
DEVICE void counter_read_early(Arguments to) {
  atomicAdd(to.counter + blockIdx.x, 1u);
  if (!planted) __syncthreads();
  to.y[index()] = static_cast<float>(to.counter[blockIdx.x]);  // seen: counter_read_early
}

template <bool planted>
DEVICE void wrong_assumption(Arguments to) {
  device::assume(to.count > static_cast<int>(planted) * 1000);  // seen: wrong_assumption
  to.y[index()] = to.x[index()];
}

}  // namespace planted
