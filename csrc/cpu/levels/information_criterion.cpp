#include "cpu/levels/information_criterion_kernels.h"

#include "information_criterion.h"

namespace dhvt::DHVT_LEVEL {

typedef double NodeDoubles __attribute__((vector_size(kCriterionNodes * sizeof(double))));

template <typename acc>
void node_likelihoods(const int32_t* count, const acc* m2, int64_t channels, double noise, double rho,
                      double* likelihood) {
  NodeDoubles pixels;
  for (int i = 0; i < kCriterionNodes; ++i) pixels[i] = count[i] > 0 ? count[i] : 1;
  const NodeDoubles share = 1 / pixels;
  // LikelihoodSum, a lane per node.
  NodeDoubles logs{}, fit{}, product = NodeDoubles{} + 1, numerator{};
  for (int64_t c = 0; c < channels; ++c) {
    NodeDoubles q;
    for (int i = 0; i < kCriterionNodes; ++i) q[i] = m2[i * channels + c];
    const NodeDoubles variance = q * share + noise, next = product * variance;
    const auto held = (next > LikelihoodSum::kLeast) & (next < LikelihoodSum::kLargest);
    bool all = true;
    for (int i = 0; i < kCriterionNodes; ++i) all &= held[i] != 0;
    if (all) {
      numerator = numerator * variance + q * product;
      product = next;
      continue;
    }
    for (int i = 0; i < kCriterionNodes; ++i) {
      LikelihoodSum sum{logs[i], fit[i], product[i], numerator[i]};
      sum.add(q[i], variance[i]);
      logs[i] = sum.logs, fit[i] = sum.fit, product[i] = sum.product, numerator[i] = sum.numerator;
    }
  }
  fit += numerator / product;
  for (int i = 0; i < kCriterionNodes; ++i) {
    const LikelihoodSum sum{logs[i] + std::log(product[i]), fit[i]};
    likelihood[i] = count[i] > 0 ? sum.likelihood(pixels[i], channels, rho) : 0;
  }
}

template void node_likelihoods(const int32_t*, const float*, int64_t, double, double, double*);
template void node_likelihoods(const int32_t*, const double*, int64_t, double, double, double*);

}  // namespace dhvt::DHVT_LEVEL
