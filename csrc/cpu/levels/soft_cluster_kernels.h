// Soft clustering: what is compiled per level. Tasks are rows of cells; a call takes those from `begin` to `end`.
#pragma once

#include "cpu/level.h"
#include "cpu/soft_rows.h"

namespace dhvt {

// Centres, positions and masses of all iterations.
template <typename acc>
struct States {
  acc* centers;    // [I+1,B,L,C]
  acc* positions;  // [I+1,B,L,2]
  acc* mass;       // [I+1,B,L]
};

// What all iterations share.
template <typename acc>
struct ClusterJob {
  CellGrid grid;
  Metric<acc> metric;
  int64_t batch, channels;
  acc* features;   // [B,cells,C,pixels of a cell]
  uint8_t* codes;  // [B,cells,pixels of a cell]
  bool* whole;     // [B,rows,columns]
  States<acc> states;

  DHVT_HD int64_t tasks() const { return batch * grid.rows; }
  DHVT_HD int64_t record() const { return record_size(channels + 3); }
  // Size of the sums of one row of cells.
  DHVT_HD int64_t row_sums() const { return 3 * (grid.columns + 2) * record(); }
  DHVT_HD int64_t pixels() const { return grid.height * grid.width; }

  DHVT_HD CellMajorRow<acc> row(int64_t b, int64_t row) const {
    const int64_t before = b * pixels() + row * grid.cell * grid.width;
    return {features + channels * before, channels, codes + before, whole + (b * grid.rows + row) * grid.columns};
  }
  DHVT_HD States<acc> state(int64_t iteration, int64_t b) const {
    const int64_t i = (iteration * batch + b) * grid.cells();
    return {states.centers + i * channels, states.positions + i * 2, states.mass + i};
  }
  DHVT_HD CenterView<acc> view(int64_t iteration, int64_t b) const {
    const States<acc> own = state(iteration, b);
    return {own.centers, own.positions, own.mass, channels};
  }
};

// Gradients of the states, from the last iteration to the first.
template <typename acc>
struct ClusterGradient {
  const acc *centers, *positions, *mass;  // of the last state
  acc* of_state[2];                       // [B,L,record] of the state after iteration i in of_state[i % 2]
  acc* partial[2];                        // [tasks,row_sums] of iteration i in partial[i % 2]
  acc* features;                          // [B,C,cells,pixels of a cell]: a row of cells lies where the image has it
  acc* coefficients;                      // [tasks,2]

  DHVT_HD acc* row(const ClusterJob<acc>& job, int64_t b, int64_t row) const {
    return features + b * job.channels * job.pixels() + row * job.grid.cell * job.grid.width;
  }
};

DHVT_PER_LEVEL(
    // Fills features, codes and whole, and with `means` the first state: mean and number of the pixels of each cell
    // that take part. A cell without any has mass 0, features 0 and its middle as position.
    template <typename acc> void cluster_load(const AnyImage<acc>& image, const bool* mask, const ClusterJob<acc>& job,
                                              bool means, int64_t begin, int64_t end);
    // Iteration i: completes state i from the sums that iteration i - 1 left (`before`), and adds up those for i + 1.
    template <typename acc> void cluster_update(const ClusterJob<acc>& job, int64_t iteration, const acc* before,
                                                acc* partial, int64_t begin, int64_t end);
    // The hard labels at the last state, which it completes.
    template <typename acc> void cluster_label(const ClusterJob<acc>& job, int64_t iteration, const acc* before,
                                               int32_t* labels, int64_t begin, int64_t end);
    // Gradients that come through iteration i, the last of `iterations` first.
    template <typename acc>
    void cluster_update_backward(const ClusterJob<acc>& job, int64_t iterations, int64_t iteration,
                                 const ClusterGradient<acc>& gradient, int64_t begin, int64_t end);
    // The gradients of the features, with what comes through the cells' means unless `last_only`.
    template <typename acc> void cluster_load_backward(const ClusterJob<acc>& job, int64_t iterations, bool last_only,
                                                       const ClusterGradient<acc>& gradient, const AnyImage<acc>& out,
                                                       int64_t begin, int64_t end);)

}  // namespace dhvt
