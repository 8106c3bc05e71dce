// Attention within windows, for one instruction set; included as simd.h is, after it.
//
// Each window has a class, which says which of its positions hold tokens. n tokens attend m keys: themselves and, where
// padded positions are attended, one virtual key that stands for all of those. Everything that depends on the class
// alone (bias, mask, weight of the virtual key, -infinity in unused columns) is in its tile, [n, m].
//
// A window's rows lie far apart in the map, and a head's part of a row is short: a group of heads is gathered at once,
// so that memory is read in long runs.

// A group of heads of one window; rows are filled with zeros to whole vectors.
template <typename T>
struct Scratch {
  enum Array { q, k, v, out, grad = out, dq, dk, dv, arrays };

  int64_t width, rows;  // elements of a row of head_dim; rows of an array
  int64_t begin, end;   // heads
  T* memory;
  T *k_t, *v_t, *s, *ds, *inverse_q, *inverse_k;

  Scratch(const WindowAttention<T>& p, int64_t begin, int64_t end) : begin(begin), end(end) {
    constexpr int64_t size = Vector<T>::size;
    width = (p.head_dim + size - 1) / size * size, rows = p.tile_columns;  // the latter a multiple of 16
    const int64_t array = rows * width, square = p.tile_rows * rows;
    const int64_t bytes = ((arrays * (end - begin) + 2) * array + 2 * square + 2 * rows) * sizeof(T);
    memory = static_cast<T*>(::operator new(bytes, std::align_val_t(64)));
    std::memset(memory, 0, bytes);
    k_t = memory + arrays * (end - begin) * array, v_t = k_t + array, s = v_t + array, ds = s + square;
    inverse_q = ds + square, inverse_k = inverse_q + rows;
  }
  ~Scratch() { ::operator delete(memory, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;

  T* at(int64_t head, int64_t array) const { return memory + ((head - begin) * arrays + array) * rows * width; }
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
  int64_t c = 0;
  if constexpr (std::is_same_v<To, From>) {
    for (; c + Vector<To>::size <= count; c += Vector<To>::size) store(to + c, load(from + c));
  }
  for (; c < count; ++c) to[c] = static_cast<To>(from[c]);
}

// Between arrays first, first + 1, … of the scratch and a map of `parts` times C channels.
template <bool to_map, typename T, typename Map>
inline void move(
    const WindowAttention<T>& p, const Tokens& tokens, Map* image, int64_t parts, const Scratch<T>& w, int64_t first) {
  const int64_t d = p.head_dim, step = w.arrays * w.rows * w.width;
  int64_t i = 0;
  for (int64_t y = 0; y < tokens.row_count; ++y) {
    for (int64_t x = 0; x < tokens.column_count; ++x, ++i) {
      Map* row = image + (tokens.rows[y] * p.width + tokens.columns[x]) * parts * p.channels + w.begin * d;
      for (int64_t part = 0; part < parts; ++part, row += p.channels) {
        T* in = w.at(w.begin, first + part) + i * w.width;
        for (int64_t head = 0; head < w.end - w.begin; ++head) {
          if constexpr (to_map) copy(row + head * d, in + head * step, d);
          else copy(in + head * step, row + head * d, d);
        }
      }
    }
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

// Fill q, k and v of a window; returns the number of keys m.
template <typename T, typename In>
inline int64_t gather(const WindowAttention<T>& p, const Tokens& tokens, const In* image, const Scratch<T>& w) {
  move<false>(p, tokens, image, 3, w, w.q);
  constexpr int64_t size = Vector<T>::size;
  const int64_t n = tokens.count, m = n + (p.pad_kv && n < p.window_y * p.window_x);
  for (int64_t head = w.begin; head < w.end; ++head) {
    for (int part = 0; part < 2; ++part) {
      T* row = w.at(head, w.k + part) + n * w.width;
      // what an earlier window left behind may be NaN
      std::memset(row, 0, ((m + size - 1) / size * size - n) * w.width * sizeof(T));
      if (m > n) copy(row, p.pad_kv + part * p.channels + head * p.head_dim, p.head_dim);
    }
  }
  return m;
}

// Rows to unit length, as torch.nn.functional.normalize does; keeps what they were multiplied by.
template <typename T>
inline void normalize_rows(T* x, T* inverse, int64_t rows, int64_t width) {
  constexpr int64_t size = Vector<T>::size;
  for (int64_t i = 0; i < rows; ++i) {
    T* row = x + i * width;
    vec<T> squares = {};
    for (int64_t c = 0; c < width; c += size) squares += load(row + c) * load(row + c);
    const T norm = root(horizontal_sum<T>(squares));
    inverse[i] = 1 / (norm < T(1e-12) ? T(1e-12) : norm);
    for (int64_t c = 0; c < width; c += size) store(row + c, load(row + c) * inverse[i]);
  }
}

// The derivative of normalize_rows: in place from that by the unit rows to that by the rows themselves.
template <typename T>
inline void unnormalize_rows(T* dx, const T* unit, const T* inverse, int64_t rows, int64_t width) {
  constexpr int64_t size = Vector<T>::size;
  for (int64_t i = 0; i < rows; ++i) {
    T* row = dx + i * width;
    const T* u = unit + i * width;
    vec<T> products = {};
    for (int64_t c = 0; c < width; c += size) products += load(row + c) * load(u + c);
    // a row shorter than the limit is multiplied by a constant
    const T along = inverse[i] < T(1e12) ? horizontal_sum<T>(products) : T(0);
    for (int64_t c = 0; c < width; c += size) store(row + c, (load(row + c) - load(u + c) * along) * inverse[i]);
  }
}

// row = softmax of scale * row + tile, for whole vectors: `count` of them, or `vectors` where those fit the registers.
template <typename T, int vectors>
inline void softmax_row(T* row, const T* tile, T scale, int64_t count) {
  constexpr int64_t size = Vector<T>::size;
  vec<T> most = vec<T>{} - T(__builtin_inff()), sum = {};
  if constexpr (vectors > 0) {
    vec<T> x[vectors];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      x[j] = load(row + j * size) * scale + load(tile + j * size);
      most = x[j] > most ? x[j] : most;
    }
    const T highest = horizontal_max<T>(most);
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) sum += x[j] = exp_of_negative(x[j] - highest);
    const T inverse = 1 / horizontal_sum<T>(sum);
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) store(row + j * size, x[j] * inverse);
  } else {
    for (int64_t j = 0; j < count * size; j += size) {
      const vec<T> score = load(row + j) * scale + load(tile + j);
      store(row + j, score);
      most = score > most ? score : most;
    }
    const T highest = horizontal_max<T>(most);
    for (int64_t j = 0; j < count * size; j += size) {
      const vec<T> e = exp_of_negative(load(row + j) - highest);
      store(row + j, e);
      sum += e;
    }
    const T inverse = 1 / horizontal_sum<T>(sum);
    for (int64_t j = 0; j < count * size; j += size) store(row + j, load(row + j) * inverse);
  }
}

template <typename T>
inline T score_scale(const WindowAttention<T>& p, int64_t head) {
  return p.cosine_scale ? p.cosine_scale[head] : p.scale;
}

// s = softmax of scale * q k^T + tile over m keys; rows of whole vectors, zeros behind the keys.
template <typename T>
inline void weights(const WindowAttention<T>& p, const Tokens& tokens, int64_t head, int64_t m, const Scratch<T>& w) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t n = tokens.count, count = (m + size - 1) / size, columns = count * size;
  T *q = w.at(head, w.q), *k = w.at(head, w.k);
  if (p.cosine_scale) {
    normalize_rows(q, w.inverse_q, n, w.width);
    normalize_rows(k, w.inverse_k, m, w.width);
  }
  transpose(w.k_t, columns, k, w.width, columns, w.width);
  product(n, columns, p.head_dim, q, w.width, int64_t(1), w.k_t, columns, w.s, columns);
  const T scale = score_scale(p, head);
  const T* tile = p.tiles + (tokens.klass * p.heads + head) * p.tile_rows * p.tile_columns;
  const auto row = count == 1   ? softmax_row<T, 1>
                   : count == 2 ? softmax_row<T, 2>
                   : count == 3 ? softmax_row<T, 3>
                   : count == 4 ? softmax_row<T, 4>
                                : softmax_row<T, 0>;
  for (int64_t i = 0; i < n; ++i) row(w.s + i * columns, tile + i * p.tile_columns, scale, count);
}

// Windows [first, last) of all images, heads [begin, end).
template <typename T, typename In>
void forward(
    const WindowAttention<T>& p, const In* qkv, In* out, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const Scratch<T> w(p, begin, end);
  constexpr int64_t size = Vector<T>::size;
  for (int64_t item = first; item < last; ++item) {
    const int64_t place = item / p.windows * p.height * p.width * p.channels;
    const Tokens tokens = tokens_of(p, item % p.windows);
    const int64_t m = gather(p, tokens, qkv + 3 * place, w), columns = (m + size - 1) / size * size;
    for (int64_t head = begin; head < end; ++head) {
      if (item + 1 < last) prefetch(p, qkv, 3, item + 1, w, head - begin);
      weights(p, tokens, head, m, w);
      product(
          tokens.count, w.width, m, w.s, columns, int64_t(1), w.at(head, w.v), w.width, w.at(head, w.out), w.width);
    }
    move<true>(p, tokens, out + place, 1, w, w.out);
  }
}

// ds = s (ds - sum of s ds), of which dtile gets its share.
template <typename T>
inline void softmax_backward(const WindowAttention<T>& p, int64_t n, int64_t m, const Scratch<T>& w, T* dtile) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t columns = (m + size - 1) / size * size;
  for (int64_t i = 0; i < n; ++i) {
    const T* s = w.s + i * columns;
    T *ds = w.ds + i * columns, *to = dtile + i * p.tile_columns;
    // a number taken from all of ds changes nothing but rounding, which hurts where the virtual key has most weight
    const T offset = m > n && s[n] > T(0.5) ? ds[n] : T(0);
    vec<T> sum = {};
    for (int64_t j = 0; j < columns; j += size) sum += load(s + j) * (load(ds + j) - offset);
    const T delta = horizontal_sum<T>(sum);
    for (int64_t j = 0; j < columns; j += size) {
      const vec<T> value = load(s + j) * (load(ds + j) - offset - delta);
      store(ds + j, value);
      store(to + j, load(to + j) + value);
    }
  }
}

template <typename T>
inline void multiply(T* x, T factor, int64_t count) {
  for (int64_t c = 0; c < count; c += Vector<T>::size) store(x + c, load(x + c) * factor);
}

// Windows [first, last) of all images, heads [begin, end). dtiles [heads, …], dpad_kv [2 C] and dcosine_scale [heads]
// are the sums of these windows.
template <typename T, typename In>
void backward(
    const WindowAttention<T>& p, const In* qkv, const In* grad, In* dqkv, T* dtiles, T* dpad_kv, T* dcosine_scale,
    int64_t begin, int64_t end, int64_t first, int64_t last) {
  const Scratch<T> w(p, begin, end);
  constexpr int64_t size = Vector<T>::size;
  const int64_t square = p.tile_rows * p.tile_columns, width = w.width;
  for (int64_t item = first; item < last; ++item) {
    const int64_t place = item / p.windows * p.height * p.width * p.channels;
    const Tokens tokens = tokens_of(p, item % p.windows);
    const int64_t n = tokens.count, m = gather(p, tokens, qkv + 3 * place, w), columns = (m + size - 1) / size * size;
    move<false>(p, tokens, grad + place, 1, w, w.grad);
    for (int64_t head = begin; head < end; ++head) {
      T *q = w.at(head, w.q), *k = w.at(head, w.k), *v = w.at(head, w.v), *g = w.at(head, w.grad);
      if (item + 1 < last) {
        prefetch(p, qkv, 3, item + 1, w, head - begin);
        prefetch(p, grad, 1, item + 1, w, head - begin);
      }
      T *dq = w.at(head, w.dq), *dk = w.at(head, w.dk), *dv = w.at(head, w.dv);
      weights(p, tokens, head, m, w);
      transpose(w.v_t, columns, v, width, columns, width);
      product(n, columns, p.head_dim, g, width, int64_t(1), w.v_t, columns, w.ds, columns);
      softmax_backward(p, n, m, w, dtiles + (head * p.classes + tokens.klass) * square);
      product(n, width, m, w.ds, columns, int64_t(1), k, width, dq, width);
      product(m, width, n, w.ds, int64_t(1), columns, q, width, dk, width);
      product(m, width, n, w.s, int64_t(1), columns, g, width, dv, width);
      if (p.cosine_scale) {
        vec<T> sum = {};
        for (int64_t c = 0; c < n * width; c += size) sum += load(q + c) * load(dq + c);
        dcosine_scale[head] += horizontal_sum<T>(sum);
        unnormalize_rows(dq, q, w.inverse_q, n, width);
        unnormalize_rows(dk, k, w.inverse_k, m, width);
      }
      multiply(dq, score_scale(p, head), n * width);
      multiply(dk, score_scale(p, head), m * width);
      if (m > n) {
        T* dpad = dpad_kv + head * p.head_dim;
        for (int64_t c = 0; c < p.head_dim; ++c) {
          dpad[c] += dk[n * width + c];
          dpad[p.channels + c] += dv[n * width + c];
        }
      }
    }
    move<true>(p, tokens, dqkv + 3 * place, 3, w, w.dq);
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
