// Soft assignment and pooling at given centres: what is compiled per level. Tasks are rows of cells; a call takes those
// from `begin` to `end`.
#pragma once

#include "cpu/level.h"
#include "cpu/soft_rows.h"

namespace dhvt {

// Features and the clusters that they are assigned to.
template <typename acc>
struct AssignJob {
  CellGrid grid;
  Metric<acc> metric;
  int64_t batch, channels;
  AnyImage<acc> features;
  const acc *centers, *positions, *mass;  // mass: null for all
  const bool* mask;

  DHVT_HD int64_t tasks() const { return batch * grid.rows; }
  DHVT_HD int64_t record() const { return record_size(channels + 3); }
  DHVT_HD CenterView<acc> view(int64_t b) const {
    const int64_t i = b * grid.cells();
    return {centers + i * channels, positions + i * 2, mass ? mass + i : nullptr, channels};
  }
};

// The gradients that the backward of an assignment leaves.
template <typename acc>
struct AssignGradient {
  AnyImage<acc> features;
  acc* partial;       // [tasks,3,columns+2,record]
  acc* coefficients;  // [tasks,2]
};

DHVT_PER_LEVEL(
    template <typename acc> void assign_rows(const AssignJob<acc>& job, const AnyImage<acc>& assignment,
                                             int32_t* labels, int64_t begin, int64_t end);
    template <typename acc> void assign_rows_backward(const AssignJob<acc>& job, const AnyImage<acc>& grad_assignment,
                                                      const AssignGradient<acc>& gradient, int64_t begin, int64_t end);
    // The gradients of centres and positions, from the partial sums of the rows.
    template <typename acc>
    void gather_center_gradients(const AssignJob<acc>& job, const acc* partial, acc* grad_centers, acc* grad_positions,
                                 int64_t begin, int64_t end);
    // partial [tasks,3,columns+2,record_size(1 + channels)] of (shares, shares * values); channels: of the values.
    template <typename acc> void pool_rows(const AssignJob<acc>& job, const AnyImage<acc>& values, int64_t channels,
                                           acc* partial, int64_t begin, int64_t end);
    template <typename acc> void gather_pool(const AssignJob<acc>& job, int64_t channels, const acc* partial, acc* sums,
                                             acc* mass, int64_t begin, int64_t end);
    template <typename acc>
    void pool_rows_backward(const AssignJob<acc>& job, const AnyImage<acc>& values, int64_t channels,
                            const acc* grad_sums, const acc* grad_mass, const AnyImage<acc>& grad_values,
                            const AssignGradient<acc>& gradient, int64_t begin, int64_t end);)

}  // namespace dhvt
