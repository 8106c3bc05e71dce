// Vectors, exponentials and small matrix products on GCC and Clang vector extensions.
//
// This file is included once per instruction set, inside a namespace of its own: VECTOR_BYTES and REGISTERS are set by
// who includes it. It needs <cstdint>, <type_traits> and <utility>, and must not include anything itself.

template <typename T>
struct Vector {
  static constexpr int64_t size = VECTOR_BYTES / sizeof(T);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  typedef T type __attribute__((vector_size(VECTOR_BYTES)));
  typedef Bits bits_type __attribute__((vector_size(VECTOR_BYTES)));
  // rows start anywhere
  typedef T loose __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(T)), may_alias));
};

template <typename T>
using vec = typename Vector<T>::type;

template <typename T>
inline vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Vector<T>::loose*>(p);
}

template <typename T>
inline void store(T* p, vec<T> x) {
  *reinterpret_cast<typename Vector<T>::loose*>(p) = x;
}

// x, with lane i and lane i ^ distance exchanged
template <int distance, typename V, size_t... lane>
inline V exchange(V x, std::index_sequence<lane...>) {
  return __builtin_shufflevector(x, x, (lane ^ distance)...);
}

template <typename T, int distance = Vector<T>::size / 2>
inline T horizontal_sum(vec<T> x) {
  if constexpr (distance == 0) return x[0];
  else return horizontal_sum<T, distance / 2>(x + exchange<distance>(x, std::make_index_sequence<Vector<T>::size>{}));
}

template <typename T, int distance = Vector<T>::size / 2>
inline T horizontal_max(vec<T> x) {
  if constexpr (distance == 0) return x[0];
  else {
    const vec<T> other = exchange<distance>(x, std::make_index_sequence<Vector<T>::size>{});
    return horizontal_max<T, distance / 2>(x > other ? x : other);
  }
}

// One stage of turning a square: where a lane's bit `distance` is set, a's goes to b and b's comes to a.
template <int distance, typename V, size_t... lane>
inline void swap_blocks(V& a, V& b, std::index_sequence<lane...>) {
  constexpr int size = sizeof...(lane);
  const V first = __builtin_shufflevector(a, b, (lane & distance ? size + (lane ^ distance) : lane)...);
  b = __builtin_shufflevector(a, b, (lane & distance ? size + lane : lane ^ distance)...);
  a = first;
}

template <typename T, int distance>
inline void turn(vec<T>* rows) {
  if constexpr (distance > 0) {
    constexpr int size = Vector<T>::size;
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) {
      if (!(i & distance)) swap_blocks<distance>(rows[i], rows[i + distance], std::make_index_sequence<size>{});
    }
    turn<T, distance / 2>(rows);
  }
}

// to[c, r] = from[r, c] for `columns`, rounded up to whole vectors, and `rows`, followed by zeros to a whole vector.
template <typename T>
inline void transpose(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t columns) {
  constexpr int size = Vector<T>::size;
  for (int64_t r = 0; r < rows; r += size) {
    for (int64_t c = 0; c < columns; c += size) {
      vec<T> square[size];
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) square[i] = r + i < rows ? load(from + (r + i) * from_row + c) : vec<T>{};
      turn<T, size / 2>(square);
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) store(to + (c + i) * to_row + r, square[i]);
    }
  }
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// e^x for x <= 0, to 2 units in the last place down to the smallest normal number; 0 below e^-88, NaN stays NaN.
// x = n ln 2 + r, n ln 2 in two parts; n plus the bias of exponents are the low bits of `shifted`, which become 2^n.
inline vec<float> exp_of_negative(vec<float> x) {
  using B = Vector<float>::bits_type;
  const vec<float> shifter = vec<float>{} + (12582912.0f + 127);  // 1.5 * 2^23: adding it rounds to an integer
  const vec<float> least = vec<float>{} - 88.0f;                  // n = -127: 2^n becomes 0
  x = least > x ? least : x;
  const vec<float> shifted = x * 1.44269504088896341f + shifter;
  const vec<float> n = shifted - shifter;
  const vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec<float> p = vec<float>{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (vec<float>)((B)shifted << 23);
}

inline vec<double> exp_of_negative(vec<double> x) {
  using B = Vector<double>::bits_type;
  const vec<double> shifter = vec<double>{} + (6755399441055744.0 + 1023);  // 1.5 * 2^52
  const vec<double> least = vec<double>{} - 709.0;
  x = least > x ? least : x;
  const vec<double> shifted = x * 1.4426950408889634074 + shifter;
  const vec<double> n = shifted - shifter;
  const vec<double> r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  // Taylor to r^13: |r| <= ln(2)/2, so the next term is below 1e-17
  vec<double> p = vec<double>{} + 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * (vec<double>)((B)shifted << 52);
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t count) {
  constexpr int64_t size = Vector<T>::size;
  vec<T> products = {};
  int64_t c = 0;
  for (; c + size <= count; c += size) products += load(a + c) * load(b + c);
  T sum = horizontal_sum<T>(products);
  for (; c < count; ++c) sum += a[c] * b[c];
  return sum;
}

// C[R, NV vectors] = (D +) sum over k of A[r, k] * B[k, :]
template <typename T, bool add, int R, int NV>
inline void product_block(
    const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, T* c, int64_t c_row, const T* d, int64_t d_row,
    int64_t depth) {
  vec<T> sum[R][NV] = {};
  for (int64_t k = 0; k < depth; ++k) {
    vec<T> right[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) right[v] = load(b + k * b_row + v * Vector<T>::size);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T left = a[r * a_row + k * a_k];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int64_t at = v * Vector<T>::size;
      store(c + r * c_row + at, add ? load(d + r * d_row + at) + sum[r][v] : sum[r][v]);
    }
  }
}

template <typename T, bool add, int R, int NV>
inline void product_rows(
    int64_t rows, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, T* c, int64_t c_row, const T* d,
    int64_t d_row, int64_t depth) {
  for (; rows >= R; rows -= R, a += R * a_row, c += R * c_row, d += R * d_row) {
    product_block<T, add, R, NV>(a, a_row, a_k, b, b_row, c, c_row, d, d_row, depth);
  }
  if constexpr (R > 1) {
    if (rows > 0) product_rows<T, add, R / 2, NV>(rows, a, a_row, a_k, b, b_row, c, c_row, d, d_row, depth);
  }
}

// C[rows, columns] = (D +) A[rows, depth] B[depth, columns]; columns is a multiple of the vector's size.
// A is read as a[i * a_row + k * a_k], so that a transposed one needs no copy; D may be C, or the same in every row.
template <typename T, bool add>
inline void product_and(
    int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row,
    T* c, int64_t c_row, const T* d, int64_t d_row) {
  constexpr int64_t size = Vector<T>::size;
  constexpr int wide = REGISTERS >= 32 ? 4 : 2;
  int64_t j = 0;
  for (; j + wide * size <= columns; j += wide * size) {
    product_rows<T, add, 6, wide>(rows, a, a_row, a_k, b + j, b_row, c + j, c_row, d + j, d_row, depth);
  }
  if constexpr (wide == 4) {
    if (j + 2 * size <= columns) {
      product_rows<T, add, 8, 2>(rows, a, a_row, a_k, b + j, b_row, c + j, c_row, d + j, d_row, depth);
      j += 2 * size;
    }
  }
  if (j < columns) product_rows<T, add, 8, 1>(rows, a, a_row, a_k, b + j, b_row, c + j, c_row, d + j, d_row, depth);
}

// C = (C +) A B
template <typename T, bool add = false>
inline void product(
    int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row,
    T* c, int64_t c_row) {
  product_and<T, add>(rows, columns, depth, a, a_row, a_k, b, b_row, c, c_row, c, c_row);
}
