// The tile machinery of soft assignment on the CPU.
//
// All pixels of a cell share their nine candidates. A cell is walked in tiles of at most 64 pixels; a tile's features are
// copied into a small planar scratch (any layout and dtype in, float or double inside), the assignment is computed there, and
// products with it are summed into nine partial sums per cell. A second pass lets every centre gather the partial sums of
// the nine cells around it in fixed order. No atomics, nothing of size pixels x candidates, the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "common.h"
#include "soft_assign.h"

namespace dhvt {

constexpr int kLanes = 64;

template <typename acc>
Metric<acc> read_metric(const std::optional<Tensor>& coefficients, double compactness, double temperature, int64_t cell) {
  if (!coefficients.has_value()) return {acc(compactness), acc(temperature), cell};
  const acc* values = data<acc>(*coefficients);
  return {values[0], values[1], cell};
}

// What the cells of one image row read: centres, their positions, their masses (null: all are candidates).
template <typename acc>
struct CenterView {
  const acc* centers;    // [L,C]
  const acc* positions;  // [L,2]
  const acc* mass;       // [L] or null
  int64_t channels;
};

// The nine candidates of a cell as affine functions of x = (f - shift, p - origin).
template <typename acc>
struct Candidates {
  int64_t dims;                              // C + 2
  std::array<int64_t, kCandidates> index{};  // centre, or -1
  std::array<acc, kCandidates> bias{};
  std::array<acc, kCandidates> position_bias{};  // the share of the positions in bias
  std::vector<acc> relative;                     // [9,C+2] centre - (shift, origin)
  std::vector<acc> coefficient;                  // [9,C+2]
  std::vector<acc> shift;                        // [C]
  acc origin_y = 0, origin_x = 0;

  explicit Candidates(int64_t channels)
      : dims(channels + 2), relative(kCandidates * dims), coefficient(kCandidates * dims), shift(channels) {}

  void prepare(const CenterView<acc>& view, const CellGrid& grid, int64_t row, int64_t column, const Metric<acc>& metric) {
    const int64_t channels = view.channels, own = row * grid.columns + column;
    origin_y = acc(row * grid.cell) + acc(grid.cell - 1) / 2;
    origin_x = acc(column * grid.cell) + acc(grid.cell - 1) / 2;
    std::copy_n(view.centers + own * channels, channels, shift.begin());
    for (int k = 0; k < kCandidates; ++k) {
      const int64_t j = grid.candidate(row, column, k);
      index[k] = j >= 0 && (!view.mass || view.mass[j] > 0) ? j : -1;
      acc* rel = &relative[k * dims];
      acc* coef = &coefficient[k * dims];
      if (index[k] < 0) {
        std::fill_n(rel, dims, acc(0));
        std::fill_n(coef, dims, acc(0));
        bias[k] = acc(-1e30);
        continue;
      }
      acc squares = 0, position_squares = 0;
      for (int64_t c = 0; c < channels; ++c) {
        rel[c] = view.centers[j * channels + c] - shift[c];
        coef[c] = logit_coefficient(rel[c], acc(1), metric);
        squares += rel[c] * rel[c];
      }
      rel[channels] = view.positions[2 * j] - origin_y;
      rel[channels + 1] = view.positions[2 * j + 1] - origin_x;
      for (int64_t c = channels; c < dims; ++c) {
        coef[c] = logit_coefficient(rel[c], metric.kappa2, metric);
        position_squares += metric.kappa2 * rel[c] * rel[c];
      }
      bias[k] = logit_bias(squares + position_squares, metric);
      position_bias[k] = logit_bias(position_squares, metric);
    }
  }
};

// At most 64 pixels of one cell.
template <typename acc>
struct Tile {
  int count = 0, padded = 0;              // pixels; rounded up to whole vectors
  std::array<int32_t, kLanes> y{}, x{};   // where each lane's pixel is
  std::array<uint8_t, kLanes> inside{};   // it is in the mask
  std::array<acc, kLanes> usable{};       // it takes part: inside, and finite
  std::vector<acc> planes;                // [C+2,64] features - shift, position - origin; 0 where not usable
  acc weight[kCandidates][kLanes];        // assignment, or its gradient

  explicit Tile(int64_t dims) : planes(dims * kLanes) {}
  acc* plane(int64_t d) { return &planes[d * kLanes]; }
  const acc* plane(int64_t d) const { return &planes[d * kLanes]; }
};

// The pixels of a cell, tile by tile: fills y, x, inside and count, then calls body.
template <typename acc, typename Body>
void for_each_tile(const CellGrid& grid, int64_t row, int64_t column, const bool* mask, Tile<acc>& tile, const Body& body) {
  const int64_t y_end = std::min(grid.height, (row + 1) * grid.cell);
  const int64_t x_begin = column * grid.cell, x_end = std::min(grid.width, x_begin + grid.cell);
  int64_t y = row * grid.cell, x = x_begin;
  while (y < y_end) {
    tile.count = 0;
    while (y < y_end && tile.count < kLanes) {
      tile.y[tile.count] = int32_t(y);
      tile.x[tile.count] = int32_t(x);
      tile.inside[tile.count] = mask ? mask[y * grid.width + x] : true;
      ++tile.count;
      if (++x == x_end) x = x_begin, ++y;
    }
    tile.padded = (tile.count + 15) / 16 * 16;
    body();
  }
}

// Copies channels of an image into planes, lane by lane; lanes past the count are 0.
template <typename scalar_t, typename acc>
void load_planes(const ImageView<const scalar_t>& view, int64_t b, const Tile<acc>& tile, acc* planes) {
  int64_t offset[kLanes];
  for (int n = 0; n < tile.count; ++n) offset[n] = tile.y[n] * view.row_stride + tile.x[n] * view.column_stride;
  for (int64_t c = 0; c < view.channels; ++c) {
    const scalar_t* source = view.data + b * view.batch_stride + c * view.channel_stride;
    acc* plane = planes + c * kLanes;
    for (int n = 0; n < tile.count; ++n) plane[n] = acc(source[offset[n]]);
    for (int n = tile.count; n < tile.padded; ++n) plane[n] = 0;
  }
}

// Zero for pixels that do not take part: their weight is 0, but 0 * NaN is not.
template <typename acc>
void clear_unused(const Tile<acc>& tile, int64_t dims, acc* planes) {
  for (int64_t d = 0; d < dims; ++d)
    for (int n = 0; n < tile.padded; ++n)
      if (tile.usable[n] == 0) planes[d * kLanes + n] = 0;
}

// Loads a tile's features and positions relative to the cell, and decides which pixels take part.
template <typename scalar_t, typename acc>
DHVT_CLONES void load_tile(const ImageView<const scalar_t>& view, int64_t b, const Candidates<acc>& candidates, Tile<acc>& tile) {
  const int64_t channels = view.channels;
  load_planes(view, b, tile, tile.plane(0));
  acc squares[kLanes] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const acc* plane = tile.plane(c);
    for (int n = 0; n < tile.padded; ++n) squares[n] += plane[n] * plane[n];
  }
  bool all = true;
  for (int n = 0; n < tile.padded; ++n) {
    const bool usable = n < tile.count && tile.inside[n] && squares_are_finite(squares[n]);
    tile.usable[n] = usable;
    all &= usable;
  }
  for (int64_t c = 0; c < channels; ++c) {
    acc* plane = tile.plane(c);
    const acc shift = candidates.shift[c];
    for (int n = 0; n < tile.padded; ++n) plane[n] -= shift;
  }
  acc* plane_y = tile.plane(channels);
  acc* plane_x = tile.plane(channels + 1);
  for (int n = 0; n < tile.padded; ++n) {
    plane_y[n] = acc(tile.y[n]) - candidates.origin_y;
    plane_x[n] = acc(tile.x[n]) - candidates.origin_x;
  }
  if (!all) clear_unused(tile, channels + 2, tile.plane(0));
}

// tile.weight = constant[k] + vector[k] . x for the nine candidates.
template <typename acc>
DHVT_CLONES void affine(const acc* constant, const acc* vectors, int64_t dims, const acc* planes, int padded,
            acc (*out)[kLanes]) {
  for (int k = 0; k < kCandidates; ++k) {
    acc* row = out[k];
    for (int n = 0; n < padded; ++n) row[n] = constant[k];
    for (int64_t d = 0; d < dims; ++d) {
      const acc factor = vectors[k * dims + d];
      const acc* plane = planes + d * kLanes;
      for (int n = 0; n < padded; ++n) row[n] += factor * plane[n];
    }
  }
}

// tile.weight = the soft assignment of the loaded tile; 0 for pixels that do not take part.
template <typename acc>
DHVT_CLONES void assign_tile(const Candidates<acc>& candidates, Tile<acc>& tile) {
  affine(candidates.bias.data(), candidates.coefficient.data(), candidates.dims, tile.plane(0), tile.padded,
         tile.weight);
  acc top[kLanes], sum[kLanes];
  for (int n = 0; n < tile.padded; ++n) top[n] = tile.weight[0][n];
  for (int k = 1; k < kCandidates; ++k)
    for (int n = 0; n < tile.padded; ++n) top[n] = tile.weight[k][n] > top[n] ? tile.weight[k][n] : top[n];
  for (int n = 0; n < tile.padded; ++n) sum[n] = 0;
  for (int k = 0; k < kCandidates; ++k) {
    acc* row = tile.weight[k];
    if (candidates.index[k] < 0) {
      std::fill_n(row, tile.padded, acc(0));
      continue;
    }
    for (int n = 0; n < tile.padded; ++n) {
      row[n] = exp_nonpositive(row[n] - top[n]);
      sum[n] += row[n];
    }
  }
  for (int n = 0; n < tile.padded; ++n) sum[n] = sum[n] > 0 ? tile.usable[n] / sum[n] : acc(0);
  for (int k = 0; k < kCandidates; ++k)
    for (int n = 0; n < tile.padded; ++n) tile.weight[k][n] *= sum[n];
}

// The hard labels of the loaded tile: the nearest candidate, own cell first, then lowest index; -1 outside the mask.
template <typename acc>
DHVT_CLONES void label_tile(const Candidates<acc>& candidates, const CellGrid& grid, int64_t own, Tile<acc>& tile, int32_t* labels) {
  affine(candidates.bias.data(), candidates.coefficient.data(), candidates.dims, tile.plane(0), tile.padded,
         tile.weight);
  acc best[kLanes];
  int32_t label[kLanes];
  for (int n = 0; n < tile.padded; ++n) {
    best[n] = candidates.index[kOwnCell] < 0 ? acc(-1e30) : tile.weight[kOwnCell][n];
    label[n] = int32_t(own);
  }
  for (int k = 0; k < kCandidates; ++k) {
    if (k == kOwnCell || candidates.index[k] < 0) continue;
    const int32_t j = int32_t(candidates.index[k]);
    const acc* row = tile.weight[k];
    for (int n = 0; n < tile.padded; ++n) {
      const bool nearer = row[n] > best[n] && tile.usable[n] != 0;
      best[n] = nearer ? row[n] : best[n];
      label[n] = nearer ? j : label[n];
    }
  }
  for (int n = 0; n < tile.count; ++n) labels[tile.y[n] * grid.width + tile.x[n]] = tile.inside[n] ? label[n] : -1;
}

// sums[k] += (sum_n weight[k][n], sum_n weight[k][n] * planes[d][n]): [9,1+dims].
template <typename acc>
DHVT_CLONES void accumulate(const acc (*weight)[kLanes], const acc* planes, int64_t dims, int padded, acc* sums) {
  for (int k = 0; k < kCandidates; ++k) {
    const acc* row = weight[k];
    acc* out = sums + k * (dims + 1);
    acc total = 0;
#pragma omp simd reduction(+ : total)
    for (int n = 0; n < padded; ++n) total += row[n];
    out[0] += total;
    for (int64_t d = 0; d < dims; ++d) {
      const acc* plane = planes + d * kLanes;
      acc dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int n = 0; n < padded; ++n) dot += row[n] * plane[n];
      out[d + 1] += dot;
    }
  }
}

// out[d][n] += sum_k factor[k][d] * weight[k][n].
template <typename acc>
DHVT_CLONES void spread(const acc (*weight)[kLanes], const acc* factors, int64_t stride, int64_t dims, int padded, acc* out) {
  for (int64_t d = 0; d < dims; ++d) {
    acc* plane = out + d * kLanes;
    for (int k = 0; k < kCandidates; ++k) {
      const acc factor = factors[k * stride + d];
      const acc* row = weight[k];
      for (int n = 0; n < padded; ++n) plane[n] += factor * row[n];
    }
  }
}

// Every centre adds what the nine cells around it have for it. partial [L,9,width] -> body(centre, sums [width]).
template <typename acc, typename Body>
void gather_centers(const CellGrid& grid, const acc* partial, int64_t width, int64_t row, const Body& body) {
  std::vector<acc> sums(width);
  for (int64_t column = 0; column < grid.columns; ++column) {
    std::fill(sums.begin(), sums.end(), acc(0));
    for (int k = 0; k < kCandidates; ++k) {
      // The cell for which this centre is candidate 8 - k stands at offset k.
      const int64_t cell = grid.candidate(row, column, k);
      if (cell < 0) continue;
      const acc* source = partial + (cell * kCandidates + (kCandidates - 1 - k)) * width;
      for (int64_t d = 0; d < width; ++d) sums[d] += source[d];
    }
    body(row * grid.columns + column, sums.data());
  }
}

// Backward of one assignment. In: the tile's features and assignment, and grad_weight = its gradient. Turns grad_weight into the
// gradient of the logits and adds to grad_planes [C,64] (pixels' features) and to sums [9,1+C+2] (see center_gradient).
template <typename acc>
DHVT_CLONES void assign_backward_tile(const Candidates<acc>& candidates, const Metric<acc>& metric, const Tile<acc>& tile,
                          acc (*grad_weight)[kLanes], acc* grad_planes, acc* sums) {
  acc inner[kLanes];
  for (int n = 0; n < tile.padded; ++n) inner[n] = 0;
  for (int k = 0; k < kCandidates; ++k)
    for (int n = 0; n < tile.padded; ++n) inner[n] += tile.weight[k][n] * grad_weight[k][n];
  for (int k = 0; k < kCandidates; ++k)
    for (int n = 0; n < tile.padded; ++n)
      grad_weight[k][n] = logit_gradient(tile.weight[k][n], grad_weight[k][n], inner[n]);
  // d z_k / d f = coefficient_k - (the same for all k), and sum_k dz_k = 0.
  spread(grad_weight, candidates.coefficient.data(), candidates.dims, candidates.dims - 2, tile.padded, grad_planes);
  accumulate(grad_weight, tile.plane(0), candidates.dims, tile.padded, sums);
}

// From a cell's sums [9,1+C+2] = (sum dz, sum dz x): its part of the gradient of its candidates, out [9,C+2], and of
// (compactness, temperature), added to grad_coefficients [2].
template <typename acc>
void center_gradient(const Candidates<acc>& candidates, const Metric<acc>& metric, const acc* sums, acc* out,
                     acc* grad_coefficients) {
  const int64_t dims = candidates.dims, channels = dims - 2;
  for (int k = 0; k < kCandidates; ++k) {
    const acc* sum = sums + k * (dims + 1);
    const acc* relative = &candidates.relative[k * dims];
    const acc* coefficient = &candidates.coefficient[k * dims];
    acc* grad = out + k * dims;
    if (candidates.index[k] < 0) {
      std::fill_n(grad, dims, acc(0));
      continue;
    }
    acc logit = candidates.bias[k] * sum[0], position_logit = candidates.position_bias[k] * sum[0];
    for (int64_t d = 0; d < dims; ++d) {
      const acc weight = d < channels ? acc(1) : metric.kappa2;
      grad[d] = acc(2) * weight * metric.inverse_temperature * (sum[d + 1] - relative[d] * sum[0]);
      logit += coefficient[d] * sum[d + 1];
      if (d >= channels) position_logit += coefficient[d] * sum[d + 1];
    }
    if (metric.compactness > 0) grad_coefficients[0] += acc(2) * position_logit / metric.compactness;
    grad_coefficients[1] -= logit * metric.inverse_temperature;
  }
}

// Writes grad_planes [C,64] to the pixels of a tile.
template <typename scalar_t, typename acc>
void store_planes(const ImageView<scalar_t>& view, int64_t b, const Tile<acc>& tile, const acc* planes) {
  for (int64_t c = 0; c < view.channels; ++c)
    for (int n = 0; n < tile.count; ++n)
      view.pixel(b, tile.y[n], tile.x[n])[c * view.channel_stride] = scalar_t(planes[c * kLanes + n]);
}

}  // namespace dhvt
