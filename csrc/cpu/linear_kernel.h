// The gradient of a linear layer's weight and bias, for one instruction set; included as simd.h is, after it.
//
// A sum over very many tokens of products of two rows. Tokens are taken in blocks that stay in the caches, in their
// order, so that a sum does not depend on how rows are shared among threads. A bias sums numbers of one sign, often: in
// double precision, since nothing else is cheap and exact enough.

// Rows [begin, end) of dweight [outs, ins] and dbias [outs] from grad [tokens, outs] and x [tokens, ins]; some tokens.
void linear_weight_gradient(
    const float* grad, const float* x, float* dweight, float* dbias, int64_t tokens, int64_t outs, int64_t ins,
    int64_t begin, int64_t end) {
  constexpr int64_t block = 128, panel = 64, size = Vector<float>::size;
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
