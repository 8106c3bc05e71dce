// What device code is made of: on a GPU intrinsics and PTX, on the host the executor of csrc/host.
#pragma once

#ifdef __CUDACC__
#error "the GPU's half comes with the kernels"
#else
#include "../host/device.h"
#endif
