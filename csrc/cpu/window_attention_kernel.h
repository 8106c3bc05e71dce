// Attention within windows, for one instruction set; included as simd.h is, after it.
//
// Each window has a class, which says which of its positions hold tokens. n tokens attend m keys: themselves and, where
// padded positions are attended, one virtual key that stands for all of those. Everything that depends on the class
// alone (bias, mask, weight of the virtual key, -infinity in unused columns) is in its tile, [n, m].

// What is gathered of a window for one head, rows padded with zeros to whole vectors.
template <typename T>
struct Scratch {
  int64_t width;  // elements of a row of head_dim
  T* memory;
  T *q, *k, *v, *k_t, *s, *o, *grad, *v_t, *ds, *dq, *dk, *dv, *inverse_q, *inverse_k;

  Scratch(const WindowAttention<T>& p, bool backward) {
    constexpr int64_t size = Vector<T>::size;
    width = (p.head_dim + size - 1) / size * size;
    const int64_t columns = p.tile_columns, row = columns * width, turned = row, square = p.tile_rows * columns;
    const int64_t count = (backward ? 8 : 4) * row + (backward ? 2 : 1) * (square + turned) + 2 * columns;
    memory = static_cast<T*>(std::calloc(count, sizeof(T)));
    if (!memory) throw std::bad_alloc();
    T* at = memory;
    auto take = [&](int64_t count) { T* begin = at; at += count; return begin; };
    q = take(row), k = take(row), v = take(row), o = take(row), k_t = take(turned), s = take(square);
    inverse_q = take(columns), inverse_k = take(columns);
    if (!backward) return;
    grad = take(row), dq = take(row), dk = take(row), dv = take(row), v_t = take(turned), ds = take(square);
  }
  ~Scratch() { std::free(memory); }
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

template <typename T, typename F>
inline void each_token(const WindowAttention<T>& p, const Tokens& tokens, F f) {
  int64_t i = 0;
  for (int64_t y = 0; y < tokens.row_count; ++y) {
    for (int64_t x = 0; x < tokens.column_count; ++x) f(i++, tokens.rows[y] * p.width + tokens.columns[x]);
  }
}

template <typename T, typename In>
inline void gather(T* to, const In* from, int64_t count) {
  for (int64_t c = 0; c < count; ++c) to[c] = static_cast<T>(from[c]);
}

template <typename T, typename Out>
inline void scatter(Out* to, const T* from, int64_t count, T factor) {
  for (int64_t c = 0; c < count; ++c) to[c] = static_cast<Out>(from[c] * factor);
}

template <typename T>
inline void transpose(T* to, const T* from, int64_t rows, int64_t from_row, int64_t columns, int64_t to_row) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * to_row + r] = from[r * from_row + c];
    for (int64_t r = rows; r < to_row; ++r) to[c * to_row + r] = 0;
  }
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
    const T *u = unit + i * width;
    vec<T> products = {};
    for (int64_t c = 0; c < width; c += size) products += load(row + c) * load(u + c);
    // a row shorter than the limit is multiplied by a constant
    const T along = inverse[i] < T(1e12) ? horizontal_sum<T>(products) : T(0);
    for (int64_t c = 0; c < width; c += size) store(row + c, (load(row + c) - load(u + c) * along) * inverse[i]);
  }
}

template <typename T>
inline T score_scale(const WindowAttention<T>& p, int64_t head) {
  return p.cosine_scale ? p.cosine_scale[head] : p.scale;
}

// Fill q, k, v and k transposed of a window and head; returns the number of keys m.
template <typename T, typename In>
inline int64_t gather_window(
    const WindowAttention<T>& p, const In* qkv, const Tokens& tokens, int64_t head, Scratch<T>& w) {
  const int64_t d = p.head_dim, at = head * d;
  each_token(p, tokens, [&](int64_t i, int64_t place) {
    const In* from = qkv + place * 3 * p.channels + at;
    gather(w.q + i * w.width, from, d);
    gather(w.k + i * w.width, from + p.channels, d);
    gather(w.v + i * w.width, from + 2 * p.channels, d);
  });
  const int64_t n = tokens.count, m = n + (p.pad_kv && n < p.window_y * p.window_x);
  if (m > n) {
    gather(w.k + n * w.width, p.pad_kv + at, d);
    gather(w.v + n * w.width, p.pad_kv + p.channels + at, d);
  }
  if (p.cosine_scale) {
    normalize_rows(w.q, w.inverse_q, n, w.width);
    normalize_rows(w.k, w.inverse_k, m, w.width);
  }
  const int64_t columns = (m + Vector<T>::size - 1) / Vector<T>::size * Vector<T>::size;
  transpose(w.k_t, w.k, m, w.width, d, columns);
  return m;
}

// s = softmax of scale * q k^T + tile over m keys; rows of whole vectors, zeros behind the keys.
template <typename T>
inline void weights(const WindowAttention<T>& p, const Tokens& tokens, int64_t head, int64_t m, Scratch<T>& w) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t columns = (m + size - 1) / size * size;
  product(tokens.count, columns, p.head_dim, w.q, w.width, int64_t(1), w.k_t, columns, w.s, columns);
  const T scale = score_scale(p, head);
  const T* tile = p.tiles + (tokens.klass * p.heads + head) * p.tile_rows * p.tile_columns;
  for (int64_t i = 0; i < tokens.count; ++i) {
    T* row = w.s + i * columns;
    vec<T> most = vec<T>{} - T(__builtin_inff());
    for (int64_t j = 0; j < columns; j += size) {
      const vec<T> score = load(row + j) * scale + load(tile + i * p.tile_columns + j);
      store(row + j, score);
      most = score > most ? score : most;
    }
    const T highest = horizontal_max<T>(most);
    vec<T> sum = {};
    for (int64_t j = 0; j < columns; j += size) {
      const vec<T> e = exp_of_negative(load(row + j) - highest);
      store(row + j, e);
      sum += e;
    }
    const T inverse = 1 / horizontal_sum<T>(sum);
    for (int64_t j = 0; j < columns; j += size) store(row + j, load(row + j) * inverse);
  }
}

// Windows [begin, end) of all images, all heads.
template <typename T, typename In>
void forward(const WindowAttention<T>& p, const In* qkv, In* out, int64_t begin, int64_t end) {
  Scratch<T> w(p, false);
  constexpr int64_t size = Vector<T>::size;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / p.windows, place = image * p.height * p.width;
    const Tokens tokens = tokens_of(p, item % p.windows);
    for (int64_t head = 0; head < p.heads; ++head) {
      const int64_t m = gather_window(p, qkv + place * 3 * p.channels, tokens, head, w);
      weights(p, tokens, head, m, w);
      const int64_t columns = (m + size - 1) / size * size;
      product(tokens.count, w.width, m, w.s, columns, int64_t(1), w.v, w.width, w.o, w.width);
      In* to = out + place * p.channels + head * p.head_dim;
      each_token(p, tokens, [&](int64_t i, int64_t at) {
        scatter(to + at * p.channels, w.o + i * w.width, p.head_dim, T(1));
      });
    }
  }
}

// Windows [begin, end) of all images, one head. The sums are this task's own.
template <typename T, typename In>
void backward(
    const WindowAttention<T>& p, const In* qkv, const In* grad, In* dqkv, T* dtiles, T* dpad_kv, T* dcosine_scale,
    int64_t head, int64_t begin, int64_t end) {
  Scratch<T> w(p, true);
  constexpr int64_t size = Vector<T>::size;
  const int64_t d = p.head_dim, at = head * d, square = p.tile_rows * p.tile_columns;
  const T scale = score_scale(p, head);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / p.windows, place = image * p.height * p.width;
    const Tokens tokens = tokens_of(p, item % p.windows);
    const int64_t n = tokens.count, m = gather_window(p, qkv + place * 3 * p.channels, tokens, head, w);
    const int64_t columns = (m + size - 1) / size * size;
    weights(p, tokens, head, m, w);
    each_token(p, tokens, [&](int64_t i, int64_t token) {
      gather(w.grad + i * w.width, grad + (place + token) * p.channels + at, d);
    });
    transpose(w.v_t, w.v, m, w.width, d, columns);
    product(n, columns, d, w.grad, w.width, int64_t(1), w.v_t, columns, w.ds, columns);
    T* dtile = dtiles + tokens.klass * square;
    for (int64_t i = 0; i < n; ++i) {
      const T* s = w.s + i * columns;
      T* ds = w.ds + i * columns;
      // a number taken from all of ds changes nothing but rounding, which hurts where the virtual key has most weight
      const T offset = m > n && s[n] > T(0.5) ? ds[n] : T(0);
      vec<T> sum = {};
      for (int64_t j = 0; j < columns; j += size) sum += load(s + j) * (load(ds + j) - offset);
      const T delta = horizontal_sum<T>(sum);
      T* to = dtile + i * p.tile_columns;
      for (int64_t j = 0; j < columns; j += size) {
        const vec<T> value = load(s + j) * (load(ds + j) - offset - delta);
        store(ds + j, value);
        store(to + j, load(to + j) + value);
      }
    }
    product(n, w.width, m, w.ds, columns, int64_t(1), w.k, w.width, w.dq, w.width);
    product(m, w.width, n, w.ds, int64_t(1), columns, w.q, w.width, w.dk, w.width);
    product(m, w.width, n, w.s, int64_t(1), columns, w.grad, w.width, w.dv, w.width);
    if (p.cosine_scale) {
      vec<T> sum = {};
      for (int64_t c = 0; c < n * w.width; c += size) sum += load(w.q + c) * load(w.dq + c);
      *dcosine_scale += horizontal_sum<T>(sum);
      unnormalize_rows(w.dq, w.q, w.inverse_q, n, w.width);
      unnormalize_rows(w.dk, w.k, w.inverse_k, m, w.width);
    }
    each_token(p, tokens, [&](int64_t i, int64_t token) {
      In* to = dqkv + (place + token) * 3 * p.channels + at;
      scatter(to, w.dq + i * w.width, d, scale);
      scatter(to + p.channels, w.dk + i * w.width, d, scale);
      scatter(to + 2 * p.channels, w.dv + i * w.width, d, T(1));
    });
    if (m > n) {
      for (int64_t c = 0; c < d; ++c) {
        dpad_kv[at + c] += w.dk[n * w.width + c] * scale;
        dpad_kv[p.channels + at + c] += w.dv[n * w.width + c];
      }
    }
  }
}

#define INSTANTIATE(T, In)                                                                                           \
  template void forward<T, In>(const WindowAttention<T>&, const In*, In*, int64_t, int64_t);                         \
  template void backward<T, In>(                                                                                     \
      const WindowAttention<T>&, const In*, const In*, In*, T*, T*, T*, int64_t, int64_t, int64_t);
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(float, Half)
INSTANTIATE(float, BFloat16)
#undef INSTANTIATE
