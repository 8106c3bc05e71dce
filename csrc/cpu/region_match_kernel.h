// The best of a teacher's regions for each of a student's, for one instruction set; included as simd.h is, after it.
//
// Similarities of a tile of the teacher's regions with all of the student's are compared and forgotten. A vector holds
// those of one of the teacher's regions with several of the student's.

// A row of unit length, as torch.nn.functional.normalize makes it; `step` apart.
template <typename T, typename R>
inline void normalize(T* to, int64_t step, const T* row, int64_t count) {
  const T norm = std::max(root(dot(row, row, count)), T(1e-12));
  for (int64_t c = 0; c < count; ++c) to[c * step] = static_cast<T>(static_cast<R>(row[c] / norm));
}

template <typename T, typename R>
void match(const RegionMatch<T>& p, int64_t image, int64_t view) {
  constexpr int64_t tile = 64, size = Vector<T>::size;
  const int64_t filled = (p.tokens + size - 1) / size * size, pair = image * p.views + view;
  std::vector<T> student(p.channels * filled), teacher(tile * p.channels), found(tile * filled);
  std::vector<T> best(filled, -std::numeric_limits<T>::infinity()), second(best);
  std::vector<int64_t> index(filled);
  for (int64_t i = 0; i < p.tokens; ++i) {
    normalize<T, R>(student.data() + i, filled, p.student + (image * p.tokens + i) * p.channels, p.channels);
  }
  for (int64_t first = 0; first < p.candidates; first += tile) {
    const int64_t count = std::min(tile, p.candidates - first);
    for (int64_t k = 0; k < count; ++k) {
      const T* row = p.teacher + (pair * p.candidates + first + k) * p.channels;
      normalize<T, R>(teacher.data() + k * p.channels, 1, row, p.channels);
    }
    const T *rows = teacher.data(), *turned = student.data();
    product(count, filled, p.channels, rows, p.channels, int64_t(1), turned, filled, found.data(), filled);
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < p.tokens; ++i) {
        const T s = static_cast<T>(static_cast<R>(found[k * filled + i]));
        // the first maximum, and the first of those that are no number, as in torch.max
        if (s > best[i] || (s != s && best[i] == best[i])) {
          second[i] = best[i], best[i] = s, index[i] = first + k;
        } else {
          second[i] = s > second[i] ? s : second[i];
        }
      }
    }
  }
  for (int64_t i = 0; i < p.tokens; ++i) {
    const int64_t at = pair * p.tokens + i;
    p.index[at] = index[i], p.similarity[at] = best[i], p.margin[at] = best[i] - second[i];
  }
}

#define INSTANTIATE(T, R) template void match<T, R>(const RegionMatch<T>&, int64_t, int64_t);
INSTANTIATE(double, double)
INSTANTIATE(double, float)
INSTANTIATE(double, torch::headeronly::Half)
INSTANTIATE(double, torch::headeronly::BFloat16)
INSTANTIATE(float, float)
INSTANTIATE(float, torch::headeronly::Half)
INSTANTIATE(float, torch::headeronly::BFloat16)
#undef INSTANTIATE
