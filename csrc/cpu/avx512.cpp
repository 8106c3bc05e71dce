#include "crop_resize.h"
#include "linear.h"
#include "multicrop_augment.h"
#include "prototype_cross_entropy.h"
#include "region_match.h"
#include "soft_cross_entropy.h"
#include "window_attention.h"

#if defined(__x86_64__)
// functions of headers stay as they are: another file may be given this one's copy of them
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define VECTOR_BYTES 64
#define REGISTERS 32
namespace esvit_fast::avx512 {
#include "simd.h"
#include "crop_resize_kernel.h"
#include "linear_kernel.h"
#include "multicrop_augment_kernel.h"
#include "prototype_cross_entropy_kernel.h"
#include "region_match_kernel.h"
#include "soft_cross_entropy_kernel.h"
#include "window_attention_kernel.h"
}  // namespace esvit_fast::avx512
#endif
