// Soft assignment at given centres, with the assignment itself as output.
#include "cpu/soft_assign_job.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> soft_assign(const Tensor& features, const Tensor& centers, const Tensor& positions,
                                       const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                       double temperature) {
  check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  Tensor assignment = empty({batch, kCandidates, height, width}, features.scalar_type(), features);
  Tensor labels = empty({batch, height, width}, ScalarType::Int, features);
  dispatch_floating(features.scalar_type(), "soft_assign", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const AssignArguments<scalar_t> arguments(features, centers, positions, mass, mask, coefficients, cell, compactness,
                                              temperature);
    const auto out = mutable_image_view<scalar_t>(assignment);
    const auto rows = DHVT_AT_LEVEL(assign_rows<scalar_t>);
    parallel_chunks(arguments.job.tasks(), [&](int64_t begin, int64_t end) {
      rows(arguments.job, out, mutable_data<int32_t>(labels), begin, end);
    });
  });
  return {assignment, labels};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward(const Tensor& grad_assignment, const Tensor& features,
                                                                const Tensor& centers, const Tensor& positions,
                                                                const std::optional<Tensor>& mass,
                                                                const std::optional<Tensor>& mask,
                                                                const std::optional<Tensor>& coefficients, int64_t cell,
                                                                double compactness, double temperature) {
  check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  const ScalarType type = features.scalar_type();
  check(grad_assignment, "grad_assignment [B,9,H,W]", type,
        {features.size(0), kCandidates, features.size(2), features.size(3)});
  Tensor grad_features = empty_image_like(features, type);
  Tensor grad_centers = empty({centers.size(0), centers.size(1), centers.size(2)}, acc_type(type), features);
  Tensor grad_positions = empty({centers.size(0), centers.size(1), 2}, acc_type(type), features);
  Tensor grad_coefficients = zeros({2}, acc_type(type), features);
  dispatch_floating(type, "soft_assign_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const AssignArguments<scalar_t> arguments(features, centers, positions, mass, mask, coefficients, cell, compactness,
                                              temperature);
    const auto upstream = image_view<scalar_t>(grad_assignment);
    const auto rows = DHVT_AT_LEVEL(assign_rows_backward<scalar_t>);
    assign_gradients<scalar_t>(arguments.job, grad_features, grad_centers, grad_positions, grad_coefficients,
                               [&](const AssignGradient<scalar_t>& gradient, int64_t begin, int64_t end) {
                                 rows(arguments.job, upstream, gradient, begin, end);
                               });
  });
  return {grad_features, grad_centers, grad_positions, grad_coefficients};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_assign", TORCH_BOX(&dhvt::soft_assign));
  m.impl("soft_assign_backward", TORCH_BOX(&dhvt::soft_assign_backward));
}
