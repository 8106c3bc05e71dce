// A linear layer and the gradient of its weight and bias, for one instruction set; included as simd.h is, after it.

// to[k, c] of `depth` rows: weight[c, k] if it is transposed, else weight[k, c]; zeros from `columns` to `filled`.
inline void pack(
    float* to, int64_t filled, const float* weight, int64_t row, int64_t columns, int64_t depth, bool transposed) {
  constexpr int64_t size = Vector<float>::size;
  const int64_t whole = transposed ? depth / size * size : 0;
  if (whole > 0) transpose(to, filled, weight, row, columns, whole);
  for (int64_t k = whole; k < depth; ++k) {
    if (transposed) {
      for (int64_t c = 0; c < columns; ++c) to[k * filled + c] = weight[c * row + k];
    } else {
      std::memcpy(to + k * filled, weight + k * row, columns * sizeof(float));
    }
    std::fill(to + k * filled + columns, to + (k + 1) * filled, 0.0f);
  }
}

// Columns [begin, begin + columns) of out [rows, outs] = x [rows, ins] weight + bias, at most a panel of them.
//
// Sums run over inputs in their order, block by block, so that they depend neither on other rows nor on how many
// threads there are.
void linear_columns(const Linear& p, int64_t rows, const float* x, float* out, int64_t begin, int64_t columns) {
  constexpr int64_t size = Vector<float>::size;
  const int64_t block = std::clamp<int64_t>(p.ins, 1, 256), filled = (columns + size - 1) / size * size;
  const bool direct = filled == columns;
  std::vector<float> scratch((block + 1 + (direct ? 0 : rows)) * filled);
  float *packed = scratch.data(), *bias = packed + block * filled, *to = direct ? out + begin : bias + filled;
  const int64_t to_row = direct ? p.outs : filled;
  if (p.bias != nullptr) std::copy_n(p.bias + begin, columns, bias);
  for (int64_t k = 0; k == 0 || k < p.ins; k += block) {
    const int64_t depth = std::min(block, p.ins - k);
    const float* weight = p.weight + (p.transposed ? begin * p.ins + k : k * p.outs + begin);
    pack(packed, filled, weight, p.transposed ? p.ins : p.outs, columns, depth, p.transposed);
    product_and<float, true>(
        rows, filled, depth, x + k, p.ins, 1, packed, filled, to, to_row, k > 0 ? to : bias, k > 0 ? to_row : 0);
  }
  for (int64_t i = 0; i < rows && !direct; ++i) std::copy_n(to + i * to_row, columns, out + i * p.outs + begin);
}

// A sum over very many tokens of products of two rows. Tokens are taken in blocks that stay in the caches, in their
// order, so that a sum does not depend on how rows are shared among threads. A bias sums numbers of one sign, often: in
// double precision, since nothing else is cheap and exact enough.

// Rows [begin, end) of dweight [outs, ins] and dbias [outs] from grad [tokens, outs] and x [tokens, ins]; some tokens.
void linear_weight_gradient(
    const float* grad, const float* x, float* dweight, float* dbias, int64_t tokens, int64_t outs, int64_t ins,
    int64_t begin, int64_t end) {
  constexpr int64_t block = 128, panel = PANEL, size = Vector<float>::size;
  const int64_t rows = end - begin;
  // a panel of x, and sums that are wider than the panel by what fills its last vector
  std::vector<float> scratch(block * panel + rows * panel);
  float *packed = scratch.data(), *sums = packed + block * panel;
  std::vector<double> row_sums(rows);
  for (int64_t t = 0; t < tokens; t += block) {
    const int64_t depth = tokens - t < block ? tokens - t : block;
    const float* left = grad + t * outs + begin;
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < rows; ++i) row_sums[i] += left[k * outs + i];
    }
    for (int64_t j = 0; j < ins; j += panel) {
      const int64_t columns = ins - j < panel ? ins - j : panel, filled = (columns + size - 1) / size * size;
      for (int64_t k = 0; k < depth; ++k) {
        std::memcpy(packed + k * filled, x + (t + k) * ins + j, columns * sizeof(float));
      }
      float* to = dweight + begin * ins + j;
      if (filled == columns) {
        const auto sum = t > 0 ? product<float, true> : product<float, false>;
        sum(rows, columns, depth, left, int64_t(1), outs, packed, columns, to, ins);
        continue;
      }
      product(rows, filled, depth, left, int64_t(1), outs, packed, filled, sums, filled);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < columns; ++c) to[i * ins + c] = sums[i * filled + c] + (t > 0 ? to[i * ins + c] : 0);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) dbias[begin + i] = static_cast<float>(row_sums[i]);
}
