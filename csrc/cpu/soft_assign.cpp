// Soft assignment at given centres, with the assignment itself as output.
#include "cpu/soft_assign_job.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> soft_assign(const Tensor& features, const Tensor& centers, const Tensor& positions,
                                       const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                       double temperature) {
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_assign_checked(in, [&](auto tag, const Tensor& assignment, const Tensor& labels) {
    using acc = typename decltype(tag)::type;
    const AssignArguments<acc> arguments(in);
    const auto out = any_image<acc>(assignment);
    const auto rows = DHVT_AT_LEVEL(assign_rows<acc>);
    parallel_chunks(arguments.job.tasks(), [&](int64_t begin, int64_t end) {
      rows(arguments.job, out, mutable_data<int32_t>(labels), begin, end);
    });
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward(const Tensor& grad_assignment, const Tensor& features,
                                                                const Tensor& centers, const Tensor& positions,
                                                                const std::optional<Tensor>& mass,
                                                                const std::optional<Tensor>& mask,
                                                                const std::optional<Tensor>& coefficients, int64_t cell,
                                                                double compactness, double temperature) {
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_assign_backward_checked(grad_assignment, in, [&](auto tag, const SoftGradients& out) {
    using acc = typename decltype(tag)::type;
    const AssignArguments<acc> arguments(in);
    const auto upstream = any_image<acc>(grad_assignment);
    const auto rows = DHVT_AT_LEVEL(assign_rows_backward<acc>);
    assign_gradients<acc>(arguments.job, out, [&](const AssignGradient<acc>& gradient, int64_t begin, int64_t end) {
      rows(arguments.job, upstream, gradient, begin, end);
    });
  });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_assign", TORCH_BOX(&dhvt::soft_assign));
  m.impl("soft_assign_backward", TORCH_BOX(&dhvt::soft_assign_backward));
}
