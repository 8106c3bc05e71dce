// The 16-bit types of device code on the host: conversions that round as a GPU's do.
#pragma once

#include <cstdint>

#include "../cuda/types.cuh"

// Inlined even at -O1, so that what calls the executor returns to the line of the device code.
#define HOST_INLINE inline __attribute__((always_inline))

namespace device {

HOST_INLINE float to_float(half x) {
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  // 2^112 mends the bias of the exponent, and makes subnormal numbers normal
  uint32_t bits = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) bits |= 0x7f800000u;
  return __builtin_bit_cast(float, bits | (x.bits & 0x8000u) << 16);
}

HOST_INLINE float to_float(bfloat16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }

template <class T>
T from_float(float x);

template <>
HOST_INLINE half from_float<half>(float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {0x7fff};                                       // the NaN that a GPU gives
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};       // 65520 and above
  if (bits < 0x38800000u) {
    // a float's last bit is 2^-24 from 0.5 to 1, as a subnormal half's: the addition rounds
    const float shifted = __builtin_bit_cast(float, bits) + 0.5f;
    return {static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000u))};
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return {static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13)};
}

template <>
HOST_INLINE bfloat16 from_float<bfloat16>(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <class T>
HOST_INLINE uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

template <class T>
HOST_INLINE float_2 unpack(uint32_t both) {
  return {to_float(T{static_cast<uint16_t>(both)}), to_float(T{static_cast<uint16_t>(both >> 16)})};
}

}  // namespace device
