// Soft assignment and pooling at given centres: what is compiled per level. Tasks are rows of cells; a call takes those
// from `begin` to `end`.
#pragma once

#include "cpu/level.h"
#include "cpu/soft_rows.h"

namespace dhvt {

// Features and the clusters that they are assigned to.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
struct AssignJob {
  CellGrid grid;
  Metric<acc> metric;
  ImageView<const scalar_t> features;
  const acc *centers, *positions, *mass;  // mass: null for all
  const bool* mask;

  DHVT_HD int64_t tasks() const { return features.batch * grid.rows; }
  DHVT_HD int64_t record() const { return record_size(features.channels + 3); }
  DHVT_HD CenterView<acc> view(int64_t b) const {
    const int64_t i = b * grid.cells();
    return {centers + i * features.channels, positions + i * 2, mass ? mass + i : nullptr, features.channels};
  }
};

// The gradients that the backward of an assignment leaves.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
struct AssignGradient {
  ImageView<scalar_t> features;
  acc* partial;       // [tasks,3,columns+2,record]
  acc* coefficients;  // [tasks,2]
};

DHVT_PER_LEVEL(
    template <typename scalar_t> void assign_rows(const AssignJob<scalar_t>& job, const ImageView<scalar_t>& assignment,
                                                  int32_t* labels, int64_t begin, int64_t end);
    template <typename scalar_t>
    void assign_rows_backward(const AssignJob<scalar_t>& job, const ImageView<const scalar_t>& grad_assignment,
                              const AssignGradient<scalar_t>& gradient, int64_t begin, int64_t end);
    // The gradients of centres and positions, from the partial sums of the rows.
    template <typename scalar_t>
    void gather_center_gradients(const AssignJob<scalar_t>& job, const acc_t<scalar_t>* partial,
                                 acc_t<scalar_t>* grad_centers, acc_t<scalar_t>* grad_positions, int64_t begin,
                                 int64_t end);
    // partial [tasks,3,columns+2,record_size(1 + Cv)] of (shares, shares * values).
    template <typename scalar_t> void pool_rows(const AssignJob<scalar_t>& job, const ImageView<const scalar_t>& values,
                                                acc_t<scalar_t>* partial, int64_t begin, int64_t end);
    template <typename scalar_t>
    void gather_pool(const AssignJob<scalar_t>& job, int64_t channels, const acc_t<scalar_t>* partial,
                     acc_t<scalar_t>* sums, acc_t<scalar_t>* mass, int64_t begin, int64_t end);
    template <typename scalar_t>
    void pool_rows_backward(const AssignJob<scalar_t>& job, const ImageView<const scalar_t>& values,
                            const acc_t<scalar_t>* grad_sums, const acc_t<scalar_t>* grad_mass,
                            const ImageView<scalar_t>& grad_values, const AssignGradient<scalar_t>& gradient,
                            int64_t begin, int64_t end);)

}  // namespace dhvt
