// Likelihood and penalty of every node, and the derivative of the likelihood.
#include <algorithm>
#include <type_traits>

#include "cpu/levels/information_criterion_kernels.h"
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
        const int64_t channels = of_node.channels, nodes = of_node.nodes;
        // Half of the nodes above pixels are pixels, all of one likelihood.
        using acc = std::remove_cvref_t<decltype(*of_node.m2)>;
        const auto is_pixel = [&](int64_t v) {
          acc sum = 0;
          for (int64_t c = v * channels; c < (v + 1) * channels; ++c) sum += of_node.m2[c] * of_node.m2[c];
          return of_node.count[v] == 1 && sum == 0;
        };
        const std::vector<acc> none(channels, acc(0));
        const double of_pixel = node_likelihood(1, none.data(), channels, of_node.noise, of_node.rho);
        const int64_t groups = (nodes + kCriterionNodes - 1) / kCriterionNodes;  // of an image
        parallel(
            batch * groups,
            [&](int64_t group) {
              const int64_t b = group / groups, in_image = group % groups * kCriterionNodes;
              const int64_t first = b * nodes + in_image, n = std::min<int64_t>(kCriterionNodes, nodes - in_image);
              double likelihood[kCriterionNodes];
              int64_t pixels = 0;
              while (pixels < n && is_pixel(first + pixels)) ++pixels;
              if (pixels == n)
                std::fill_n(likelihood, n, of_pixel);
              else if (n == kCriterionNodes)
                DHVT_AT_LEVEL(node_likelihoods<acc>)
              (of_node.count + first, of_node.m2 + first * channels, channels, of_node.noise, of_node.rho, likelihood);
              else for (int64_t i = 0; i < n; ++i) likelihood[i] = of_node.likelihood_of(first + i);
              for (int64_t i = 0; i < n; ++i) of_node.write(first + i, likelihood[i], of_image[b]);
            },
            kGrain / kCriterionNodes);
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
