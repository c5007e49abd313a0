// Pooling of any values with the soft assignment, without ever storing it.
#include "cpu/soft_assign_job.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> soft_pool(const Tensor& features, const Tensor& values, const Tensor& centers,
                                     const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
                                     const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                     double temperature) {
  const int64_t cells = check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  check(values, "values [B,Cv,H,W]", features.scalar_type(),
        {features.size(0), -1, features.size(2), features.size(3)});
  const ScalarType type = acc_type(features.scalar_type());
  Tensor sums = empty({features.size(0), cells, values.size(1)}, type, features);
  Tensor pooled = empty({features.size(0), cells}, type, features);
  dispatch_floating(features.scalar_type(), "soft_pool", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const AssignArguments<scalar_t> arguments(features, centers, positions, mass, mask, coefficients, cell, compactness,
                                              temperature);
    const auto& job = arguments.job;
    const auto value = image_view<scalar_t>(values);
    const Buffer<acc> partial(job.tasks() * 3 * (job.grid.columns + 2) * record_size(value.channels + 1));
    const auto rows = DHVT_AT_LEVEL(pool_rows<scalar_t>);
    parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) { rows(job, value, partial, begin, end); });
    const auto gather = DHVT_AT_LEVEL(gather_pool<scalar_t>);
    parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) {
      gather(job, value.channels, partial, mutable_data<acc>(sums), mutable_data<acc>(pooled), begin, end);
    });
  });
  return {sums, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_pool_backward(
    const Tensor& grad_sums, const Tensor& grad_mass, const Tensor& features, const Tensor& values,
    const Tensor& centers, const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& coefficients, int64_t cell, double compactness, double temperature) {
  const int64_t cells = check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  check(values, "values [B,Cv,H,W]", features.scalar_type(),
        {features.size(0), -1, features.size(2), features.size(3)});
  const ScalarType type = acc_type(features.scalar_type());
  const int64_t batch = features.size(0);
  check(grad_sums, "grad_sums [B,L,Cv]", type, {batch, cells, values.size(1)});
  check(grad_mass, "grad_mass [B,L]", type, {batch, cells});
  Tensor grad_features = empty_image_like(features, features.scalar_type());
  Tensor grad_values = empty_image_like(values, values.scalar_type());
  Tensor grad_centers = empty({batch, cells, features.size(1)}, type, features);
  Tensor grad_positions = empty({batch, cells, 2}, type, features);
  Tensor grad_coefficients = zeros({2}, type, features);
  dispatch_floating(features.scalar_type(), "soft_pool_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const AssignArguments<scalar_t> arguments(features, centers, positions, mass, mask, coefficients, cell, compactness,
                                              temperature);
    const auto value = image_view<scalar_t>(values);
    const auto grad_value = mutable_image_view<scalar_t>(grad_values);
    const Tensor grad_sums_ = dense(grad_sums), grad_mass_ = dense(grad_mass);
    const auto rows = DHVT_AT_LEVEL(pool_rows_backward<scalar_t>);
    assign_gradients<scalar_t>(arguments.job, grad_features, grad_centers, grad_positions, grad_coefficients,
                               [&](const AssignGradient<scalar_t>& gradient, int64_t begin, int64_t end) {
                                 rows(arguments.job, value, data<acc>(grad_sums_), data<acc>(grad_mass_), grad_value,
                                      gradient, begin, end);
                               });
  });
  return {grad_features, grad_values, grad_centers, grad_positions, grad_coefficients};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_pool", TORCH_BOX(&dhvt::soft_pool));
  m.impl("soft_pool_backward", TORCH_BOX(&dhvt::soft_pool_backward));
}
