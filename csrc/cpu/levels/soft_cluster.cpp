#include "cpu/levels/soft_cluster_kernels.h"

#include "cpu/levels/soft_row.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// Mean and number of a cell's pixels that take part.
template <typename acc>
void cell_mean(const ClusterJob<acc>& job, const CellMajorRow<acc>& pixels, int64_t row, int64_t column,
               TileScratch<acc>& tile, acc* lanes, acc* sums, const States<acc>& out) {
  const CellGrid& grid = job.grid;
  const int64_t height = grid.row_height(row), width = grid.column_width(column), count = width * height;
  const int64_t first = column * grid.cell * height, channels = job.channels;
  const uint8_t* codes = pixels.whole[column] ? nullptr : pixels.codes + first;
  const auto add = [&](int64_t i, Lanes<acc> value) __attribute__((always_inline)) {
    store(lanes + i * kLanes<acc>, load(lanes + i * kLanes<acc>) + value);
  };
  const int64_t entries = rounded(channels + 3, kLanes<acc>);
  fill(lanes, entries * kLanes<acc>, acc(0));
  for (int64_t c = 0; c < channels; ++c) {
    const acc* from = pixels.features + first * channels + c * count;
    Lanes<acc> sum = {};
    int64_t n = 0;
    for (; n + kLanes<acc> <= count; n += kLanes<acc>) sum += load(from + n);
    if (n < count) sum += load_some(from + n, int(count - n));
    store(lanes + c * kLanes<acc>, sum);
  }
  if (codes)  // else the positions add up to 0
    for (int64_t start = 0; start < count; start += kTile) {
      tile.set_positions(start, width, height);
      for (int n = 0; n < kTile && start + n < count; n += kLanes<acc>) {
        Lanes<acc> used;
        for (int l = 0; l < kLanes<acc>; ++l)
          used[l] = acc(start + n + l < count && codes[start + n + l] == kTakesPart);
        add(channels, used * load(tile.position + n));
        add(channels + 1, used * load(tile.position + kStride + n));
        add(channels + 2, used);
      }
    }
  for (int64_t i = 0; i < entries; i += kLanes<acc>) add_lanes<kLanes<acc>>(lanes + i * kLanes<acc>, sums + i);
  const int64_t j = row * grid.columns + column;
  const acc mass = codes ? sums[channels + 2] : acc(count), scale = mass > 0 ? acc(1) / mass : acc(0);
  out.mass[j] = mass;
  for (int64_t c = 0; c < channels; ++c) out.centers[j * channels + c] = sums[c] * scale;
  out.positions[2 * j] = grid.middle_y<acc>(row) + sums[channels] * scale;
  out.positions[2 * j + 1] = grid.middle_x<acc>(column) + sums[channels + 1] * scale;
}

// The centres of a row of cells after an update, from its sums; writes them to the states if `write`.
template <typename acc>
void update_centers(const ClusterJob<acc>& job, int64_t iteration, int64_t b, int64_t row, const acc* partial,
                    bool write, acc* sums, acc* center, const CenterRows<acc>& out) {
  const CellGrid& grid = job.grid;
  const int64_t channels = job.channels;
  const States<acc> before = job.state(iteration - 1, b), after = job.state(iteration, b);
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t j = row * grid.columns + column;
    gather_center(grid, partial + b * grid.rows * job.row_sums(), row, column, job.record(), sums);
    const acc mass = sums[0];
    acc position[2];
    if (mass > 0) {
      const acc scale = acc(1) / mass;
      for (int64_t c = 0; c < channels; ++c) center[c] = before.centers[j * channels + c] + sums[c + 1] * scale;
      for (int i = 0; i < 2; ++i) position[i] = before.positions[2 * j + i] + sums[channels + 1 + i] * scale;
    } else {
      copy(before.centers + j * channels, channels, center);
      copy(before.positions + 2 * j, 2, position);
    }
    out.set(grid, row, column, center, position, mass);
    if (!write) continue;
    copy(center, channels, after.centers + j * channels);
    copy(position, 2, after.positions + 2 * j);
    after.mass[j] = mass;
  }
}

// Completes a state row by row and walks it.
template <typename acc, typename Body>
void for_each_row_of_state(const ClusterJob<acc>& job, int64_t iteration, const acc* before, int64_t begin, int64_t end,
                           const CenterRows<acc>& centers, const Body& body) {
  const CellGrid& grid = job.grid;
  const Scratch<acc> sums(job.record()), center(job.channels);
  const auto fetch = [&](int64_t b, int64_t row) {
    const int64_t task = b * grid.rows + row;
    if (iteration > 0 && row >= 0 && row < grid.rows)
      update_centers<acc>(job, iteration, b, row, before, begin <= task && task < end, sums, center, centers);
    else
      read_centers(grid, job.view(iteration, b), row, centers);
  };
  for_each_row(grid, begin, end, fetch, body);
}

}  // namespace

template <typename acc>
void cluster_load(const AnyImage<acc>& image, const bool* mask, const ClusterJob<acc>& job, bool means, int64_t begin,
                  int64_t end) {
  const CellGrid grid = job.grid;
  const Scratch<acc> line(grid.width);
  const int64_t entries = rounded(job.channels + 3, kLanes<acc>);
  const Scratch<acc> lanes(entries * kLanes<acc>), sums(entries);
  TileScratch<acc> tile;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const CellMajorRow<acc> pixels = job.row(b, row);
    load_row_of_cells<acc>(image, mask ? mask + b * job.pixels() : nullptr, b, grid, row, pixels, line);
    if (means)
      for (int64_t column = 0; column < grid.columns; ++column)
        cell_mean<acc>(job, pixels, row, column, tile, lanes, sums, job.state(0, b));
  }
}

template <typename acc>
void cluster_update(const ClusterJob<acc>& job, int64_t iteration, const acc* before, acc* partial, int64_t begin,
                    int64_t end) {
  const CellGrid grid = job.grid;
  const CenterRows<acc> centers(grid, job.channels);
  Candidates<acc> candidates(centers.dims);
  TileScratch<acc> tile;
  RowSums<acc> sums(grid, centers.record);
  for_each_row_of_state(job, iteration, before, begin, end, centers, [&](int64_t b, int64_t row, int64_t task) {
    sums.begin(partial + task * job.row_sums());
    for_each_cell(grid, job.metric, centers, candidates, job.row(b, row), row, [&](const Cell<acc>& cell) {
      for_each_tile(cell, tile, [&](int64_t start, int count) {
        assign_tile(cell, job.channels, start, count, tile);
        sums.add_tile(cell, job.channels, start, padded<acc>(count), tile, tile.weight);
      });
      end_relative_cell(cell, centers.dims, sums);
    });
  });
}

template <typename acc>
void cluster_label(const ClusterJob<acc>& job, int64_t iteration, const acc* before, int32_t* labels, int64_t begin,
                   int64_t end) {
  const CellGrid grid = job.grid;
  const CenterRows<acc> centers(grid, job.channels);
  Candidates<acc> candidates(centers.dims);
  TileScratch<acc> tile;
  const Scratch<int32_t> label(kTile);
  for_each_row_of_state(job, iteration, before, begin, end, centers, [&](int64_t b, int64_t row, int64_t) {
    for_each_cell(grid, job.metric, centers, candidates, job.row(b, row), row, [&](const Cell<acc>& cell) {
      for_each_tile(cell, tile, [&](int64_t start, int count) {
        label_tile(cell, job.channels, start, count, tile, grid.columns, +label);
        store_labels(grid, cell, start, count, +label, labels + b * job.pixels());
      });
    });
  });
}

namespace {

// sums = the gradient of a centre of state `iteration`: entry 0 that of its mass.
template <typename acc>
void fetch_gradient(const ClusterJob<acc>& job, int64_t iterations, int64_t iteration, int64_t b, int64_t row,
                    int64_t column, const ClusterGradient<acc>& gradient, acc* sums) {
  const CellGrid& grid = job.grid;
  const int64_t channels = job.channels, record = job.record(), j = row * grid.columns + column;
  const int64_t at = b * grid.cells() + j;
  if (iteration == iterations) {
    sums[0] = gradient.mass[at];
    copy(gradient.centers + at * channels, channels, sums + 1);
    copy(gradient.positions + at * 2, 2, sums + channels + 1);
    return;
  }
  const int64_t image = b * grid.rows * job.row_sums();
  gather_center<acc>(grid, gradient.partial[iteration % 2] + image, row, column, record, sums);
  // A centre without mass was copied.
  const bool keep = !(job.state(iteration + 1, b).mass[j] > 0);
  const acc* kept = gradient.of_state[(iteration + 1) % 2] + at * record;
  for (int64_t d = 0; d < channels + 2; ++d)
    sums[d + 1] =
        sums[d + 1] * slope(job.metric, d, channels) * job.metric.inverse_temperature + (keep ? kept[d + 1] : acc(0));
  sums[0] = 0;  // the mass before only decides who is a candidate
}

// Per candidate vectors with d loss / d a = entry 0 + entries . x', x' relative to the centre itself, from the
// gradients of the centres that the update gave.
template <typename acc>
void update_gradient(const ClusterJob<acc>& job, int64_t iterations, int64_t iteration, int64_t b, int64_t row,
                     const ClusterGradient<acc>& gradient, bool write, acc* sums, const Planes<acc>& out) {
  const CellGrid& grid = job.grid;
  const int64_t channels = job.channels, dims = channels + 2;
  acc* plane = out.row(row);
  if (row < 0 || row >= grid.rows) return out.clear(row);
  const States<acc> before = job.state(iteration, b), after = job.state(iteration + 1, b);
  for (int64_t column = 0; column < grid.columns; ++column, ++plane) {
    const int64_t j = row * grid.columns + column;
    fetch_gradient(job, iterations, iteration + 1, b, row, column, gradient, sums);
    if (write) copy(sums, dims + 1, gradient.of_state[(iteration + 1) % 2] + (b * grid.cells() + j) * job.record());
    // mean = sum a g / sum a, so d mean / d a_i = (g_i - mean) / mass.
    const bool alive = after.mass[j] > 0;
    const acc scale = alive ? acc(1) / after.mass[j] : acc(0);
    acc constant = alive ? sums[0] : acc(0);
    for (int64_t d = 0; d < dims; ++d) {
      const acc grad = alive ? sums[d + 1] * scale : acc(0);
      const acc moved = d < channels ? after.centers[j * channels + d] - before.centers[j * channels + d]
                                     : after.positions[2 * j + d - channels] - before.positions[2 * j + d - channels];
      plane[(d + 1) * out.pitch()] = grad;
      constant -= grad * moved;
    }
    plane[0] = constant;
  }
}

// constants [9,kChunk]: entry 0 for x relative to the centre of the cell, of kChunk cells from `column` on.
template <typename acc>
DHVT_HD void move_constants(const Planes<acc>& vectors, const acc* difference, int64_t dims, int64_t row,
                            int64_t column, acc* constants) {
  for (int k = 0; k < kCandidates; ++k)
    for (int part = 0; part < kChunk; part += kLanes<acc>) {
      const acc* vector = vectors.row(row + k / 3 - 1) + column + k % 3 - 1 + part;
      Lanes<acc> sum = load(vector);
      if (k != kOwnCell)
        for (int64_t d = 0; d < dims; ++d)
          sum -= load(vector + (d + 1) * vectors.pitch()) *
                 load(difference + (d * kOthers + other_index(k)) * kChunk + part);
      store(constants + k * kChunk + part, sum);
    }
}

}  // namespace

template <typename acc>
void cluster_update_backward(const ClusterJob<acc>& job, int64_t iterations, int64_t iteration,
                             const ClusterGradient<acc>& gradient, int64_t begin, int64_t end) {
  const CellGrid grid = job.grid;
  const int64_t channels = job.channels;
  const CenterRows<acc> centers(grid, channels);
  const int64_t dims = centers.dims;
  Candidates<acc> candidates(dims);
  const Planes<acc> vectors(dims + 1, grid.columns);
  TileScratch<acc> tile;
  RowSums<acc> sums(grid, centers.record);
  const CoefficientSums<acc> coefficients(dims);
  const Scratch<acc> own(centers.record);
  alignas(64) acc constants[kCandidates * kChunk];
  const auto fetch = [&](int64_t b, int64_t row) {
    const int64_t task = b * grid.rows + row;
    read_centers(grid, job.view(iteration, b), row, centers);
    update_gradient<acc>(job, iterations, iteration, b, row, gradient, begin <= task && task < end, own, vectors);
  };
  for_each_row(grid, begin, end, fetch, [&](int64_t b, int64_t row, int64_t task) {
    sums.begin(gradient.partial[iteration % 2] + task * job.row_sums());
    coefficients.clear();
    const CellMajorRow<acc> pixels = job.row(b, row);
    for_each_cell(grid, job.metric, centers, candidates, pixels, row, [&](const Cell<acc>& cell) {
      const int64_t in_chunk = cell.column % kChunk;
      if (in_chunk == 0) move_constants(vectors, cell.difference, dims, row, cell.column, constants);
      const Vectors<acc> linear = vectors.around(row, cell.column, 1);
      GradientPlanes<acc> out{gradient.row(job, b, row) + cell.first, job.pixels(), iteration == iterations - 1};
      for_each_tile(cell, tile, [&](int64_t start, int count) {
        const int whole = padded<acc>(count);
        assign_tile(cell, channels, start, count, tile);
        linear_backward(constants + in_chunk, linear, cell, channels, start, whole, tile);
        spread<true, true>(tile, linear, cell.difference, 2 * job.metric.inverse_temperature, channels, count, out);
        out.data += count;
        sums.add_tile(cell, channels, start, whole, tile, tile.gradient);
      });
      coefficients.end_cell(cell, sums);
    });
    coefficients.add_to(job.metric, channels, gradient.coefficients + task * 2);
  });
}

template <typename acc>
void cluster_load_backward(const ClusterJob<acc>& job, int64_t iterations, bool last_only,
                           const ClusterGradient<acc>& gradient, const AnyImage<acc>& out, int64_t begin, int64_t end) {
  const CellGrid grid = job.grid;
  const Scratch<acc> line(grid.width), sums(job.record()),
      band(grid.width * (grid.cell < grid.height ? grid.cell : grid.height));
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const CellMajorRow<acc> pixels = job.row(b, row);
    acc* features = gradient.row(job, b, row);
    if (!last_only || iterations == 0)
      for (int64_t column = 0; column < grid.columns; ++column) {
        const int64_t first = column * grid.cell * grid.row_height(row);
        const int64_t count = grid.column_width(column) * grid.row_height(row);
        const acc mass = job.state(0, b).mass[row * grid.columns + column];
        fetch_gradient<acc>(job, iterations, 0, b, row, column, gradient, sums);
        for (int64_t c = 0; c < job.channels; ++c) {
          const acc share = mass > 0 ? sums[c + 1] / mass : acc(0);
          acc* own = features + c * job.pixels() + first;
          if (iterations == 0) fill(own, count, acc(0));
          if (pixels.whole[column])
            for (int64_t n = 0; n < count; ++n) own[n] += share;
          else
            for (int64_t n = 0; n < count; ++n) own[n] += pixels.codes[first + n] == kTakesPart ? share : acc(0);
        }
      }
    store_cells<acc>(out, job.channels, b, grid, row, job.pixels(), features, line, band);
  }
}

#define INSTANTIATE(acc)                                                                                         \
  template void cluster_load(const AnyImage<acc>&, const bool*, const ClusterJob<acc>&, bool, int64_t, int64_t); \
  template void cluster_update(const ClusterJob<acc>&, int64_t, const acc*, acc*, int64_t, int64_t);             \
  template void cluster_label(const ClusterJob<acc>&, int64_t, const acc*, int32_t*, int64_t, int64_t);          \
  template void cluster_update_backward(const ClusterJob<acc>&, int64_t, int64_t, const ClusterGradient<acc>&,   \
                                        int64_t, int64_t);                                                       \
  template void cluster_load_backward(const ClusterJob<acc>&, int64_t, bool, const ClusterGradient<acc>&,        \
                                      const AnyImage<acc>&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace dhvt::DHVT_LEVEL
