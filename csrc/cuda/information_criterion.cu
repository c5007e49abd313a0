// Likelihood and penalty of every node, and the derivative of the likelihood.
#include "information_criterion_host.h"

#include "cuda/launch.cuh"

namespace dhvt {
namespace {

// One thread per node reads its count, boundary and m2 once and writes two numbers: 16 + 4 C bytes. Each repeats its
// image's part of the penalty: two logarithms, beside C / 10 or so of its own.
template <typename acc>
struct CriterionKernel {
  CriterionOfNode<acc> of_node;

  __device__ void operator()(int64_t v) const { of_node(v, of_node.of_image(v / of_node.nodes)); }
};

std::tuple<Tensor, Tensor> information_criterion(const Tensor& count, const Tensor& m2, const Tensor& boundary,
                                                 const Tensor& num_pixels, std::string criterion, double noise,
                                                 double pixel_correlation) {
  const Launcher launch(m2);
  return information_criterion_checked(
      count, m2, boundary, num_pixels, criterion, noise, pixel_correlation,
      [&](const auto& of_node, int64_t batch) { for_each(launch, batch * of_node.nodes, CriterionKernel{of_node}); });
}

// One thread per node: reads and writes m2 once, 8 C bytes.
Tensor information_criterion_backward(const Tensor& grad_likelihood, const Tensor& count, const Tensor& m2,
                                      double noise, double pixel_correlation) {
  const Launcher launch(m2);
  return information_criterion_backward_checked(
      grad_likelihood, count, m2, noise, pixel_correlation,
      [&](const auto& of_node, int64_t nodes) { for_each(launch, nodes, of_node); });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("information_criterion", TORCH_BOX(&dhvt::information_criterion));
  m.impl("information_criterion_backward", TORCH_BOX(&dhvt::information_criterion_backward));
}
