#include "crop_resize.h"
#include "linear.h"
#include "multicrop_augment.h"
#include "prototype_cross_entropy.h"
#include "region_match.h"
#include "soft_cross_entropy.h"
#include "window_attention.h"

#define VECTOR_BYTES 16
#define REGISTERS 16
namespace esvit_fast::baseline {
#include "simd.h"
#include "crop_resize_kernel.h"
#include "linear_kernel.h"
#include "multicrop_augment_kernel.h"
#include "prototype_cross_entropy_kernel.h"
#include "region_match_kernel.h"
#include "soft_cross_entropy_kernel.h"
#include "window_attention_kernel.h"
}  // namespace esvit_fast::baseline
