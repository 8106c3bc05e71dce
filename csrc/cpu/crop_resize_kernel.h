// Resampling of one crop in fixed point, for one instruction set; included as simd.h is, after it.
//
// First along rows, rounded to bytes, then across them, as torch and Pillow do. Weights differ from result to result,
// so a vector is what shares them: rows while they are resampled along, and columns while across.

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));

constexpr int64_t STEP = VECTOR_BYTES;  // results at a time
static_assert(STEP <= SLACK);

template <size_t... lane>
inline bytes16 interleaved(bytes16 a, bytes16 b, int half, std::index_sequence<lane...>) {
  return half ? __builtin_shufflevector(a, b, (8 + lane / 2 + lane % 2 * 16)...)
              : __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * 16)...);
}

// to[c, r] = from[r, c], and zeros to whole squares of 16.
void transpose_bytes(
    uint8_t* to, int64_t to_row, const uint8_t* from, int64_t from_row, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += 16) {
    for (int64_t c = 0; c < columns; c += 16) {
      bytes16 square[16] = {}, turned[16];
      for (int i = 0; i < 16 && r + i < rows; ++i) {
        const uint8_t* row = from + (r + i) * from_row + c;
        if (c + 16 <= columns) std::memcpy(&square[i], row, 16);
        else std::memcpy(&square[i], row, columns - c);
      }
#pragma GCC unroll 4
      for (int stage = 0; stage < 4; ++stage) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          turned[i] = interleaved(square[i / 2], square[i / 2 + 8], i % 2, std::make_index_sequence<16>{});
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) square[i] = turned[i];
      }
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) std::memcpy(to + (c + i) * to_row + r, &square[i], 16);
    }
  }
}

inline ints rounded(ints x, int bits) {
  x >>= bits;
  x = x > 0 ? x : 0;
  return x < 255 ? x : ints{} + 255;
}

// to[i] for STEP results: the sum of weight[k] * from[k * row + i].
inline void weigh(uint8_t* to, const uint8_t* from, int64_t row, const int32_t* weight, int64_t count, int bits) {
  ints a = ints{} + (1 << (bits - 1)), b = a, c = a, d = a;
  for (int64_t k = 0; k < count; ++k, from += row) {
    ints x;  // four bytes a lane, which are taken apart and put together again where they were
    std::memcpy(&x, from, sizeof x);
    a += (x & 255) * weight[k], b += (x >> 8 & 255) * weight[k];
    c += (x >> 16 & 255) * weight[k], d += (x >> 24 & 255) * weight[k];
  }
  const ints x = rounded(a, bits) | rounded(b, bits) << 8 | rounded(c, bits) << 16 | rounded(d, bits) << 24;
  std::memcpy(to, &x, sizeof x);
}

void resize(const Crop& p) {
  const int64_t size = whole(p.size, SLACK), height = whole(p.height, SLACK);
  const std::unique_ptr<uint8_t[]> turned(new uint8_t[size * height]), rows(new uint8_t[size * height]);
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t x = 0; x < p.size; ++x) {
      const uint8_t* from = p.columns + (3 * (p.left + p.across.first[x]) + c) * p.stride + p.top;
      const int32_t* weight = p.across.weight.data() + x * p.across.taps;
      for (int64_t y = 0; y < p.height; y += STEP) {
        weigh(turned.get() + x * height + y, from + y, 3 * p.stride, weight, p.across.count[x], p.across.bits);
      }
    }
    transpose_bytes(rows.get(), size, turned.get(), height, p.size, p.height);
    for (int64_t y = 0; y < p.size; ++y) {
      const uint8_t* from = rows.get() + p.down.first[y] * size;
      const int32_t* weight = p.down.weight.data() + y * p.down.taps;
      uint8_t* to = p.out + (c * p.size + y) * p.size;
      for (int64_t x = 0; x < p.size; x += STEP) {
        uint8_t results[STEP];
        weigh(results, from + x, size, weight, p.down.count[y], p.down.bits);
        if (x + STEP <= p.size) std::memcpy(to + x, results, STEP);
        else std::memcpy(to + x, results, p.size - x);
      }
    }
  }
}
