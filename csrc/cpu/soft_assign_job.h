// What soft_assign and soft_pool share.
#pragma once

#include "cpu/levels/soft_assign_kernels.h"
#include "cpu/soft_checks.h"

namespace dhvt {

// Arguments of an assignment as the kernels read them.
template <typename acc>
struct AssignArguments {
  Tensor centers, positions;
  std::optional<Tensor> mass, mask;
  AssignJob<acc> job;

  explicit AssignArguments(const SoftClusters& in)
      : centers(dense(in.centers)),
        positions(dense(in.positions)),
        mass(dense(in.mass)),
        mask(dense(in.mask)),
        job{CellGrid(in.features.size(2), in.features.size(3), in.cell),
            read_metric<acc>(in.coefficients, in.compactness, in.temperature, in.cell),
            in.features.size(0),
            in.features.size(1),
            any_image<acc>(in.features),
            data<acc>(centers),
            data<acc>(positions),
            data<acc>(mass),
            data<bool>(mask)} {}
};

// Runs rows(gradient, begin, end) for all rows of cells and gathers what they leave.
template <typename acc, typename Rows>
void assign_gradients(const AssignJob<acc>& job, const SoftGradients& out, const Rows& rows) {
  const int64_t tasks = job.tasks();
  const Buffer<acc> partial(tasks * 3 * (job.grid.columns + 2) * job.record()), coefficients(tasks * 2);
  std::fill_n(+coefficients, tasks * 2, acc(0));
  const AssignGradient<acc> gradient{any_image<acc>(out.features), partial, coefficients};
  parallel_chunks(tasks, [&](int64_t begin, int64_t end) { rows(gradient, begin, end); });
  const auto gather = DHVT_AT_LEVEL(gather_center_gradients<acc>);
  parallel_chunks(tasks, [&](int64_t begin, int64_t end) {
    gather(job, partial, mutable_data<acc>(out.centers), mutable_data<acc>(out.positions), begin, end);
  });
  add_pairs<acc>(coefficients, tasks, out.coefficients);
}

}  // namespace dhvt
