// Cross-entropy of pairs of rows of logits, for one instruction set; included as simd.h is, after it.
//
// A row is taken in blocks that stay in the cache. Probabilities are never kept: what is kept of a row is its highest
// score and its sum of exponentials relative to that, apart, as their sum would be rounded; each use makes them again.

constexpr int64_t BLOCK = SoftCrossEntropy<float>::block;

// Block of a row, times scale, less center times scale where that is not null; filled up with -infinity.
template <typename T, typename In>
inline void scaled(T* to, const In* from, const T* center, T scale, int64_t count) {
  for (int64_t k = 0; k < count; ++k) to[k] = (static_cast<T>(from[k]) - (center ? center[k] : T(0))) * scale;
  for (int64_t k = count; k < (count + 15) / 16 * 16; ++k) to[k] = -std::numeric_limits<T>::infinity();
}

// The sum of exponentials of a row relative to its highest score, its entropy, that score and the first place that has
// it.
template <typename T, typename In>
inline void describe_row(
    const In* row, const T* center, T scale, int64_t count, double& total, T& entropy, T& most, int64_t& best) {
  constexpr int64_t size = Vector<T>::size;
  T z[BLOCK];
  double moment = 0;
  total = 0;
  most = std::numeric_limits<T>::lowest(), best = 0;
  for (int64_t first = 0; first < count; first += BLOCK) {
    const int64_t length = std::min(BLOCK, count - first);
    scaled(z, row + first, center ? center + first : nullptr, scale, length);
    vec<T> top = vec<T>{} + std::numeric_limits<T>::lowest();
    for (int64_t k = 0; k < length; k += size) {
      const vec<T> x = load(z + k);
      top = x > top ? x : top;
    }
    const T highest = std::max(most, horizontal_max<T>(top));
    if (highest > most) {
      best = first + (std::find(z, z + length, highest) - z);
      const double drop = first > 0 ? double(most) - highest : 0.0, factor = std::exp(drop);
      moment = factor * (moment + total * drop), total *= factor, most = highest;
    }
    vec<T> sum = {}, moments = {};
    const vec<T> lowest = vec<T>{} + std::numeric_limits<T>::lowest();
    for (int64_t k = 0; k < length; k += size) {
      const vec<T> less = load(z + k) - most, e = exp_of_negative(less);
      sum += e, moments += e * (lowest > less ? lowest : less);
    }
    total += horizontal_sum<T>(sum), moment += horizontal_sum<T>(moments);
  }
  entropy = static_cast<T>(std::log(total) - moment / total);
}

template <typename T, typename In>
void teach(const SoftCrossEntropy<T>& p, const In* teacher, int64_t row) {
  double total;
  describe_row(
      teacher + row * p.prototypes, p.center, p.teacher_scale, p.prototypes, total, p.entropy[row], p.most[row],
      p.best[row]);
  p.log_total[row] = static_cast<T>(std::log(total)), p.inverse[row] = static_cast<T>(1 / total);
}

// How much of all the teacher's rows prototypes [begin, end) have, no more than BLOCK of them; rows in their order.
template <typename T, typename In>
void use(const SoftCrossEntropy<T>& p, const In* teacher, int64_t rows, T* usage, int64_t begin, int64_t end) {
  constexpr int64_t size = Vector<T>::size;
  T z[BLOCK], sum[BLOCK] = {};
  for (int64_t row = 0; row < rows; ++row) {
    scaled(z, teacher + row * p.prototypes + begin, p.center + begin, p.teacher_scale, end - begin);
    for (int64_t k = 0; k < end - begin; k += size) {
      store(sum + k, load(sum + k) + exp_of_negative(load(z + k) - p.most[row]) * p.inverse[row]);
    }
  }
  std::copy_n(sum, end - begin, usage + begin);
}

// The loss of a row of the student's, and its derivative, which may lie where the row does; none where it is null.
template <typename T, typename In>
void learn(
    const SoftCrossEntropy<T>& p, const In* student, const In* teacher, In* gradient, T* loss, int64_t row) {
  constexpr int64_t size = Vector<T>::size;
  const int64_t begin = p.start[row], end = p.start[row + 1];
  const In* from = student + row * p.prototypes;
  if (begin == end) {  // nothing is asked of it: it costs nothing, even if it is no number
    loss[row] = 0;
    if (gradient) std::fill_n(gradient + row * p.prototypes, p.prototypes, static_cast<In>(T(0)));
    return;
  }
  T entropy, most, share = 0;
  double total, agreement = 0;
  int64_t best;
  describe_row<T>(from, nullptr, p.student_scale, p.prototypes, total, entropy, most, best);
  for (int64_t i = begin; i < end; ++i) share += p.weight[i];
  const T own = static_cast<T>(share / total);
  T s[BLOCK], z[BLOCK], target[BLOCK];
  for (int64_t first = 0; first < p.prototypes; first += BLOCK) {
    const int64_t length = std::min(BLOCK, p.prototypes - first);
    scaled<T>(s, from + first, nullptr, p.student_scale, length);
    std::fill_n(target, BLOCK, T(0));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = p.row[i];
      scaled(z, teacher + m * p.prototypes + first, p.center + first, p.teacher_scale, length);
      for (int64_t k = 0; k < length; k += size) {
        const vec<T> q = exp_of_negative(load(z + k) - p.most[m]);
        store(target + k, load(target + k) + q * (p.inverse[m] * p.weight[i]));
      }
    }
    // a score of -infinity that no teacher means costs nothing
    vec<T> agreed = {};
    for (int64_t k = 0; k < length; k += size) {
      const vec<T> t = load(target + k), each = t * (load(s + k) - most), none = {};
      agreed += t == none ? none : each;
    }
    agreement += horizontal_sum<T>(agreed);
    if (!gradient) continue;
    for (int64_t k = 0; k < length; k += size) {
      store(s + k, (exp_of_negative(load(s + k) - most) * own - load(target + k)) * p.student_scale);
    }
    for (int64_t k = 0; k < length; ++k) gradient[row * p.prototypes + first + k] = static_cast<In>(s[k]);
  }
  loss[row] = static_cast<T>(share * std::log(total) - agreement);
}

#define INSTANTIATE(T, In)                                                                                           \
  template void teach<T, In>(const SoftCrossEntropy<T>&, const In*, int64_t);                                        \
  template void use<T, In>(const SoftCrossEntropy<T>&, const In*, int64_t, T*, int64_t, int64_t);                    \
  template void learn<T, In>(const SoftCrossEntropy<T>&, const In*, const In*, In*, T*, int64_t);
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(float, torch::headeronly::Half)
INSTANTIATE(float, torch::headeronly::BFloat16)
#undef INSTANTIATE
