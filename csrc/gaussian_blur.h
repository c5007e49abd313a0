// The kernel of Gaussian smoothing, shared by every device.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace dhvt {

DHVT_HD double blur_weight(int64_t d, double sigma) {
  const double distance = double(d) / sigma;
  return std::exp(-0.5 * distance * distance);
}

}  // namespace dhvt
