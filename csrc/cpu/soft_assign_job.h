// What soft_assign and soft_pool share.
#pragma once

#include "cpu/levels/soft_assign_kernels.h"
#include "cpu/soft_checks.h"

namespace dhvt {

// Arguments of an assignment as the kernels read them.
template <typename scalar_t>
struct AssignArguments {
  using acc = acc_t<scalar_t>;
  Tensor centers, positions;
  std::optional<Tensor> mass, mask;
  AssignJob<scalar_t> job;

  AssignArguments(const Tensor& features, const Tensor& centers_, const Tensor& positions_,
                  const std::optional<Tensor>& mass_, const std::optional<Tensor>& mask_,
                  const std::optional<Tensor>& coefficients, int64_t cell, double compactness, double temperature)
      : centers(dense(centers_)),
        positions(dense(positions_)),
        mass(dense(mass_)),
        mask(dense(mask_)),
        job{CellGrid(features.size(2), features.size(3), cell),
            read_metric<acc>(coefficients, compactness, temperature, cell),
            image_view<scalar_t>(features),
            data<acc>(centers),
            data<acc>(positions),
            data<acc>(mass),
            data<bool>(mask)} {}
};

// Runs rows(gradient, begin, end) for all rows of cells and gathers what they leave.
template <typename scalar_t, typename Rows>
void assign_gradients(const AssignJob<scalar_t>& job, const Tensor& grad_features, const Tensor& grad_centers,
                      const Tensor& grad_positions, const Tensor& grad_coefficients, const Rows& rows) {
  using acc = acc_t<scalar_t>;
  const int64_t tasks = job.tasks();
  const Buffer<acc> partial(tasks * 3 * (job.grid.columns + 2) * job.record()), coefficients(tasks * 2);
  std::fill_n(+coefficients, tasks * 2, acc(0));
  const AssignGradient<scalar_t> gradient{mutable_image_view<scalar_t>(grad_features), partial, coefficients};
  parallel_chunks(tasks, [&](int64_t begin, int64_t end) { rows(gradient, begin, end); });
  const auto gather = DHVT_AT_LEVEL(gather_center_gradients<scalar_t>);
  parallel_chunks(tasks, [&](int64_t begin, int64_t end) {
    gather(job, partial, mutable_data<acc>(grad_centers), mutable_data<acc>(grad_positions), begin, end);
  });
  for (int64_t i = 0; i < tasks * 2; ++i) mutable_data<acc>(grad_coefficients)[i % 2] += coefficients[i];
}

}  // namespace dhvt
