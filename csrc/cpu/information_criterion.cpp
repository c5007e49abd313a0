// Likelihood and penalty of every node, and the derivative of the likelihood.
#include <algorithm>
#include <type_traits>

#include "information_criterion_host.h"

namespace dhvt {
namespace {

constexpr int64_t kGrain = 512;  // nodes per task: some 10 us of logarithms

// One task per group of nodes; a node reads its count, boundary and m2 once and writes two numbers: 16 + 4 C bytes.
std::tuple<Tensor, Tensor> information_criterion(const Tensor& count, const Tensor& m2, const Tensor& boundary,
                                                 const Tensor& num_pixels, std::string criterion, double noise,
                                                 double pixel_correlation) {
  return information_criterion_checked(
      count, m2, boundary, num_pixels, criterion, noise, pixel_correlation, [](const auto& of_node, int64_t batch) {
        std::vector<double> of_image(batch);
        for (int64_t b = 0; b < batch; ++b) of_image[b] = of_node.of_image(b);
        const int64_t nodes = of_node.nodes, channels = of_node.channels;
        // Half of the nodes above pixels are pixels, all of one likelihood.
        using acc = std::remove_cvref_t<decltype(*of_node.m2)>;
        const std::vector<acc> none(channels, acc(0));
        const double of_pixel = node_likelihood(1, none.data(), channels, of_node.noise, of_node.rho);
        parallel(
            batch * nodes,
            [&](int64_t v) {
              const acc* m2 = of_node.m2 + v * channels;
              const bool pixel = of_node.count[v] == 1 && std::all_of(m2, m2 + channels, [](acc x) { return x == 0; });
              of_node.write(v, pixel ? of_pixel : of_node.likelihood_of(v), of_image[v / nodes]);
            },
            kGrain);
      });
}

// One task per group of nodes: reads and writes m2 once, 8 C bytes per node.
Tensor information_criterion_backward(const Tensor& grad_likelihood, const Tensor& count, const Tensor& m2,
                                      double noise, double pixel_correlation) {
  return information_criterion_backward_checked(
      grad_likelihood, count, m2, noise, pixel_correlation,
      [](const auto& of_node, int64_t nodes) { parallel(nodes, of_node, kGrain); });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("information_criterion", TORCH_BOX(&dhvt::information_criterion));
  m.impl("information_criterion_backward", TORCH_BOX(&dhvt::information_criterion_backward));
}
