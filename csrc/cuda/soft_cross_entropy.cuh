// Cross-entropy of pairs of rows of 16-bit logits: each of the student's rows is read once, and stays on the chip.
//
// Rows have a multiple of 8 logits. A block's shared memory is the row, and a number for each of its warps. Logits are
// subtracted before they are scaled, which rounds less than the reverse.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace soft_cross_entropy_kernels {

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
constexpr int CHUNK = 8;

struct Teacher {
  const void* logits;   // [rows, count]
  const float* center;  // [count]
  float* found;         // [3, rows]: highest logit less the centre, sum of exponentials relative to it, and entropy
  int64_t* best;        // [rows]: the first place with that logit
  float* usage;         // [count]: how much of all rows each place has
  int rows, count;
  float scale;  // what logits are multiplied by
};

struct Student {
  const void* logits;   // [rows, count]
  const void* teacher;  // [teacher_rows, count]
  const float* center;
  const float* found;          // of the teacher's rows
  const int64_t* start;        // [rows + 1]: where pairs of each row begin
  const int64_t* teacher_row;  // of each pair
  const float* weight;         // of each pair
  float* loss;                 // [rows]
  void* gradient;              // [rows, count], may be the logits; null: none is wanted
  int teacher_rows, count;
  float scale, teacher_scale;
};

// Bytes of shared memory for a row and a block of so many threads.
constexpr int shared_bytes(int count, int threads) { return 2 * count + 4 * (threads / 32); }

template <class T>
DEVICE void unpack(float (&x)[CHUNK], device::vector<16> words) {
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const device::float_2 pair = device::unpack<T>(words.word[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}

// Chunk c of a centre is subtracted; nothing where there is none.
DEVICE void subtract(float (&x)[CHUNK], const float* center, int c) {
  if (center == nullptr) return;
  UNROLL
  for (int i = 0; i < CHUNK; i += 4) {
    const auto words = device::load<16>(center + c * CHUNK + i);
    UNROLL
    for (int j = 0; j < 4; ++j) x[i + j] -= device::as_float(words.word[j]);
  }
}

// What all threads of a block have, put together in the same order always.
template <class Join>
DEVICE float over_block(float x, float* of_warps, Join join) {
  UNROLL
  for (int distance = 16; distance > 0; distance /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, distance));
  const int warps = static_cast<int>(blockDim.x) / 32;
  __syncthreads();  // or what was put together before is still being read
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = of_warps[0];
  for (int warp = 1; warp < warps; ++warp) x = join(x, of_warps[warp]);
  return x;
}

DEVICE float sum_over_block(float x, float* of_warps) {
  return over_block(x, of_warps, [](float a, float b) { return a + b; });
}

DEVICE float max_over_block(float x, float* of_warps) {
  return over_block(x, of_warps, [](float a, float b) { return fmaxf(a, b); });
}

// A row in shared memory, once this returns.
DEVICE void keep_row(char* kept, const char* row, int chunks) {
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    device::copy_async<16>(kept + 16 * c, row + 16 * static_cast<int64_t>(c), true);
  }
  device::commit();
  device::wait<0>();
  __syncthreads();
}

// Logits of a kept row less the centre: the highest, in all threads. What is no number is left out here, and found when
// exponentials are summed.
template <class T>
DEVICE float highest_of(const char* kept, const float* center, int chunks, float* of_warps) {
  float highest = -device::infinity();
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    float x[CHUNK];
    unpack<T>(x, device::load_shared<16>(kept + 16 * c));
    subtract(x, center, c);
    UNROLL
    for (int i = 0; i < CHUNK; ++i) highest = fmaxf(highest, x[i]);
  }
  return max_over_block(highest, of_warps);
}

// Describe one of the teacher's rows: the grid is rows.
template <class T>
DEVICE void rows(Teacher given) {
  char* kept = device::shared_memory();
  float* of_warps = reinterpret_cast<float*>(kept + 2 * given.count);
  const int chunks = given.count / CHUNK;
  const int64_t row = blockIdx.x;
  keep_row(kept, static_cast<const char*>(given.logits) + 2 * row * given.count, chunks);
  const float highest = highest_of<T>(kept, given.center, chunks, of_warps);
  float total = 0, moment = 0, place = device::infinity();
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    float x[CHUNK];
    unpack<T>(x, device::load_shared<16>(kept + 16 * c));
    subtract(x, given.center, c);
    UNROLL
    for (int i = 0; i < CHUNK; ++i) {
      const float less = (x[i] - highest) * given.scale, p = device::exp2(less * LOG2E);
      if (x[i] == highest) place = fminf(place, static_cast<float>(c * CHUNK + i));
      total += p;
      moment += less == -device::infinity() ? 0.0f : p * less;
    }
  }
  total = sum_over_block(total, of_warps), moment = sum_over_block(moment, of_warps);
  place = over_block(place, of_warps, [](float a, float b) { return fminf(a, b); });
  if (threadIdx.x == 0) {
    given.found[row] = highest;
    given.found[given.rows + row] = total;
    given.found[2 * static_cast<int64_t>(given.rows) + row] = logf(total) - moment / total;
    given.best[row] = place < device::infinity() ? static_cast<int64_t>(place) : 0;
  }
}

// How much of all the teacher's rows two places have, for each thread; rows are summed in their order.
template <class T>
DEVICE void usage(Teacher given) {
  const int k = 2 * static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= given.count) return;
  const auto center = device::load<8>(given.center + k);
  const float low = device::as_float(center.word[0]), high = device::as_float(center.word[1]);
  const char* at = static_cast<const char*>(given.logits) + 2 * static_cast<int64_t>(k);
  float sums[2] = {};
  for (int row = 0; row < given.rows; ++row, at += 2 * static_cast<int64_t>(given.count)) {
    const device::float_2 x = device::unpack<T>(device::load<4>(at).word[0]);
    const float highest = given.found[row], inverse = 1 / given.found[given.rows + row], scale = given.scale * LOG2E;
    sums[0] += device::exp2((x.x - low - highest) * scale) * inverse;
    sums[1] += device::exp2((x.y - high - highest) * scale) * inverse;
  }
  device::store<8>(given.usage + k, {device::as_word(sums[0]), device::as_word(sums[1])});
}

// The loss of one of the student's rows, and its derivative: the grid is rows.
template <class T>
DEVICE void loss(Student given) {
  char* kept = device::shared_memory();
  float* of_warps = reinterpret_cast<float*>(kept + 2 * given.count);
  const int chunks = given.count / CHUNK;
  const int64_t row = blockIdx.x, wide = given.count, begin = given.start[row], end = given.start[row + 1];
  const float scale = given.scale * LOG2E, teacher_scale = given.teacher_scale * LOG2E;
  keep_row(kept, static_cast<const char*>(given.logits) + 2 * row * wide, chunks);
  const float highest = highest_of<T>(kept, nullptr, chunks, of_warps);
  float total = 0, share = 0, agreed = 0;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    float x[CHUNK];
    unpack<T>(x, device::load_shared<16>(kept + 16 * c));
    UNROLL
    for (int i = 0; i < CHUNK; ++i) total += device::exp2((x[i] - highest) * scale);
  }
  total = sum_over_block(total, of_warps);
  for (int64_t i = begin; i < end; ++i) share += given.weight[i];
  const float own = share / total;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    float target[CHUNK] = {}, x[CHUNK];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = given.teacher_row[i];
      const float most = given.found[m], times = given.weight[i] / given.found[given.teacher_rows + m];
      unpack<T>(x, device::load<16>(static_cast<const char*>(given.teacher) + 2 * m * wide + 16 * c));
      subtract(x, given.center, c);
      UNROLL
      for (int j = 0; j < CHUNK; ++j) target[j] += device::exp2((x[j] - most) * teacher_scale) * times;
    }
    unpack<T>(x, device::load_shared<16>(kept + 16 * c));
    device::vector<16> slope = {};
    UNROLL
    for (int j = 0; j < CHUNK; ++j) {
      const float less = x[j] - highest;
      // a logit of -infinity that no teacher means costs nothing
      agreed += target[j] == 0 ? 0.0f : target[j] * less;
      x[j] = (device::exp2(less * scale) * own - target[j]) * given.scale;
      if (j % 2) slope.word[j / 2] = device::pack<T>(x[j - 1], x[j]);
    }
    if (given.gradient != nullptr) device::store<16>(static_cast<char*>(given.gradient) + 2 * row * wide + 16 * c, slope);
  }
  agreed = sum_over_block(agreed, of_warps);
  if (threadIdx.x == 0) given.loss[row] = share * logf(total) - agreed * given.scale;
}

}  // namespace soft_cross_entropy_kernels
