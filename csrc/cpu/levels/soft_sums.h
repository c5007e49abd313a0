// What the cells of a row add to the centres around them.
//
// Every centre gets three partial sums from each of the three rows of cells around it: a row adds up, from left to
// right, what its cells have for a centre; the next pass adds the rows from top to bottom. No atomics, nothing of size
// pixels x candidates, the same bits for any number of threads.
#pragma once

#include "cpu/levels/soft_centers.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// A row of cells' sums for the centres around it: [3,columns+2,record]. From left to right: what three columns of
// centres got so far is kept as vectors, whose lanes are added when the cell after them is done.
template <typename acc>
class RowSums {
 public:
  DHVT_HD RowSums(const CellGrid& grid, int64_t record)
      : columns_(grid.columns),
        record_(record),
        cell_(kCandidates * record * kLanes<acc>),
        open_(kCandidates * record * kLanes<acc>) {}

  DHVT_HD void begin(acc* partial) {
    partial_ = partial;
    fill(+open_, kCandidates * record_ * kLanes<acc>, acc(0));
  }

  // Adds weight[k] * numbers, which come after `first` others, to the sums of the cell; and weight[k] if `mass`.
  template <bool mass>
  DHVT_HD void add(int64_t first, const acc* weight, const Numbers<acc>& numbers, int64_t dims, int padded,
                   bool fresh) const {
    add_products<mass>(weight, numbers, dims, padded, fresh, first, +cell_, record_);
  }

  // Adds weight[k] * (1, x) of a tile.
  DHVT_HD void add_tile(const Cell<acc>& cell, int64_t channels, int64_t start, int padded, const Tile<acc>& tile,
                        const acc* weight) const {
    add<false>(0, weight, feature_part(cell, start), channels, padded, start == 0);
    add<true>(channels, weight, position_part(cell, channels, tile), 2, padded, start == 0);
  }

  // Adds the cell's sums of the weights and of `dims` numbers to those of the row. change(d, k, sum, mass) may change
  // the lanes of number d of candidate k before.
  template <typename Change>
  DHVT_HD void end_cell(int64_t column, int64_t dims, const Change& change) const {
    acc* to[3] = {open(column), open(column + 1), open(column + 2)};
    const acc* from = cell_;
    const int64_t size = record_ * kLanes<acc>;
    Lanes<acc> mass[kCandidates];
    const auto add = [&](int k, Lanes<acc> value) __attribute__((always_inline)) {
      acc* sum = to[k % 3] + k / 3 * size;
      store(sum, k % 3 == 2 ? value : load(sum) + value);  // the right column is new
    };
    DHVT_EACH (k, kCandidates) add(k, mass[k] = load(from + k * size));
    for (int64_t d = 0; d < dims; ++d) {
      from += kLanes<acc>;
      for (acc*& sums : to) sums += kLanes<acc>;
      change(d, [&](const auto& of_candidate) __attribute__((always_inline)) {
        DHVT_EACH (k, kCandidates) add(k, of_candidate(k, load(from + k * size), mass[k]));
      });
    }
    close(column);
    if (column + 1 < columns_) return;
    close(column + 1);
    close(column + 2);
  }

 private:
  // [3,record] vectors of a column of centres, the first one being left of the image.
  DHVT_HD acc* open(int64_t column) const { return open_ + column % 3 * 3 * record_ * kLanes<acc>; }

  DHVT_HD void close(int64_t column) const {
    const acc* lanes = open(column);
    for (int64_t row = 0; row < 3; ++row) {
      acc* out = partial_ + (row * (columns_ + 2) + column) * record_;
      for (int64_t i = 0; i < record_; i += kPiece<acc>, lanes += kPiece<acc> * kLanes<acc>)
        add_lanes<kPiece<acc>>(lanes, out + i);
    }
  }

  int64_t columns_, record_;
  Scratch<acc> cell_, open_;
  acc* partial_ = nullptr;
};

// sums [record] = what the rows of cells around have for a centre. partial [rows,3,columns+2,record] of an image.
template <typename acc>
void gather_center(const CellGrid& grid, const acc* partial, int64_t row, int64_t column, int64_t record, acc* sums) {
  const int64_t line = (grid.columns + 2) * record;
  for (int64_t i = 0; i < record; i += kPiece<acc>) {
    Piece<acc> sum = {};
    for (int64_t r = row - 1; r <= row + 1; ++r)
      if (r >= 0 && r < grid.rows) sum += piece(partial + (r * 3 + row - r + 1) * line + (column + 1) * record + i);
    store(sums + i, sum);
  }
}

// A factor of the gradient of a centre's number d, but for 1 / temperature.
template <typename acc>
DHVT_HD acc slope(const Metric<acc>& metric, int64_t d, int64_t channels) {
  return 2 * (d < channels ? acc(1) : metric.kappa2);
}

// The sums of a cell, which are relative to its own centre, become relative to each candidate: sum x - sum w (its
// difference).
template <typename acc>
DHVT_HD void end_relative_cell(const Cell<acc>& cell, int64_t dims, const RowSums<acc>& sums) {
  sums.end_cell(cell.column, dims, [&](int64_t d, const auto& each_candidate) __attribute__((always_inline)) {
    const acc* difference = cell.difference + d * kOthers * kChunk;
    each_candidate([&](int k, Lanes<acc> sum, Lanes<acc> mass) __attribute__((always_inline)) {
      if (k != kOwnCell) sum -= difference[other_index(k) * kChunk] * mass;
      return sum;
    });
  });
}

// What the scores' gradients of a row of cells have for (compactness, temperature).
template <typename acc>
class CoefficientSums {
 public:
  DHVT_HD explicit CoefficientSums(int64_t dims) : dims_(dims), lanes_(rounded(dims, kLanes<acc>) * kLanes<acc>) {}

  DHVT_HD void clear() const { fill(+lanes_, rounded(dims_, kLanes<acc>) * kLanes<acc>, acc(0)); }

  // end_relative_cell for sums of (gradient of the score) x. With S that sum of a candidate and s that of the gradient,
  // its score's part of the sum of gradient * score is 2 difference . S - |difference|^2 s.
  DHVT_HD void end_cell(const Cell<acc>& cell, const RowSums<acc>& sums) const {
    sums.end_cell(cell.column, dims_, [&](int64_t d, const auto& each_candidate) __attribute__((always_inline)) {
      const acc* difference = cell.difference + d * kOthers * kChunk;
      Lanes<acc> total = load(lanes_ + d * kLanes<acc>);
      each_candidate([&](int k, Lanes<acc> sum, Lanes<acc> mass) __attribute__((always_inline)) {
        if (k != kOwnCell) {
          const acc apart = difference[other_index(k) * kChunk];
          total += apart * (sum - acc(0.5) * apart * mass);
          sum -= apart * mass;
        }
        return sum;
      });
      store(lanes_ + d * kLanes<acc>, total);
    });
  }

  DHVT_HD void add_to(const Metric<acc>& metric, int64_t channels, acc* out) const {
    acc features = 0, positions = 0;
    for (int64_t d = 0; d < dims_; ++d)
      for (int l = 0; l < kLanes<acc>; ++l) (d < channels ? features : positions) += 2 * lanes_[d * kLanes<acc> + l];
    positions *= metric.kappa2;
    if (metric.compactness != 0) out[0] += 2 * positions * metric.inverse_temperature / metric.compactness;
    out[1] -= (features + positions) * metric.inverse_temperature * metric.inverse_temperature;
  }

 private:
  int64_t dims_;
  Scratch<acc> lanes_;
};

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
