// sRGB to CIELAB (D65) and its derivative: one pixel. Shared by CPU and CUDA.
//
// The inverse roots are Newton iterations on an estimate from the exponent bits, so that every compiler, vector width
// and thread gives the same function: the library's pow has other bits in the vector loop than in its remainder.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "macros.h"

namespace dhvt {

constexpr double kLabKnee = 216.0 / 24389.0;  // (6/29)^3
constexpr double kLabSlope = 841.0 / 108.0;   // 1 / (3 (6/29)^2)
constexpr double kLabOffset = 4.0 / 29.0;

// x^(-1/degree) for finite x > 0, about 2 ulp; no division.
template <int degree>
DHVT_HD float inverse_root(float x) {
  constexpr float one_bits = 1065353216.0f;  // the bits of 1.0f
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = int32_t(one_bits * (1.0f + 1.0f / degree) - float(bits) * (1.0f / degree));
  float y;
  std::memcpy(&y, &bits, 4);
  for (int i = 0; i < 3; ++i) {  // the estimate is off by 2 %
    const float square = y * y;
    y += y * (1.0f - (x * y) * (degree == 5 ? square * square : square)) * (1.0f / degree);
  }
  return y;
}

template <int degree>
DHVT_HD double inverse_root(double x) {
  return 1 / (degree == 3 ? std::cbrt(x) : std::pow(x, 1.0 / degree));
}

// Linear light from sRGB, and its derivative. With s = u^(-1/5), u^2.4 = u^3 s^3.
template <typename acc>
DHVT_HD acc linear_light(acc srgb, acc* slope) {
  const bool curved = srgb > acc(0.04045);  // false for NaN, which the linear branch keeps
  const acc u = ((curved ? srgb : acc(0.04045)) + acc(0.055)) * acc(1 / 1.055);
  const acc s = inverse_root<5>(u), square = (u * u) * (s * s * s);
  *slope = curved ? acc(2.4 / 1.055) * square : acc(1 / 12.92);
  return curved ? u * square : srgb * acc(1 / 12.92);
}

// g(t) = t^(1/3) above the knee, linear below, and its derivative.
template <typename acc>
DHVT_HD acc lab_curve(acc t, acc* slope) {
  const bool curved = t > acc(kLabKnee);
  const acc x = curved ? t : acc(kLabKnee), s = inverse_root<3>(x);
  *slope = curved ? s * s * acc(1.0 / 3) : acc(kLabSlope);
  return curved ? x * (s * s) : t * acc(kLabSlope) + acc(kLabOffset);
}

// X, Y and Z relative to the white point D65, from linear sRGB (IEC 61966-2-1).
DHVT_HD constexpr double linear_to_xyz(int i, int c) {
  constexpr double rows[3][3] = {{0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047},
                                 {0.2126729, 0.7151522, 0.0721750},
                                 {0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883}};
  return rows[i][c];
}

// Row i of XYZ.
template <typename acc>
DHVT_HD acc xyz_from_linear(const acc linear[3], int i) {
  return acc(linear_to_xyz(i, 0)) * linear[0] + acc(linear_to_xyz(i, 1)) * linear[1] +
         acc(linear_to_xyz(i, 2)) * linear[2];
}

// g [3]: g(X), g(Y), g(Z).
template <typename acc>
DHVT_HD void lab_from_curve(const acc g[3], acc lab[3]) {
  lab[0] = acc(116) * g[1] - acc(16);
  lab[1] = acc(500) * (g[0] - g[1]);
  lab[2] = acc(200) * (g[1] - g[2]);
}

// grad [3]: in, of Lab; out, of sRGB.
template <typename acc>
DHVT_HD void lab_from_srgb_backward(const acc srgb[3], acc grad[3]) {
  acc linear[3], light_slope[3], curve_slope[3];
  for (int c = 0; c < 3; ++c) linear[c] = linear_light(srgb[c], &light_slope[c]);
  for (int i = 0; i < 3; ++i) lab_curve(xyz_from_linear(linear, i), &curve_slope[i]);
  const acc xyz[3] = {acc(500) * grad[1] * curve_slope[0],
                      (acc(116) * grad[0] - acc(500) * grad[1] + acc(200) * grad[2]) * curve_slope[1],
                      acc(-200) * grad[2] * curve_slope[2]};
  for (int c = 0; c < 3; ++c)
    grad[c] =
        (acc(linear_to_xyz(0, c)) * xyz[0] + acc(linear_to_xyz(1, c)) * xyz[1] + acc(linear_to_xyz(2, c)) * xyz[2]) *
        light_slope[c];
}

}  // namespace dhvt
