// Likelihood and penalty of one node, without torch. All of it in float64: nodes are few, and their terms are added up
// over a whole tree.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace dhvt {

enum class Criterion { aic, aicc, bic, hqc, cic, mdl };

// Collects sum_c ln(v_c) and sum_c Q_c / v_c with one logarithm and one division for many channels: of the product of
// the variances, over which the fractions are brought, as long as float64 holds it.
struct LikelihoodSum {
  double logs = 0, fit = 0;
  double product = 1, numerator = 0;

  static constexpr double kLeast = 1e-290, kLargest = 1e290;

  DHVT_HD void add(double q, double variance) {
    const double next = product * variance;
    if (next > kLeast && next < kLargest) {
      numerator = numerator * variance + q * product;  // at most 2^31 product per channel
      product = next;
    } else {
      take();
      product = variance;
      numerator = q;
    }
  }

  DHVT_HD void take() {
    logs += std::log(product);
    fit += numerator / product;
  }

  // After the last take(). n pixels
  DHVT_HD double likelihood(double n, int64_t channels, double rho) const {
    constexpr double ln_two_pi = 1.8378770664093453;
    return (n * (static_cast<double>(channels) * ln_two_pi + logs) + fit) / rho;
  }
};

// -2 ln L / rho = sum_c [n ln(2 pi v_c) + Q_c / v_c] / rho with v_c = Q_c / n + noise. m2 [C]
template <typename acc>
DHVT_HD double node_likelihood(int64_t count, const acc* m2, int64_t channels, double noise, double rho) {
  if (count <= 0) return 0;
  const double n = static_cast<double>(count), share = 1 / n;
  LikelihoodSum sum;
  for (int64_t c = 0; c < channels; ++c) {
    const double q = m2[c];
    sum.add(q, q * share + noise);
  }
  sum.take();
  return sum.likelihood(n, channels, rho);
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
  if (criterion == Criterion::aicc) {
    const double spare = static_cast<double>(count) / rho - d - 1;
    return 2 * d * (d + 1) / (spare > 1 ? spare : 1.0);
  }
  constexpr double ln3 = 1.0986122886681098;
  if (criterion == Criterion::mdl)
    return d * std::log1p(static_cast<double>(count) / rho) + ln3 * static_cast<double>(boundary) / std::sqrt(rho);
  return 0;
}

}  // namespace dhvt
