// What the lanes of a warp do together: the last that arrives does it for all.
#include <algorithm>
#include <string>

#include "launch.h"

namespace host {

namespace {

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::synchronize: return "__syncwarp";
    case Operation::shuffle: return "a shuffle";
    case Operation::vote: return "a vote";
    case Operation::mma: return "mma";
    case Operation::load_matrices: return "ldmatrix";
    default: return "nothing";
  }
}

// A GPU runs these as one instruction of the whole warp, wherever it stands in the sources.
bool is_aligned(Operation operation) { return operation == Operation::mma || operation == Operation::load_matrices; }

template <class F>
void for_lanes(unsigned mask, const F& function) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) function(lane);
  }
}

unsigned warp_begin() { return self->index / 32 * 32; }

Thread* lane_of_warp(unsigned lane) {
  const unsigned index = warp_begin() + lane;
  return index < launched->threads.size() ? launched->threads[index].get() : nullptr;
}

void refuse(Site site, const std::string& message, Site other = 0) {
  report("collective", site, message, self->index, other);
  end();
}

// Whether all lanes of the mask are here; the launch ends where one came for something else.
bool complete(const Arrival& arrival) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(arrival.mask >> lane & 1)) continue;
    const Thread* thread = lane_of_warp(lane);
    if (!thread) refuse(arrival.site, "its mask names lane " + std::to_string(lane) + ", which is no thread");
    const Arrival& other = thread->arrival;
    // it may still be leaving an operation that it shared with others
    if (thread->state != State::collective || !(other.mask >> self->index % 32 & 1)) return false;
    const auto them = [&] { return "thread " + std::to_string(thread->index); };
    if (other.operation != arrival.operation || other.detail != arrival.detail) {
      refuse(arrival.site, "it meets " + std::string(name_of(other.operation)) + " of " + them(), other.site);
    } else if (other.mask != arrival.mask) {
      refuse(arrival.site, "its mask is not that of " + them(), other.site);
    } else if (is_aligned(arrival.operation) && !same_place(other.site, arrival.site)) {
      refuse(arrival.site, "it is not the instruction of " + them(), other.site);
    }
  }
  return true;
}

// Waits for the lanes; true for the last, which does the work before it calls `release`.
bool meet(Operation operation, int detail, unsigned mask, void* operand, Site site) {
  const unsigned lane = self->index % 32;
  self->arrival = {operation, detail, mask, site, operand};
  if (!(mask >> lane & 1)) refuse(site, "its mask leaves out the thread that calls it");
  self->state = State::collective;
  if (complete(self->arrival)) return true;
  give_way();
  return false;
}

void release(unsigned mask) {
  for_lanes(mask, [](unsigned lane) { lane_of_warp(lane)->state = State::ready; });
}

template <class T>
T& operand(unsigned lane) {
  return *static_cast<T*>(lane_of_warp(lane)->arrival.operand);
}

struct Shuffled {
  uint32_t value, result;
  unsigned by;
};

struct Voted {
  bool value;
  uint32_t result;
};

struct Product {
  float* d;
  const uint32_t *a, *b;
};

struct Rows {
  const char* row;
  uint32_t* to;
};

float value_of(Format format, uint32_t word, int half) {
  const uint16_t bits = static_cast<uint16_t>(word >> 16 * half);
  return format == Format::half ? device::to_float(device::half{bits}) : device::to_float(device::bfloat16{bits});
}

// Lane l has rows l/4 and l/4 + 8 of A and D, columns l/4 of B, and everywhere pairs 2 (l % 4) and one more, and of k
// also those 8 behind.
void multiply(Format format, int k) {
  float a[16][16], b[8][16];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const Product& product = operand<Product>(lane);
    const int row = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      const int column = pair + half;
      for (int i = 0; i < k / 4; ++i) a[row + i % 2 * 8][column + i / 2 * 8] = value_of(format, product.a[i], half);
      for (int i = 0; i < k / 8; ++i) b[row][column + i * 8] = value_of(format, product.b[i], half);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    float* d = operand<Product>(lane).d;
    for (int i = 0; i < 4; ++i) {
      const float *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
      float sum = d[i];
      for (int j = 0; j < k; ++j) sum += row[j] * column[j];
      d[i] = sum;
    }
  }
}

}  // namespace

void report_stuck(Thread& waiting) {
  std::vector<unsigned> missing;
  std::string where;
  Site other = 0;
  for_lanes(waiting.arrival.mask, [&](unsigned lane) {
    const unsigned index = waiting.index / 32 * 32 + lane;
    if (index >= launched->threads.size()) return missing.push_back(index);
    const Thread& thread = *launched->threads[index];
    if (thread.state == State::collective && thread.arrival.mask == waiting.arrival.mask) return;
    missing.push_back(index);
    if (thread.state == State::done) return;
    other = thread.state == State::barrier ? thread.site : thread.arrival.site;
    where = "; the last of them waits at " + place(other);
  });
  report("collective", waiting.arrival.site, std::string(name_of(waiting.arrival.operation)) + " waits in vain for " +
         names_of(missing) + where, waiting.index, other);
  launched->ended = true;
}

void synchronize_warp(unsigned mask) {
  if (!meet(Operation::synchronize, 0, mask, nullptr, site_of(__builtin_return_address(0)))) return;
  uint32_t seen[32] = {};
  for_lanes(mask, [&](unsigned lane) {
    Thread& thread = *lane_of_warp(lane);
    thread.seen[lane] = thread.clock++;
    for (int i = 0; i < 32; ++i) seen[i] = std::max(seen[i], thread.seen[i]);
  });
  for_lanes(mask, [&](unsigned lane) { std::copy(seen, seen + 32, lane_of_warp(lane)->seen); });
  release(mask);
}

uint32_t shuffle(Shuffle how, unsigned mask, uint32_t value, unsigned by) {
  const Site site = site_of(__builtin_return_address(0));
  Shuffled mine = {value, value, by};
  if (!meet(Operation::shuffle, static_cast<int>(how), mask, &mine, site)) return mine.result;
  for_lanes(mask, [&](unsigned lane) {
    Shuffled& to = operand<Shuffled>(lane);
    unsigned from = how == Shuffle::from ? to.by % 32 : how == Shuffle::down ? lane + to.by : lane ^ to.by;
    if (from > 31) from = lane;
    if (!(mask >> from & 1)) refuse(site, "it reads from lane " + std::to_string(from) + ", which its mask leaves out");
    to.result = operand<Shuffled>(from).value;
  });
  release(mask);
  return mine.result;
}

uint32_t vote(Vote how, unsigned mask, bool value) {
  const Site site = site_of(__builtin_return_address(0));
  Voted mine = {value, 0};
  if (!meet(Operation::vote, static_cast<int>(how), mask, &mine, site)) return mine.result;
  uint32_t ballot = 0;
  for_lanes(mask, [&](unsigned lane) { ballot |= static_cast<uint32_t>(operand<Voted>(lane).value) << lane; });
  const uint32_t result = how == Vote::ballot ? ballot : how == Vote::any ? ballot != 0 : ballot == mask;
  for_lanes(mask, [&](unsigned lane) { operand<Voted>(lane).result = result; });
  release(mask);
  return result;
}

void mma(Format format, int k, float* d, const uint32_t* a, const uint32_t* b) {
  Product mine = {d, a, b};
  const int detail = k * 2 + static_cast<int>(format);
  if (!meet(Operation::mma, detail, 0xffffffffu, &mine, site_of(__builtin_return_address(0)))) return;
  multiply(format, k);
  release(0xffffffffu);
}

void load_matrices(uint32_t* to, const void* row, int matrices, bool transposed) {
  const Site site = site_of(__builtin_return_address(0));
  const unsigned rows = matrices * 8;
  if (self->index % 32 < rows) {
    require_aligned(row, 16, site);
    look(row, 16, Space::shared, Mode::read, site);
  }
  Rows mine = {static_cast<const char*>(row), to};
  if (!meet(Operation::load_matrices, matrices * 2 + transposed, 0xffffffffu, &mine, site)) return;
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < matrices; ++i) {
      uint32_t word = 0;
      for (unsigned half = 0; half < 2; ++half) {
        const unsigned pair = lane % 4 * 2 + half;
        const unsigned r = transposed ? pair : lane / 4, column = transposed ? lane / 4 : pair;
        const auto* from = reinterpret_cast<const uint16_t*>(operand<Rows>(i * 8 + r).row);
        word |= static_cast<uint32_t>(from[column]) << 16 * half;
      }
      operand<Rows>(lane).to[i] = word;
    }
  }
  release(0xffffffffu);
}

}  // namespace host
