// The tile machinery of soft assignment on the CPU.
//
// All pixels of a cell share their nine candidates. A cell is walked in tiles of at most 64 pixels; a tile's features
// are copied into a small planar scratch (any layout and dtype in, float or double inside), the assignment is computed
// there, and products with it are summed into nine partial sums per cell. A second pass lets every centre gather the
// partial sums of the nine cells around it in fixed order. No atomics, nothing of size pixels x candidates, the same
// bits for any number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <new>

#include "common.h"
#include "soft_assign.h"

namespace dhvt {

constexpr int kLanes = 64;  // pixels of a tile
constexpr int kBlock = 16;  // pixels that one step of a loop computes

// Uninitialised memory on a cache line.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(new (kAlign) T[std::max<int64_t>(size, 1)]) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { ::operator delete[](data_, kAlign); }
  operator T*() const { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  T* data_;
};

// A row of values for each of the nine candidates of a tile's pixels.
template <typename acc>
using Rows = acc[kCandidates][kLanes];

template <typename acc>
Metric<acc> read_metric(const std::optional<Tensor>& coefficients, double compactness, double temperature,
                        int64_t cell) {
  if (!coefficients.has_value()) return {acc(compactness), acc(temperature), cell};
  const Tensor values = dense(*coefficients);
  return {data<acc>(values)[0], data<acc>(values)[1], cell};
}

// Sizes and dtypes of what describes an assignment; returns the number of cells.
inline int64_t check_clusters(const Tensor& features, const Tensor& centers, const Tensor& positions,
                              const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                              const std::optional<Tensor>& coefficients, int64_t cell) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0, "expected features [B,C,H,W] and a positive cell");
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  const int64_t cells = CellGrid(height, width, cell).cells();
  const ScalarType type = acc_type(features.scalar_type());
  check(centers, "centers [B,L,C]", type, {batch, cells, features.size(1)});
  check(positions, "positions [B,L,2]", type, {batch, cells, 2});
  check(mass, "mass [B,L]", type, {batch, cells});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  return cells;
}

// The centres of an image.
template <typename acc>
struct CenterView {
  const acc* centers;    // [L,C]
  const acc* positions;  // [L,2]
  const acc* mass;       // [L] or null: all are candidates
  int64_t channels;
};

// The nine candidates of a cell: their scores as linear functions of x = (1, f - shift, p - origin).
template <typename acc>
struct Candidates {
  int64_t dims;                                  // 1 + C + 2
  std::array<int64_t, kCandidates> index{};      // centre, or -1
  std::array<acc, kCandidates> present{};        // 1 where there is a centre, else 0
  std::array<acc, kCandidates> position_bias{};  // the share of the positions in coefficient[0]
  Scratch<acc> coefficient;                      // [1+C+2,9]
  Scratch<acc> shift;                            // [C]
  acc origin_y = 0, origin_x = 0;

  explicit Candidates(int64_t channels) : dims(channels + 3), coefficient(dims * kCandidates), shift(channels) {
    std::fill_n(+shift, channels, acc(0));
  }

  void set_origin(const CellGrid& grid, int64_t row, int64_t column) {
    origin_y = grid.middle_y<acc>(row);
    origin_x = grid.middle_x<acc>(column);
  }

  void prepare(const CenterView<acc>& view, const CellGrid& grid, int64_t row, int64_t column,
               const Metric<acc>& metric) {
    const int64_t channels = view.channels;
    set_origin(grid, row, column);
    std::copy_n(view.centers + (row * grid.columns + column) * channels, channels, +shift);
    const int64_t own = row * grid.columns + column;
    int64_t at[kCandidates];
    for (int k = 0; k < kCandidates; ++k) {
      const int64_t j = grid.candidate(row, column, k);
      index[k] = j >= 0 && (!view.mass || view.mass[j] > 0) ? j : -1;
      present[k] = index[k] >= 0;
      at[k] = index[k] >= 0 ? j : own;  // an absent one has any coefficients: its score is the lowest number
    }
    acc squares[kCandidates] = {};
    for (int64_t c = 0; c < channels; ++c)
      for (int k = 0; k < kCandidates; ++k) {
        const acc difference = view.centers[at[k] * channels + c] - shift[c];
        coefficient[(c + 1) * kCandidates + k] = 2 * difference;
        squares[k] += difference * difference;
      }
    for (int k = 0; k < kCandidates; ++k) {
      const acc y = view.positions[2 * at[k]] - origin_y, x = view.positions[2 * at[k] + 1] - origin_x;
      coefficient[(dims - 2) * kCandidates + k] = 2 * metric.kappa2 * y;
      coefficient[(dims - 1) * kCandidates + k] = 2 * metric.kappa2 * x;
      position_bias[k] = -metric.kappa2 * (y * y + x * x);
      coefficient[k] = index[k] >= 0 ? position_bias[k] - squares[k] : std::numeric_limits<acc>::lowest();
    }
  }
};

// Pixels that lie side by side in a row of the image.
struct Run {
  int64_t y, x;
  int32_t lane, length;
};

// At most 64 pixels of one cell.
template <typename acc>
struct Tile {
  int count = 0, padded = 0, num_runs = 0;  // pixels; rounded up to whole blocks; runs
  bool all = false;                         // every pixel takes part
  std::array<Run, kLanes> runs;             // where the lanes' pixels are
  std::array<uint8_t, kLanes> inside;       // 1 if it is in the mask, 0 past the count
  Scratch<acc> planes;           // [1+C+2,64] x of every pixel that takes part (the first plane is 1), else 0
  alignas(64) Rows<acc> weight;  // scores, then assignment

  explicit Tile(int64_t dims) : planes(dims * kLanes) {}
};

// The pixels of a cell, tile by tile: fills runs, inside and count, then calls body.
template <typename acc, typename Body>
void for_each_tile(const CellGrid& grid, int64_t row, int64_t column, const bool* mask, Tile<acc>& tile,
                   const Body& body) {
  const int64_t y_end = row * grid.cell + grid.row_height(row);
  const int64_t x_begin = column * grid.cell, x_end = x_begin + grid.column_width(column);
  int64_t y = row * grid.cell, x = x_begin;
  while (y < y_end) {
    tile.count = tile.num_runs = 0;
    while (y < y_end && tile.count < kLanes) {
      const int length = int(std::min<int64_t>(x_end - x, kLanes - tile.count));
      if (mask)
        std::copy_n(mask + y * grid.width + x, length, &tile.inside[tile.count]);
      else
        std::fill_n(&tile.inside[tile.count], length, uint8_t(1));
      tile.runs[tile.num_runs++] = {y, x, tile.count, length};
      tile.count += length;
      x += length;
      if (x == x_end) x = x_begin, ++y;
    }
    tile.padded = (tile.count + kBlock - 1) / kBlock * kBlock;
    std::fill_n(tile.inside.begin() + tile.count, tile.padded - tile.count, uint8_t(0));
    body();
  }
}

// The hot loops, compiled in soft_tile.cpp.

// Copies channels of an image into planes [C,64]; lanes past the count are 0.
template <typename scalar_t, typename acc>
void load_planes(const ImageView<const scalar_t>& view, int64_t b, const Tile<acc>& tile, acc* planes);

// Writes planes [C,64] to the pixels of a tile.
template <typename scalar_t, typename acc>
void store_planes(const ImageView<scalar_t>& view, int64_t b, const Tile<acc>& tile, const acc* planes);

// Loads a tile's features and positions relative to the cell, and decides which pixels take part.
template <typename scalar_t, typename acc>
void load_tile(const ImageView<const scalar_t>& view, int64_t b, const Candidates<acc>& candidates, Tile<acc>& tile);

// 0 in planes [C,64] for pixels that do not take part: their weight is 0, but 0 * NaN is not.
template <typename acc>
void clear_unused(const Tile<acc>& tile, int64_t channels, acc* planes);

// out[k] = sum_d vectors[d][k] * planes[d].
template <typename acc>
void linear(const acc* vectors, int64_t dims, const acc* planes, int padded, Rows<acc>& out);

// planes[d] += sum_k vectors[d][k] * weight[k].
template <typename acc>
void spread(const Rows<acc>& weight, const acc* vectors, int64_t dims, int padded, acc* planes);

// lanes [dims,9,16]: lanes[d][k] += planes[d] * weight[k], block by block.
template <typename acc>
void add_products(const Rows<acc>& weight, const acc* planes, int64_t dims, int padded, acc* lanes);

// out [9,dims] = the sums of the 16 lanes.
template <typename acc>
void add_lanes(const acc* lanes, int64_t dims, acc* out);

// sums[d] += the sum of planes[d].
template <typename acc>
void add_planes(const acc* planes, int64_t dims, int padded, acc* sums);

// Turns scores into the soft assignment; 0 for pixels that do not take part.
template <typename acc>
void softmax(const Candidates<acc>& candidates, const Metric<acc>& metric, Tile<acc>& tile);

// Turns the gradient of the assignment into that of the scores.
template <typename acc>
void softmax_backward(const Metric<acc>& metric, const Tile<acc>& tile, Rows<acc>& grad);

// The hard labels, from the scores in tile.weight: the best candidate, own cell first, then lowest index; -1 outside
// the mask.
template <typename acc>
void label_tile(const Candidates<acc>& candidates, const CellGrid& grid, int64_t own, const Tile<acc>& tile,
                int32_t* labels);

template <typename acc>
void score_tile(const Candidates<acc>& candidates, Tile<acc>& tile) {
  linear<acc>(candidates.coefficient, candidates.dims, tile.planes, tile.padded, tile.weight);
}

// tile.weight = the soft assignment of the loaded tile.
template <typename acc>
void assign_tile(const Candidates<acc>& candidates, const Metric<acc>& metric, Tile<acc>& tile) {
  score_tile(candidates, tile);
  softmax(candidates, metric, tile);
}

// Sums over the pixels of a cell of plane[d] * weight[k], one per lane until `total` adds the lanes: [dims,9,16].
template <typename acc>
class CellSums {
 public:
  explicit CellSums(int64_t dims) : dims_(dims), lanes_(dims * kCandidates * kBlock) {}

  void clear() { std::fill_n(+lanes_, dims_ * kCandidates * kBlock, acc(0)); }
  void add(const Rows<acc>& weight, const acc* planes, int padded) {
    add_products<acc>(weight, planes, dims_, padded, lanes_);
  }
  void total(acc* out) const { add_lanes<acc>(lanes_, dims_, out); }  // [9,dims]

 private:
  int64_t dims_;
  Scratch<acc> lanes_;
};

// Every centre adds what the nine cells around it have for it. partial [L,9,width] -> body(centre, sums [width]).
template <typename acc, typename Body>
void gather_centers(const CellGrid& grid, const acc* partial, int64_t width, int64_t row, const Body& body) {
  const Scratch<acc> sums(width);
  for (int64_t column = 0; column < grid.columns; ++column) {
    std::fill_n(+sums, width, acc(0));
    for (int k = 0; k < kCandidates; ++k) {
      // The cell for which this centre is candidate 8 - k stands at offset k.
      const int64_t cell = grid.candidate(row, column, k);
      if (cell < 0) continue;
      const acc* source = partial + (cell * kCandidates + (kCandidates - 1 - k)) * width;
      for (int64_t d = 0; d < width; ++d) sums[d] += source[d];
    }
    body(row * grid.columns + column, +sums);
  }
}

// Backward of assign_tile. In: the tile's features and assignment, and grad = the gradient of the assignment. Adds to
// grad_features [C,64] and to sums (see center_gradient).
template <typename acc>
void assign_backward(const Candidates<acc>& candidates, const Metric<acc>& metric, const Tile<acc>& tile,
                     Rows<acc>& grad, acc* grad_features, CellSums<acc>& sums) {
  softmax_backward(metric, tile, grad);
  // d score_k / d f = coefficient_k - (the same for all k), and the gradients of a pixel's scores add up to 0.
  spread<acc>(grad, candidates.coefficient + kCandidates, candidates.dims - 3, tile.padded, grad_features);
  sums.add(grad, tile.planes, tile.padded);
}

// From a cell's sums of (gradient of a score) * x: its part of the gradient of its candidates, out [9,C+2], and of
// (compactness, temperature), added to grad_coefficients [2].
template <typename acc>
void center_gradient(const Candidates<acc>& candidates, const Metric<acc>& metric, const CellSums<acc>& sums,
                     acc* totals, acc* out, acc* grad_coefficients) {
  const int64_t dims = candidates.dims;
  sums.total(totals);
  for (int k = 0; k < kCandidates; ++k) {
    const acc* sum = totals + k * dims;
    const acc* coefficient = candidates.coefficient + k;
    acc* grad = out + k * (dims - 1);
    if (candidates.index[k] < 0) {
      std::fill_n(grad, dims - 1, acc(0));
      continue;
    }
    acc score = coefficient[0] * sum[0], position_score = candidates.position_bias[k] * sum[0];
    for (int64_t d = 1; d < dims; ++d) {
      const acc weight = d < dims - 2 ? acc(1) : metric.kappa2;
      grad[d - 1] = 2 * weight * sum[d] - coefficient[d * kCandidates] * sum[0];
      const acc term = coefficient[d * kCandidates] * sum[d];
      score += term;
      if (d >= dims - 2) position_score += term;
    }
    if (metric.compactness != 0) grad_coefficients[0] += 2 * position_score / metric.compactness;
    grad_coefficients[1] -= score * metric.inverse_temperature;
  }
}

}  // namespace dhvt
