// The types of device code that a GPU and its stand-in on the host share.
#pragma once

#include <cstdint>

namespace device {

struct half {
  uint16_t bits;
};

struct bfloat16 {
  uint16_t bits;
};

struct float_2 {
  float x, y;
};

// As many 32-bit words as one access moves.
template <int BYTES>
struct alignas(BYTES) vector {
  uint32_t word[BYTES / 4];
};

}  // namespace device
