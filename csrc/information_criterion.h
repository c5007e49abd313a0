// Likelihood and penalty of one node, without torch. All of it in float64: nodes are few, and their terms are added up
// over a whole tree.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace dhvt {

enum class Criterion { aic, aicc, bic, hqc, cic, mdl };

// Collects sum_c ln(v_c) with one logarithm for many channels: of the product, as long as float64 holds it.
struct LogSum {
  double sum = 0, product = 1;

  DHVT_HD void add(double value) {
    const double next = product * value;
    if (next > 1e-290 && next < 1e290) {
      product = next;
    } else {
      sum += std::log(product);
      product = value;
    }
  }

  DHVT_HD double total() const { return sum + std::log(product); }
};

// -2 ln L / rho = sum_c [n ln(2 pi v_c) + Q_c / v_c] / rho with v_c = Q_c / n + noise. m2 [C]
template <typename acc>
DHVT_HD double node_likelihood(int64_t count, const acc* m2, int64_t channels, double noise, double rho) {
  if (count <= 0) return 0;
  const double n = static_cast<double>(count);
  constexpr double two_pi = 6.283185307179586;
  LogSum logs;
  double fit = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const double q = m2[c], variance = q / n + noise;
    logs.add(two_pi * variance);
    fit += q / variance;
  }
  return (n * logs.total() + fit) / rho;
}

// d (-2 ln L / rho) / d Q_c: (v + noise) / (v^2 rho). The three terms 1/v + 1/v - Q/(n v^2) over one denominator.
DHVT_HD double likelihood_gradient(int64_t count, double m2, double noise, double rho) {
  if (count <= 0) return 0;
  const double variance = m2 / static_cast<double>(count) + noise;
  return (variance + noise) / (variance * variance * rho);
}

// The part of the penalty that all nodes of an image share. d parameters per node, N = pixels. The image is taken to
// hold at least 4 samples, so that every logarithm, and the logarithm of it, is positive.
DHVT_HD double image_penalty(Criterion criterion, double d, int64_t num_pixels, double rho) {
  const double samples = static_cast<double>(num_pixels) / rho;
  const double log_samples = std::log(samples > 4 ? samples : 4.0);
  switch (criterion) {
    case Criterion::aic:
    case Criterion::aicc:
      return 2 * d;
    case Criterion::bic:
      return d * log_samples;
    case Criterion::hqc:
      return 2 * d * std::log(log_samples);
    case Criterion::cic:
      return d * (log_samples + 1);
    case Criterion::mdl:
      return 0;
  }
  return 0;
}

// The rest: what depends on the node's own pixels.
DHVT_HD double node_penalty(Criterion criterion, double d, int64_t count, int64_t boundary, double rho) {
  const double samples = static_cast<double>(count) / rho;
  if (criterion == Criterion::aicc) {
    const double spare = samples - d - 1;
    return 2 * d * (d + 1) / (spare > 1 ? spare : 1.0);
  }
  constexpr double ln3 = 1.0986122886681098;
  if (criterion == Criterion::mdl)
    return d * std::log1p(samples) + ln3 * static_cast<double>(boundary) / std::sqrt(rho);
  return 0;
}

}  // namespace dhvt
