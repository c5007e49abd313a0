// Pooling of any values with the soft assignment, without ever storing it.
#include "cpu/soft_assign_job.h"

namespace dhvt {
namespace {

std::tuple<Tensor, Tensor> soft_pool(const Tensor& features, const Tensor& values, const Tensor& centers,
                                     const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
                                     const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                     double temperature) {
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_pool_checked(in, values, [&](auto tag, const Tensor& sums, const Tensor& pooled) {
    using acc = typename decltype(tag)::type;
    const AssignArguments<acc> arguments(in);
    const auto& job = arguments.job;
    const auto value = any_image<acc>(values);
    const int64_t channels = values.size(1);
    const Buffer<acc> partial(job.tasks() * 3 * (job.grid.columns + 2) * record_size(channels + 1));
    const auto rows = DHVT_AT_LEVEL(pool_rows<acc>);
    parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) { rows(job, value, channels, partial, begin, end); });
    const auto gather = DHVT_AT_LEVEL(gather_pool<acc>);
    parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) {
      gather(job, channels, partial, mutable_data<acc>(sums), mutable_data<acc>(pooled), begin, end);
    });
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_pool_backward(
    const Tensor& grad_sums, const Tensor& grad_mass, const Tensor& features, const Tensor& values,
    const Tensor& centers, const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& coefficients, int64_t cell, double compactness, double temperature) {
  const SoftClusters in{features, centers, positions, mass, mask, coefficients, cell, compactness, temperature};
  return soft_pool_backward_checked(
      grad_sums, grad_mass, in, values,
      [&](auto tag, const SoftGradients& out, const Tensor& grad_values, const Tensor& grad_sums,
          const Tensor& grad_mass) {
        using acc = typename decltype(tag)::type;
        const AssignArguments<acc> arguments(in);
        const auto value = any_image<acc>(values);
        const auto grad_value = any_image<acc>(grad_values);
        const auto rows = DHVT_AT_LEVEL(pool_rows_backward<acc>);
        assign_gradients<acc>(arguments.job, out, [&](const AssignGradient<acc>& gradient, int64_t begin, int64_t end) {
          rows(arguments.job, value, values.size(1), data<acc>(grad_sums), data<acc>(grad_mass), grad_value, gradient,
               begin, end);
        });
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_pool", TORCH_BOX(&dhvt::soft_pool));
  m.impl("soft_pool_backward", TORCH_BOX(&dhvt::soft_pool_backward));
}
