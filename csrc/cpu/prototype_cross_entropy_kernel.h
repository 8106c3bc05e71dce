// Softmax over very many prototypes and what follows from it, for one instruction set; included as simd.h is, after it.
//
// Weights of a chunk of rows are kept, [prototypes, rows]: a vector holds one prototype's weights of several rows, so
// that sums over prototypes need no horizontal ones. A tile of prototypes is scored and exponentiated while it is in
// the cache, relative to the largest score so far; once all are known, one factor a row and tile makes it right, and
// both products follow: of the weights with the prototypes, and with the rows.

// The highest score of a tile [prototypes, rows] in each of the rows of a vector, and the first prototype that has it.
template <typename T>
inline void note_best(
    const T* scores, int64_t stride, int64_t count, vec<T> most, vec<T> top, int64_t first, int64_t* best) {
  for (int64_t lane = 0; lane < Vector<T>::size; ++lane) {
    if (!(top[lane] > most[lane])) continue;
    for (int64_t k = 0; k < count; ++k) {
      if (scores[k * stride + lane] == top[lane]) {
        best[lane] = first + k;
        break;
      }
    }
  }
}

// Scores of a chunk of rows with a share of the prototypes; weights relative to the highest one so far.
template <typename T>
void score(const Assignment<T>& p, int64_t chunk, int64_t share) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t tiles = (p.prototypes + p.tile - 1) / p.tile, stride = p.chunk;
  const int64_t at = (chunk * p.shares + share) * stride, end = std::min(tiles, (share + 1) * p.tiles_of_share);
  // not -infinity, from which a score of -infinity could not be subtracted
  const vec<T> lowest = vec<T>{} - std::numeric_limits<T>::max();
  for (int64_t t = share * p.tiles_of_share; t < end; ++t) {
    const int64_t first = t * p.tile, count = std::min(p.tile, p.prototypes - first);
    const bool begin = t == share * p.tiles_of_share;
    T* scores = p.weights + (chunk * p.prototypes + first) * stride;
    // in parts, whose sums are exact enough that rounding stays below that of the score itself
    for (int64_t d = 0; d < p.width; d += p.depth) {
      const auto multiply = d ? product<T, true> : product<T, false>;
      multiply(
          count, stride, std::min(p.depth, p.width - d), p.keys + first * p.width + d, p.width, int64_t(1),
          p.rows_t + (chunk * p.width + d) * stride, stride, scores, stride);
    }
    for (int64_t j = 0; j < stride; j += size) {
      vec<T> top = lowest;
      for (int64_t k = 0; k < count; ++k) {
        T* to = scores + k * stride + j;
        const vec<T> z = load(to) * p.key_scale[first + k] + (p.key_bias ? p.key_bias[first + k] : T(0));
        store(to, z);
        top = z > top ? z : top;
      }
      const vec<T> before = begin ? lowest : load(p.most + at + j);
      note_best(scores + j, stride, count, before, top, first, p.best + at + j);
      const vec<T> most = top > before ? top : before;
      vec<T> total = {}, moment = {}, rest = {};
      for (int64_t k = 0; k < count; ++k) {
        T* to = scores + k * stride + j;
        const vec<T> less = load(to) - most, weight = exp_of_negative(less);
        store(to, weight);
        total += weight, moment += weight * (lowest > less ? lowest : less);
      }
      if (!begin) {
        const vec<T> drop = before - most, factor = exp_of_negative(drop), old = load(p.total + at + j);
        moment += factor * (load(p.moment + at + j) + old * drop);
        // what the sum loses to rounding is kept: beside a weight near one, many small ones would vanish
        const vec<T> scaled = factor * old, sum = scaled + total, part = sum - scaled;
        rest = factor * load(p.rest + at + j) + ((scaled - (sum - part)) + (total - part)), total = sum;
      }
      store(p.most + at + j, most), store(p.total + at + j, total), store(p.moment + at + j, moment);
      store(p.rest + at + j, rest);
      store(p.level + (chunk * tiles + t) * stride + j, most);
    }
  }
}

// Weights of all rows and a share of the prototypes, made right: their products with values and rows, and their sums.
template <typename T>
void gather_prototypes(const Assignment<T>& p, int64_t share) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t tiles = (p.prototypes + p.tile - 1) / p.tile, stride = p.chunk;
  const int64_t end = std::min(tiles, (share + 1) * p.tiles_of_share);
  std::vector<T> scaled(p.values ? p.tile * p.filled : 0);
  std::vector<T> padded(p.outer && p.filled > p.width ? p.tile * p.filled : 0), factors(stride);
  for (int64_t t = share * p.tiles_of_share; t < end; ++t) {
    const int64_t first = t * p.tile, count = std::min(p.tile, p.prototypes - first);
    for (int64_t k = 0; p.values && k < count; ++k) {
      const T* row = p.values + (first + k) * p.width;
      for (int64_t c = 0; c < p.width; ++c) scaled[k * p.filled + c] = row[c] * p.value_scale[first + k];
    }
    for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
      T* weights = p.weights + (chunk * p.prototypes + first) * stride;
      const T *level = p.level + (chunk * tiles + t) * stride, *most = p.highest + chunk * stride;
      for (int64_t j = 0; j < stride; j += size) {
        const vec<T> inverse = load(p.inverse + chunk * stride + j);
        store(factors.data() + j, exp_of_negative(load(level + j) - load(most + j)) * inverse);
      }
      for (int64_t j = std::max(p.rows - chunk * stride, int64_t(0)); j < stride; ++j) factors[j] = 0;
      for (int64_t k = 0; k < count; ++k) {
        vec<T> used = {};
        for (int64_t j = 0; j < stride; j += size) {
          T* to = weights + k * stride + j;
          const vec<T> weight = load(to) * load(factors.data() + j);
          store(to, weight);
          used += weight;
        }
        if (p.usage) p.usage[first + k] += horizontal_sum<T>(used);
      }
      if (p.values) {
        T* mean = p.mean + (chunk * p.shares + share) * stride * p.filled;
        product<T, true>(
            stride, p.filled, count, weights, int64_t(1), stride, scaled.data(), p.filled, mean, p.filled);
      }
      if (p.outer) {
        const T* outer = p.outer + chunk * stride * p.filled;
        T* sum = p.sum + first * p.width;
        const bool fresh = p.fresh && chunk == 0;
        if (p.filled == p.width) {
          const auto multiply = fresh ? product<T, false> : product<T, true>;
          multiply(count, p.width, stride, weights, stride, int64_t(1), outer, p.filled, sum, p.width);
          continue;
        }
        product(count, p.filled, stride, weights, stride, int64_t(1), outer, p.filled, padded.data(), p.filled);
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t c = 0; c < p.width; ++c) {
            T& to = sum[k * p.width + c];
            to = padded[k * p.filled + c] + (fresh ? T(0) : to);
          }
        }
      }
    }
  }
}

// The derivative of g * weight / length in rows [begin, end): dweight in place, and dg.
template <typename T>
void weight_norm_backward(
    T* dweight, T* dg, const T* weight, const T* g, const T* length, int64_t width, int64_t begin, int64_t end) {
  for (int64_t k = begin; k < end; ++k) {
    T* d = dweight + k * width;
    const T* v = weight + k * width;
    const T along = dot(d, v, width) / length[k], scale = g[k] / length[k], back = along / length[k];
    for (int64_t c = 0; c < width; ++c) d[c] = scale * (d[c] - back * v[c]);
    dg[k] = along;
  }
}

#define INSTANTIATE(T)                                                                                               \
  template void score<T>(const Assignment<T>&, int64_t, int64_t);                                                    \
  template void gather_prototypes<T>(const Assignment<T>&, int64_t);                                                 \
  template void weight_norm_backward<T>(T*, T*, const T*, const T*, const T*, int64_t, int64_t, int64_t);
INSTANTIATE(double)
INSTANTIATE(float)
#undef INSTANTIATE
