// Augmentation of one sample, for one instruction set; included as simd.h is, after it.
//
// Rows pass through one by one: what is done to each pixel, then the blur along the row, into a ring of the few rows
// that the blur across rows needs, which gives finished rows. A jitter of contrast needs the mean luminance of what
// comes before it, which a first sweep makes. All that is held stays in the cache.

using floats = vec<float>;

constexpr int64_t LANES = Vector<float>::size;

inline floats lesser(floats a, floats b) { return a < b ? a : b; }
inline floats greater(floats a, floats b) { return a > b ? a : b; }
inline floats clamped(floats x) { return lesser(greater(x, floats{}), floats{} + 255.0f); }
inline floats luminance(floats r, floats g, floats b) { return r * 0.2989f + g * 0.587f + b * 0.114f; }

template <size_t... lane>
inline floats backwards(floats x, std::index_sequence<lane...>) {
  return __builtin_shufflevector(x, x, (sizeof...(lane) - 1 - lane)...);
}

// Exchanges left and right; compilers vectorise no loop that does.
inline void mirror(float* row, int64_t width) {
  constexpr std::make_index_sequence<LANES> lanes;
  float* end = row + width;
  for (; end - row >= 2 * LANES; row += LANES) {
    const floats left = load(row), right = load(end -= LANES);
    store(row, backwards(right, lanes)), store(end, backwards(left, lanes));
  }
  std::reverse(row, end);
}

// `width` levels, from right to left where they are flipped, and zeros to a whole vector.
inline void read_row(float* __restrict to, const uint8_t* __restrict from, int64_t width, bool flip) {
  for (int64_t x = 0; x < width; ++x) to[x] = from[x];
  for (int64_t x = width; x % LANES; ++x) to[x] = 0;
  if (flip) mirror(to, width);
}

inline void turn_hue(floats& r, floats& g, floats& b, float sixths) {
  typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));
  const floats value = greater(greater(r, g), b), chroma = value - lesser(lesser(r, g), b);
  // of grey, differences are 0 whatever they are divided by
  const floats inverse = 1.0f / greater(chroma, floats{} + 1e-20f);
  const floats hue = value == r   ? (g - b) * inverse
                     : value == g ? (b - r) * inverse + 2.0f
                                  : (r - g) * inverse + 4.0f;  // -1 to 5 sixths of a turn
  floats* const channels[3] = {&r, &g, &b};
#pragma GCC unroll 3
  for (int c = 0; c < 3; ++c) {
    const floats turned = hue + (sixths + (5 - 2 * c));  // never below 0
    const floats turns = __builtin_convertvector(__builtin_convertvector(turned * (1 / 6.0f), ints), floats);
    const floats k = turned - 6.0f * turns, away = lesser(k, 4.0f - k);
    *channels[c] = value - lesser(greater(away, floats{}), floats{} + 1.0f) * chroma;
  }
}

// f(r, g, b) for all pixels of a row, whose channels are `stride` apart.
template <typename F>
inline void each_pixel(float* row, int64_t stride, int64_t width, F f) {
  for (int64_t x = 0; x < width; x += LANES) {
    floats r = load(row + x), g = load(row + stride + x), b = load(row + 2 * stride + x);
    f(r, g, b);
    store(row + x, r), store(row + stride + x, g), store(row + 2 * stride + x, b);
  }
}

// The first `count` operations of the jitter; black stays black in all that come before contrast.
inline void jitter(float* row, int64_t stride, int64_t width, const Augmentation& a, int count, float mean) {
  for (int i = 0; i < count; ++i) {
    if (a.order[i] == 0 && a.brightness != 1) {
      each_pixel(row, stride, width, [&](floats& r, floats& g, floats& b) {
        r = clamped(r * a.brightness), g = clamped(g * a.brightness), b = clamped(b * a.brightness);
      });
    } else if (a.order[i] == 1 && a.contrast != 1) {
      const float rest = mean * (1 - a.contrast);
      each_pixel(row, stride, width, [&](floats& r, floats& g, floats& b) {
        r = clamped(r * a.contrast + rest), g = clamped(g * a.contrast + rest), b = clamped(b * a.contrast + rest);
      });
    } else if (a.order[i] == 2 && a.saturation != 1) {
      each_pixel(row, stride, width, [&](floats& r, floats& g, floats& b) {
        const floats rest = luminance(r, g, b) * (1 - a.saturation);
        r = clamped(r * a.saturation + rest), g = clamped(g * a.saturation + rest);
        b = clamped(b * a.saturation + rest);
      });
    } else if (a.order[i] == 3 && a.hue != 0) {
      const float sixths = 6 * (a.hue - std::floor(a.hue));
      each_pixel(row, stride, width, [&](floats& r, floats& g, floats& b) { turn_hue(r, g, b, sixths); });
    }
  }
}

// Half of a Gaussian's weights, from the middle; all of them sum to one. Those that float32 cannot tell from none are
// left out.
inline std::vector<float> half_gaussian(float sigma, int64_t radius) {
  if (!(sigma > 0)) return {1.0f};
  std::vector<double> weights;
  double sum = -1;
  for (int64_t k = 0; k <= radius; ++k) {
    const double weight = std::exp(-0.5 * k * k / (double(sigma) * sigma));
    if (weight < 1.0 / (1 << 24)) break;
    weights.push_back(weight), sum += 2 * weight;
  }
  std::vector<float> taps;
  for (double weight : weights) taps.push_back(static_cast<float>(weight / sum));
  return taps;
}

// The first `count` lanes, rounded to Out.
template <typename Out>
inline void store_some(Out* to, floats x, int64_t count) {
  if constexpr (std::is_same_v<Out, torch::headeronly::BFloat16>) {
    // in integers, to the nearest and to even, which loops of the type's own conversion are too long for
    using B = Vector<float>::bits_type;
    const B bits = (B)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    for (int64_t i = 0; i < std::min(count, LANES); ++i) to[i].x = static_cast<uint16_t>(rounded[i]);
  } else {
    float values[LANES];
    store(values, x);
    if (count >= LANES) {
      for (int64_t i = 0; i < LANES; ++i) to[i] = static_cast<Out>(values[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Out>(values[i]);
    }
  }
}

// What one sample needs while its rows pass through.
template <typename Out>
struct Passage {
  const MulticropAugment<Out>& p;
  const Augmentation& a;
  const uint8_t* image;
  Out* out;
  const std::vector<float> taps;
  const int64_t reach, filled, stride, slots;
  float mean = 0;
  std::vector<float> line, ring;   // line: a row with `reach` more pixels to each side
  std::vector<const float*> near;  // rows that the blur adds, the middle one in the middle

  Passage(const MulticropAugment<Out>& p, const Augmentation& a, int64_t sample)
      : p(p),
        a(a),
        image(p.images + sample * 3 * p.height * p.width),
        out(p.out + sample * 3 * p.height * p.width),
        taps(half_gaussian(a.sigma, p.radius)),
        reach(taps.size() - 1),
        filled((p.width + LANES - 1) / LANES * LANES),
        stride(filled + 2 * reach),
        slots(2 * reach + 1),
        line(3 * stride),
        ring(slots * 3 * filled),
        near(slots) {}

  void read(float* to, int64_t step, int64_t y) {
    for (int64_t c = 0; c < 3; ++c) read_row(to + c * step, image + (c * p.height + y) * p.width, p.width, a.flip);
  }

  // The mean luminance of the image as the jitter of contrast finds it.
  void find_mean() {
    const int before = static_cast<int>(std::find(a.order, a.order + a.jitters, 1) - a.order);
    if (before == a.jitters || a.contrast == 1) return;
    double total = 0;
    for (int64_t y = 0; y < p.height; ++y) {
      read(line.data(), filled, y);
      jitter(line.data(), filled, filled, a, before, 0);
      floats sum = {};
      each_pixel(line.data(), filled, filled, [&](floats& r, floats& g, floats& b) { sum += luminance(r, g, b); });
      total += horizontal_sum<float>(sum);
    }
    mean = static_cast<float>(total / (p.height * p.width));
  }

  void color(float* row, int64_t step) {
    jitter(row, step, filled, a, a.jitters, mean);
    if (a.grey) each_pixel(row, step, filled, [](floats& r, floats& g, floats& b) { r = g = b = luminance(r, g, b); });
  }

  // Row y of the ring: blurred along itself.
  void take(int64_t y) {
    float* slot = ring.data() + y % slots * 3 * filled;
    if (reach == 0) return read(slot, filled, y), color(slot, filled);
    float* row = line.data() + reach;
    read(row, stride, y), color(row, stride);
    for (int64_t c = 0; c < 3; ++c, row += stride, slot += filled) {
      std::fill_n(row - reach, reach, row[0]);
      std::fill_n(row + p.width, reach, row[p.width - 1]);
      for (int64_t x = 0; x < filled; x += LANES) {
        floats sum = load(row + x) * taps[0];
        for (int64_t k = 1; k <= reach; ++k) sum += (load(row + x - k) + load(row + x + k)) * taps[k];
        store(slot + x, sum);
      }
    }
  }

  // Row y of the result: blurred across rows, solarised, normalised.
  void give(int64_t y) {
    for (int64_t k = -reach; k <= reach; ++k) {
      const int64_t row = std::clamp(y + k, int64_t(0), p.height - 1);
      near[reach + k] = ring.data() + row % slots * 3 * filled;
    }
    const float* const* middle = near.data() + reach;
    for (int64_t c = 0; c < 3; ++c) {
      Out* to = out + (c * p.height + y) * p.width;
      for (int64_t x = 0; x < filled; x += LANES) {
        const int64_t at = c * filled + x;
        floats sum = load(middle[0] + at) * taps[0];
        for (int64_t k = 1; k <= reach; ++k) sum += (load(middle[-k] + at) + load(middle[k] + at)) * taps[k];
        if (a.solarize) sum = sum >= 128.0f ? 255.0f - sum : sum;
        store_some(to + x, (sum - p.mean[c]) * p.scale[c], p.width - x);
      }
    }
  }
};

template <typename Out>
void augment(const MulticropAugment<Out>& p, const Augmentation& a, int64_t sample) {
  Passage<Out> passage(p, a, sample);
  passage.find_mean();
  for (int64_t y = 0; y < p.height + passage.reach; ++y) {
    if (y < p.height) passage.take(y);
    if (y >= passage.reach) passage.give(y - passage.reach);
  }
}

#define INSTANTIATE(Out) template void augment<Out>(const MulticropAugment<Out>&, const Augmentation&, int64_t);
INSTANTIATE(float)
INSTANTIATE(torch::headeronly::Half)
INSTANTIATE(torch::headeronly::BFloat16)
#undef INSTANTIATE
