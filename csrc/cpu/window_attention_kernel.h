// Attention within windows, for one instruction set; included as simd.h is, after it.
//
// Each window has a class, which says which of its positions hold tokens. n tokens attend m keys: themselves and, where
// padded positions are attended, one virtual key that stands for all of those. Everything that depends on the class
// alone (bias, mask, weight of the virtual key, -infinity in unused columns) is in its tile, [n, m].
//
// A window's rows lie far apart in the map, and a head's part of a row is short: a group of heads is copied at once, so
// that memory is read and written in long runs.

// Rows of a window for a group of heads: [n + 1, parts, channels of the group], the last row for the virtual key.
template <typename T>
struct Rows {
  T* memory;
  int64_t stride, channels;

  T* at(int64_t part, int64_t offset) { return memory + part * channels + offset; }
};

template <typename T>
struct Scratch {
  static constexpr int64_t size = Vector<T>::size;
  int64_t begin, end;  // heads
  int64_t width;       // elements of a row of head_dim, filled up to whole vectors
  T* memory;
  Rows<T> qkv, dqkv, out;  // out: also its gradient
  T *k_t, *result, *s, *inverse_q, *inverse_k;
  T *v_t, *ds;  // like dqkv, of the backward pass

  static int64_t whole(int64_t count) { return (count + size - 1) / size * size; }

  Scratch(const WindowAttention<T>& p, int64_t begin, int64_t end, bool backward) : begin(begin), end(end) {
    width = whole(p.head_dim);
    // rows begin a little apart from multiples of powers of two, which share places in a cache; their last vector may
    // reach into the next row
    const int64_t channels = (end - begin) * p.head_dim, filled = (channels + 15) / 16 * 16;
    const int64_t columns = p.tile_columns, rows = p.tile_rows + 2, square = p.tile_rows * columns;
    qkv.stride = dqkv.stride = 3 * filled + 16, out.stride = filled + 16;
    qkv.channels = dqkv.channels = out.channels = channels;
    const int64_t shared = rows * (qkv.stride + out.stride) + 2 * columns * width + square + 2 * columns;
    const int64_t more = backward ? rows * dqkv.stride + columns * width + square : 0;
    memory = static_cast<T*>(::operator new((shared + more) * sizeof(T), std::align_val_t(64)));
    std::memset(memory, 0, (shared + more) * sizeof(T));
    T* at = memory;
    const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
    qkv.memory = take(rows * qkv.stride), out.memory = take(rows * out.stride);
    k_t = take(columns * width), result = take(columns * width), s = take(square);
    inverse_q = take(columns), inverse_k = take(columns);
    if (backward) dqkv.memory = take(rows * dqkv.stride), v_t = take(columns * width), ds = take(square);
  }
  ~Scratch() { ::operator delete(memory, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
};

// Where the tokens of a window are: offsets in the map of one image, in tokens.
struct Tokens {
  int64_t count, klass;
  const int32_t* rows;
  const int32_t* columns;
  int64_t row_count, column_count;
};

template <typename T>
inline Tokens tokens_of(const WindowAttention<T>& p, int64_t window) {
  const int64_t y = window / p.windows_x, x = window % p.windows_x;
  const int32_t* rows = p.row_axis + y * (2 + p.window_y);
  const int32_t* columns = p.column_axis + x * (2 + p.window_x);
  const int64_t count = int64_t(rows[1]) * columns[1], klass = rows[0] * p.column_kinds + columns[0];
  return {count, klass, rows + 2, columns + 2, rows[1], columns[1]};
}

template <typename To, typename From>
inline void copy(To* to, const From* from, int64_t count) {
  for (int64_t c = 0; c < count; ++c) to[c] = static_cast<To>(from[c]);
}

template <typename T, typename F>
inline void each_token(const WindowAttention<T>& p, const Tokens& tokens, F f) {
  int64_t i = 0;
  for (int64_t y = 0; y < tokens.row_count; ++y) {
    for (int64_t x = 0; x < tokens.column_count; ++x) f(i++, tokens.rows[y] * p.width + tokens.columns[x]);
  }
}

// Rows of a window from a map of `parts` times C channels.
template <typename T, typename In>
inline void gather(
    const WindowAttention<T>& p, const Tokens& tokens, const In* image, int64_t parts, int64_t head, Rows<T>& rows) {
  each_token(p, tokens, [&](int64_t i, int64_t token) {
    const In* row = image + token * parts * p.channels + head * p.head_dim;
    T* to = rows.memory + i * rows.stride;
    if (rows.channels == p.channels) return copy(to, row, parts * p.channels);
    for (int64_t part = 0; part < parts; ++part, to += rows.channels, row += p.channels) copy(to, row, rows.channels);
  });
}

// The reverse of gather.
template <typename T, typename Out>
inline void scatter(
    const WindowAttention<T>& p, const Tokens& tokens, Out* image, int64_t parts, int64_t head, const Rows<T>& rows) {
  each_token(p, tokens, [&](int64_t i, int64_t token) {
    Out* row = image + token * parts * p.channels + head * p.head_dim;
    const T* from = rows.memory + i * rows.stride;
    if (rows.channels == p.channels) return copy(row, from, parts * p.channels);
    const int64_t run = rows.channels;
    for (int64_t part = 0; part < parts; ++part) copy(row + part * p.channels, from + part * run, run);
  });
}

// A head's result [n, width], times a factor, to its place among the others.
template <typename T>
inline void place(
    Rows<T>& rows, int64_t part, int64_t offset, const T* from, int64_t n, int64_t width, int64_t d, T factor) {
  T* to = rows.at(part, offset);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < d; ++c) to[i * rows.stride + c] = from[i * width + c] * factor;
  }
}

// The part-th of as many parts as there are heads of what will be gathered next: rows are far apart, and no hardware
// foresees the next one. Inlined, since compilers drop calls of a function that only does this.
template <typename T, typename In>
__attribute__((always_inline)) inline void prefetch(
    const WindowAttention<T>& p, const In* map, int64_t parts, int64_t item, const Scratch<T>& w, int64_t part) {
  const Tokens tokens = tokens_of(p, item % p.windows);
  const In* image = map + item / p.windows * p.height * p.width * parts * p.channels;
  const int64_t of = w.end - w.begin, bytes = of * p.head_dim * sizeof(In);
  for (int64_t i = part * tokens.count / of; i < (part + 1) * tokens.count / of; ++i) {
    const int64_t y = i / tokens.column_count, x = i % tokens.column_count;
    const In* row = image + (tokens.rows[y] * p.width + tokens.columns[x]) * parts * p.channels + w.begin * p.head_dim;
    for (int64_t j = 0; j < parts; ++j) {
      const char* run = reinterpret_cast<const char*>(row + j * p.channels);
      for (int64_t c = 0; c < bytes; c += 64) __builtin_prefetch(run + c, 0, 2);
    }
  }
}

// q, k and v of a window and the virtual key; returns the number of keys m.
template <typename T, typename In>
inline int64_t gather_qkv(const WindowAttention<T>& p, const Tokens& tokens, const In* image, Scratch<T>& w) {
  gather(p, tokens, image, 3, w.begin, w.qkv);
  const int64_t n = tokens.count;
  if (!p.pad_kv || n == p.window_y * p.window_x) return n;
  for (int64_t part = 0; part < 2; ++part) {
    copy(
        w.qkv.at(1 + part, n * w.qkv.stride), p.pad_kv + part * p.channels + w.begin * p.head_dim, w.qkv.channels);
  }
  return n + 1;
}

// Rows to unit length, as torch.nn.functional.normalize does; keeps what they were multiplied by.
template <typename T>
inline void normalize_rows(T* x, int64_t stride, T* inverse, int64_t rows, int64_t count) {
  for (int64_t i = 0; i < rows; ++i) {
    T* row = x + i * stride;
    const T norm = root(dot(row, row, count));
    inverse[i] = 1 / (norm < T(1e-12) ? T(1e-12) : norm);
    for (int64_t c = 0; c < count; ++c) row[c] *= inverse[i];
  }
}

// The derivative of normalize_rows: in place from that by the unit rows to that by the rows themselves.
template <typename T>
inline void unnormalize_rows(
    T* dx, int64_t width, const T* unit, int64_t stride, const T* inverse, int64_t rows, int64_t count) {
  for (int64_t i = 0; i < rows; ++i) {
    T* row = dx + i * width;
    const T* u = unit + i * stride;
    // a row shorter than the limit is multiplied by a constant
    const T along = inverse[i] < T(1e12) ? dot(row, u, count) : T(0);
    for (int64_t c = 0; c < count; ++c) row[c] = (row[c] - u[c] * along) * inverse[i];
  }
}

// Rows of s become softmax of scale * s + tile. `vectors` and `rows` fit the registers: what depends on itself is slow,
// and rows do not depend on each other.
template <typename T, int vectors, int rows>
inline void softmax_rows(T* s, int64_t columns, const T* tile, int64_t tile_columns, T scale) {
  constexpr int64_t size = Vector<T>::size;
  vec<T> x[rows][vectors], most[rows], sum[rows];
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
    most[i] = vec<T>{} - T(__builtin_inff()), sum[i] = vec<T>{};
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      x[i][j] = load(s + i * columns + j * size) * scale + load(tile + i * tile_columns + j * size);
      most[i] = x[i][j] > most[i] ? x[i][j] : most[i];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) most[i] = vec<T>{} + horizontal_max<T>(most[i]);
#pragma GCC unroll 8
  for (int j = 0; j < vectors; ++j) {
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) sum[i] += x[i][j] = exp_of_negative(x[i][j] - most[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) sum[i] = vec<T>{} + 1 / horizontal_sum<T>(sum[i]);
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) store(s + i * columns + j * size, x[i][j] * sum[i]);
  }
}

// The same for any number of columns.
template <typename T>
inline void softmax_row(T* s, int64_t columns, const T* tile, T scale) {
  constexpr int64_t size = Vector<T>::size;
  vec<T> most = vec<T>{} - T(__builtin_inff()), sum = {};
  for (int64_t j = 0; j < columns; j += size) {
    const vec<T> score = load(s + j) * scale + load(tile + j);
    store(s + j, score);
    most = score > most ? score : most;
  }
  const T highest = horizontal_max<T>(most);
  for (int64_t j = 0; j < columns; j += size) {
    const vec<T> e = exp_of_negative(load(s + j) - highest);
    store(s + j, e);
    sum += e;
  }
  const T inverse = 1 / horizontal_sum<T>(sum);
  for (int64_t j = 0; j < columns; j += size) store(s + j, load(s + j) * inverse);
}

template <typename T, int vectors>
inline void softmax(T* s, int64_t n, int64_t columns, const T* tile, int64_t tile_columns, T scale) {
  constexpr int fit = REGISTERS / 2 / vectors, at_once = fit > 4 ? 4 : fit;
  int64_t i = 0;
  for (; i + at_once <= n; i += at_once) {
    softmax_rows<T, vectors, at_once>(s + i * columns, columns, tile + i * tile_columns, tile_columns, scale);
  }
  for (; i < n; ++i) {
    softmax_rows<T, vectors, 1>(s + i * columns, columns, tile + i * tile_columns, tile_columns, scale);
  }
}

template <typename T>
inline T score_scale(const WindowAttention<T>& p, int64_t head) {
  return p.cosine_scale ? p.cosine_scale[head] : p.scale;
}

// s = softmax of scale * q k^T + tile over m keys; rows of whole vectors, zeros behind the keys.
template <typename T>
inline void weights(const WindowAttention<T>& p, const Tokens& tokens, int64_t head, int64_t m, Scratch<T>& w) {
  const int64_t n = tokens.count, columns = w.whole(m);
  const int64_t offset = (head - w.begin) * p.head_dim, stride = w.qkv.stride;
  T *q = w.qkv.at(0, offset), *k = w.qkv.at(1, offset);
  if (p.cosine_scale) {
    normalize_rows(q, stride, w.inverse_q, n, p.head_dim);
    normalize_rows(k, stride, w.inverse_k, m, p.head_dim);
  }
  transpose(w.k_t, columns, k, stride, m, p.head_dim);
  product(n, columns, p.head_dim, q, stride, int64_t(1), w.k_t, columns, w.s, columns);
  const T scale = score_scale(p, head);
  const T* tile = p.tiles + (tokens.klass * p.heads + head) * p.tile_rows * p.tile_columns;
  switch (columns / w.size) {
    case 1: return softmax<T, 1>(w.s, n, columns, tile, p.tile_columns, scale);
    case 2: return softmax<T, 2>(w.s, n, columns, tile, p.tile_columns, scale);
    case 3: return softmax<T, 3>(w.s, n, columns, tile, p.tile_columns, scale);
    case 4: return softmax<T, 4>(w.s, n, columns, tile, p.tile_columns, scale);
    default:
      for (int64_t i = 0; i < n; ++i) softmax_row(w.s + i * columns, columns, tile + i * p.tile_columns, scale);
  }
}

// Windows [first, last) of all images, heads [begin, end).
template <typename T, typename In>
void forward(
    const WindowAttention<T>& p, const In* qkv, In* out, int64_t begin, int64_t end, int64_t first, int64_t last) {
  Scratch<T> w(p, begin, end, false);
  for (int64_t item = first; item < last; ++item) {
    const int64_t image = item / p.windows * p.height * p.width * p.channels;
    const Tokens tokens = tokens_of(p, item % p.windows);
    const int64_t n = tokens.count, m = gather_qkv(p, tokens, qkv + 3 * image, w), columns = w.whole(m);
    for (int64_t head = begin; head < end; ++head) {
      if (item + 1 < last) prefetch(p, qkv, 3, item + 1, w, head - begin);
      weights(p, tokens, head, m, w);
      const int64_t offset = (head - begin) * p.head_dim;
      product(n, w.width, m, w.s, columns, int64_t(1), w.qkv.at(2, offset), w.qkv.stride, w.result, w.width);
      place(w.out, 0, offset, w.result, n, w.width, p.head_dim, T(1));
    }
    scatter(p, tokens, out + image, 1, begin, w.out);
  }
}

// ds = s (ds - sum of s ds), of which dtile gets its share.
template <typename T>
inline void softmax_backward(const WindowAttention<T>& p, int64_t n, int64_t m, const Scratch<T>& w, T* dtile) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t columns = w.whole(m);
  for (int64_t i = 0; i < n; ++i) {
    const T* s = w.s + i * columns;
    T *ds = w.ds + i * columns, *to = dtile + i * p.tile_columns;
    // a number taken from all of ds changes nothing but rounding, which hurts where one key has most weight: so the mean
    // is found twice, the second time from what differs from the first
    vec<T> sum = {}, rest = {};
    for (int64_t j = 0; j < columns; j += size) sum += load(s + j) * load(ds + j);
    const T offset = horizontal_sum<T>(sum);
    for (int64_t j = 0; j < columns; j += size) rest += load(s + j) * (load(ds + j) - offset);
    const T delta = horizontal_sum<T>(rest);
    for (int64_t j = 0; j < columns; j += size) {
      const vec<T> value = load(s + j) * (load(ds + j) - offset - delta);
      store(ds + j, value);
      store(to + j, load(to + j) + value);
    }
  }
}

// Windows [first, last) of all images, heads [begin, end). dtiles [heads, …], dpad_kv [2 C] and dcosine_scale [heads]
// are the sums of these windows.
template <typename T, typename In>
void backward(
    const WindowAttention<T>& p, const In* qkv, const In* grad, In* dqkv, T* dtiles, T* dpad_kv, T* dcosine_scale,
    int64_t begin, int64_t end, int64_t first, int64_t last) {
  Scratch<T> w(p, begin, end, true);
  const int64_t square = p.tile_rows * p.tile_columns, width = w.width, stride = w.qkv.stride, d = p.head_dim;
  for (int64_t item = first; item < last; ++item) {
    const int64_t image = item / p.windows * p.height * p.width * p.channels;
    const Tokens tokens = tokens_of(p, item % p.windows);
    const int64_t n = tokens.count, m = gather_qkv(p, tokens, qkv + 3 * image, w);
    const int64_t columns = w.whole(m);
    gather(p, tokens, grad + image, 1, begin, w.out);
    for (int64_t head = begin; head < end; ++head) {
      if (item + 1 < last) {
        prefetch(p, qkv, 3, item + 1, w, head - begin);
        prefetch(p, grad, 1, item + 1, w, head - begin);
      }
      const int64_t offset = (head - begin) * d;
      const T scale = score_scale(p, head);
      const T *q = w.qkv.at(0, offset), *k = w.qkv.at(1, offset), *v = w.qkv.at(2, offset), *g = w.out.at(0, offset);
      weights(p, tokens, head, m, w);
      transpose(w.v_t, columns, v, stride, m, d);
      product(n, columns, d, g, w.out.stride, int64_t(1), w.v_t, columns, w.ds, columns);
      softmax_backward(p, n, m, w, dtiles + (head * p.classes + tokens.klass) * square);

      T* dq = w.result;
      product(n, width, m, w.ds, columns, int64_t(1), k, stride, dq, width);
      if (p.cosine_scale) {
        T sum = 0;  // of this window first: the fewer numbers a sum has, the more exact it is
        for (int64_t i = 0; i < n; ++i) sum += dot(q + i * stride, dq + i * width, d);
        dcosine_scale[head] += sum;
        unnormalize_rows(dq, width, q, stride, w.inverse_q, n, d);
      }
      place(w.dqkv, 0, offset, dq, n, width, d, scale);

      T* dk = w.result;
      product(m, width, n, w.ds, int64_t(1), columns, q, stride, dk, width);
      if (p.cosine_scale) unnormalize_rows(dk, width, k, stride, w.inverse_k, m, d);
      place(w.dqkv, 1, offset, dk, n, width, d, scale);
      T* dpad = dpad_kv + head * d;
      for (int64_t c = 0; m > n && c < d; ++c) dpad[c] += dk[n * width + c] * scale;

      T* dv = w.result;
      product(m, width, n, w.s, int64_t(1), columns, g, w.out.stride, dv, width);
      place(w.dqkv, 2, offset, dv, n, width, d, T(1));
      for (int64_t c = 0; m > n && c < d; ++c) dpad[p.channels + c] += dv[n * width + c];
    }
    scatter(p, tokens, dqkv + 3 * image, 3, begin, w.dqkv);
  }
}

#define INSTANTIATE(T, In)                                                                                           \
  template void forward<T, In>(const WindowAttention<T>&, const In*, In*, int64_t, int64_t, int64_t, int64_t);       \
  template void backward<T, In>(                                                                                     \
      const WindowAttention<T>&, const In*, const In*, In*, T*, T*, T*, int64_t, int64_t, int64_t, int64_t);
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(float, Half)
INSTANTIATE(float, BFloat16)
#undef INSTANTIATE
