#include "cpu/levels/soft_assign_kernels.h"

#include "cpu/levels/soft_row.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// What all rows of a call use.
template <typename acc>
struct Worker {
  const AssignJob<acc>& job;
  CellGrid grid = job.grid;
  int64_t channels = job.channels;
  CenterRows<acc> centers{grid, channels};
  Candidates<acc> candidates{centers.dims};
  TileScratch<acc> tile{};
  RowScratch<acc> rows{grid, channels};

  // begin_row(b, row, task), then each(b, cell), then end_row(b, row, task).
  template <typename Fetch, typename Begin, typename Each, typename End>
  DHVT_HD void run(int64_t begin, int64_t end, const Fetch& fetch, const Begin& begin_row, const Each& each,
                   const End& end_row) {
    const auto fetch_both = [&](int64_t b, int64_t row) {
      read_centers(grid, job.view(b), row, centers);
      fetch(b, row);
    };
    for_each_row(grid, begin, end, fetch_both, [&](int64_t b, int64_t row, int64_t task) {
      begin_row(b, row, task);
      const CellMajorRow<acc> pixels = rows.load(job.features, job.mask, b, grid, row);
      for_each_cell(grid, job.metric, centers, candidates, pixels, row, [&](const Cell<acc>& cell) { each(b, cell); });
      end_row(b, row, task);
    });
  }
};

// The backward of the assignment, once tile.gradient has its gradient.
template <typename acc>
class AssignmentBackward {
 public:
  DHVT_HD AssignmentBackward(Worker<acc>& worker, const AssignGradient<acc>& gradient)
      : worker_(worker),
        gradient_(gradient),
        sums_(worker.grid, worker.centers.record),
        coefficients_(worker.centers.dims),
        features_(worker.channels * kStride) {}

  DHVT_HD void begin_row(int64_t task) {
    const int64_t size = 3 * (worker_.grid.columns + 2) * worker_.centers.record;
    sums_.begin(gradient_.partial + task * size);
    coefficients_.clear();
  }

  DHVT_HD void add_tile(int64_t b, const Cell<acc>& cell, int64_t start, int count) {
    const Tile<acc>& tile = worker_.tile;
    softmax_backward(tile.weight, tile.gradient, padded<acc>(count));
    spread<false, true, acc>(tile, Vectors<acc>{}, cell.difference, 2 * worker_.job.metric.inverse_temperature,
                             worker_.channels, count, {features_, kStride, true});
    store_tile<acc>(gradient_.features, b, worker_.grid, cell, start, count, 0, worker_.channels, features_);
    sums_.add_tile(cell, worker_.channels, start, padded<acc>(count), tile, tile.gradient);
  }

  DHVT_HD void end_cell(const Cell<acc>& cell) { coefficients_.end_cell(cell, sums_); }

  DHVT_HD void end_row(int64_t task) const {
    coefficients_.add_to(worker_.job.metric, worker_.channels, gradient_.coefficients + task * 2);
  }

 private:
  Worker<acc>& worker_;
  const AssignGradient<acc>& gradient_;
  RowSums<acc> sums_;
  CoefficientSums<acc> coefficients_;
  Scratch<acc> features_;
};

constexpr auto kNothing = [](auto&&...) {};

// Channels of values that are loaded at once.
constexpr int kGroup = 12;

template <typename acc>
DHVT_HD Numbers<acc> loaded(const acc* planes) {
  static constexpr acc zeros[kGroup] = {};
  return {planes, kStride, zeros};
}

template <typename Body>
DHVT_HD void for_each_group(int64_t channels, const Body& body) {
  for (int64_t c = 0; c < channels; c += kGroup) body(c, channels - c < kGroup ? channels - c : int64_t(kGroup));
}

}  // namespace

template <typename acc>
void assign_rows(const AssignJob<acc>& job, const AnyImage<acc>& assignment, int32_t* labels, int64_t begin,
                 int64_t end) {
  Worker<acc> worker{job};
  const CellGrid& grid = worker.grid;
  const Scratch<int32_t> label(kTile);
  worker.run(
      begin, end, kNothing, kNothing,
      [&](int64_t b, const Cell<acc>& cell) {
        for_each_tile(cell, worker.tile, [&](int64_t start, int count) {
          label_tile(cell, worker.channels, start, count, worker.tile, grid.columns, +label);
          store_labels(grid, cell, start, count, +label, labels + b * grid.height * grid.width);
          assign_tile(cell, worker.channels, start, count, worker.tile);
          store_tile<acc>(assignment, b, grid, cell, start, count, 0, kCandidates, worker.tile.weight);
        });
      },
      kNothing);
}

template <typename acc>
void assign_rows_backward(const AssignJob<acc>& job, const AnyImage<acc>& grad_assignment,
                          const AssignGradient<acc>& gradient, int64_t begin, int64_t end) {
  Worker<acc> worker{job};
  AssignmentBackward<acc> backward(worker, gradient);
  acc* grad = worker.tile.gradient;
  worker.run(
      begin, end, kNothing, [&](int64_t, int64_t, int64_t task) { backward.begin_row(task); },
      [&](int64_t b, const Cell<acc>& cell) {
        for_each_tile(cell, worker.tile, [&](int64_t start, int count) {
          assign_tile(cell, worker.channels, start, count, worker.tile);
          load_tile<acc>(grad_assignment, b, worker.grid, cell, start, count, 0, kCandidates, grad);
          // A share that is 0 by definition has no gradient, not even 0 * infinity.
          clear_unused(cell, start, count, kCandidates, grad);
          for (int k = 0; k < kCandidates; ++k)
            if (!(cell.present >> k & 1)) fill(grad + k * kStride, count, acc(0));
          backward.add_tile(b, cell, start, count);
        });
        backward.end_cell(cell);
      },
      [&](int64_t, int64_t, int64_t task) { backward.end_row(task); });
}

template <typename acc>
void gather_center_gradients(const AssignJob<acc>& job, const acc* partial, acc* grad_centers, acc* grad_positions,
                             int64_t begin, int64_t end) {
  const CellGrid& grid = job.grid;
  const int64_t record = job.record(), channels = job.channels;
  const Scratch<acc> sums(record);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    for (int64_t column = 0; column < grid.columns; ++column) {
      const int64_t at = b * grid.cells() + row * grid.columns + column;
      gather_center<acc>(grid, partial + b * grid.rows * 3 * (grid.columns + 2) * record, row, column, record, sums);
      for (int64_t d = 0; d < channels + 2; ++d) {
        acc& out = d < channels ? grad_centers[at * channels + d] : grad_positions[at * 2 + d - channels];
        out = sums[d + 1] * slope(job.metric, d, channels) * job.metric.inverse_temperature;
      }
    }
  }
}

template <typename acc>
void pool_rows(const AssignJob<acc>& job, const AnyImage<acc>& values, int64_t channels, acc* partial, int64_t begin,
               int64_t end) {
  Worker<acc> worker{job};
  const int64_t record = record_size(channels + 1);
  RowSums<acc> sums(worker.grid, record);
  const Scratch<acc> planes(kGroup * kStride);
  worker.run(
      begin, end, kNothing,
      [&](int64_t, int64_t, int64_t task) { sums.begin(partial + task * 3 * (worker.grid.columns + 2) * record); },
      [&](int64_t b, const Cell<acc>& cell) {
        for_each_tile(cell, worker.tile, [&](int64_t start, int count) {
          const int whole = padded<acc>(count);
          assign_tile(cell, worker.channels, start, count, worker.tile);
          sums.template add<true>(0, worker.tile.weight, {}, 0, whole, start == 0);
          for_each_group(channels, [&](int64_t first, int64_t group) {
            load_tile<acc>(values, b, worker.grid, cell, start, count, first, group, planes);
            clear_unused<acc>(cell, start, count, group, planes);
            sums.template add<false>(first, worker.tile.weight, loaded<acc>(planes), group, whole, start == 0);
          });
        });
        sums.end_cell(cell.column, channels, [](int64_t, const auto& each_candidate) {
          each_candidate([](int, auto sum, auto) { return sum; });
        });
      },
      kNothing);
}

template <typename acc>
void gather_pool(const AssignJob<acc>& job, int64_t channels, const acc* partial, acc* sums, acc* mass, int64_t begin,
                 int64_t end) {
  const CellGrid& grid = job.grid;
  const int64_t record = record_size(channels + 1);
  const Scratch<acc> own(record);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    for (int64_t column = 0; column < grid.columns; ++column) {
      const int64_t at = b * grid.cells() + row * grid.columns + column;
      gather_center<acc>(grid, partial + b * grid.rows * 3 * (grid.columns + 2) * record, row, column, record, own);
      mass[at] = own[0];
      copy<acc>(own + 1, channels, sums + at * channels);
    }
  }
}

template <typename acc>
void pool_rows_backward(const AssignJob<acc>& job, const AnyImage<acc>& values, int64_t channels, const acc* grad_sums,
                        const acc* grad_mass, const AnyImage<acc>& grad_values, const AssignGradient<acc>& gradient,
                        int64_t begin, int64_t end) {
  Worker<acc> worker{job};
  const CellGrid& grid = worker.grid;
  const Tile<acc>& tile = worker.tile;
  AssignmentBackward<acc> backward(worker, gradient);
  const Planes<acc> vectors(channels + 1, grid.columns);  // d loss / d a = vectors . (1, values)
  const Scratch<acc> planes(kGroup * kStride);
  const auto fetch = [&](int64_t b, int64_t row) {
    if (row < 0 || row >= grid.rows) return vectors.clear(row);
    for (int64_t column = 0; column < grid.columns; ++column) {
      const int64_t at = b * grid.cells() + row * grid.columns + column;
      acc* plane = vectors.row(row) + column;
      const bool alive = job.mass[at] > 0;
      plane[0] = alive ? grad_mass[at] : acc(0);
      for (int64_t c = 0; c < channels; ++c)
        plane[(c + 1) * vectors.pitch()] = alive ? grad_sums[at * channels + c] : acc(0);
    }
  };
  worker.run(
      begin, end, fetch, [&](int64_t, int64_t, int64_t task) { backward.begin_row(task); },
      [&](int64_t b, const Cell<acc>& cell) {
        const Vectors<acc> constant = vectors.around(cell.row, cell.column, 0);
        for_each_tile(cell, worker.tile, [&](int64_t start, int count) {
          const int whole = padded<acc>(count);
          assign_tile(cell, worker.channels, start, count, tile);
          for (int k = 0; k < kCandidates; ++k)
            fill(tile.gradient + k * kStride, whole, constant.row[k / 3][k % 3 - 1]);
          for_each_group(channels, [&](int64_t first, int64_t group) {
            const Vectors<acc> own = vectors.around(cell.row, cell.column, first + 1);
            load_tile<acc>(values, b, grid, cell, start, count, first, group, planes);
            clear_unused<acc>(cell, start, count, group, planes);
            add_linear<acc>(own, loaded<acc>(planes), group, whole, tile.gradient);
            spread<true, false, acc>(tile, own, nullptr, acc(0), group, count, {planes, kStride, true});
            store_tile<acc>(grad_values, b, grid, cell, start, count, first, group, planes);
          });
          backward.add_tile(b, cell, start, count);
        });
        backward.end_cell(cell);
      },
      [&](int64_t, int64_t, int64_t task) { backward.end_row(task); });
}

#define INSTANTIATE(acc)                                                                                               \
  template void assign_rows(const AssignJob<acc>&, const AnyImage<acc>&, int32_t*, int64_t, int64_t);                  \
  template void assign_rows_backward(const AssignJob<acc>&, const AnyImage<acc>&, const AssignGradient<acc>&, int64_t, \
                                     int64_t);                                                                         \
  template void gather_center_gradients(const AssignJob<acc>&, const acc*, acc*, acc*, int64_t, int64_t);              \
  template void pool_rows(const AssignJob<acc>&, const AnyImage<acc>&, int64_t, acc*, int64_t, int64_t);               \
  template void gather_pool(const AssignJob<acc>&, int64_t, const acc*, acc*, acc*, int64_t, int64_t);                 \
  template void pool_rows_backward(const AssignJob<acc>&, const AnyImage<acc>&, int64_t, const acc*, const acc*,       \
                                   const AnyImage<acc>&, const AssignGradient<acc>&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace dhvt::DHVT_LEVEL
