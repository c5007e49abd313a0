// The centres around a row of cells, and what the scores of its cells need of them.
#pragma once

#include "cpu/levels/soft_tile.h"
#include "cpu/soft_rows.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// A piece of a record (see CenterRows).
template <typename acc>
using Piece = typename VectorOf<acc, (kVectorBytes < 8 * int(sizeof(acc)) ? kVectorBytes : 8 * int(sizeof(acc)))>::type;
template <typename acc>
constexpr int kPiece = sizeof(Piece<acc>) / sizeof(acc);

template <typename acc>
DHVT_HD Piece<acc> piece(const acc* from) {
  return load_as<Piece<acc>>(from);
}

DHVT_HD int64_t rounded(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

DHVT_HD int slot(int64_t row) { return int((row + 3) % 3); }

template <typename acc>
DHVT_HD void fill(acc* out, int64_t size, acc value) {
  for (int64_t i = 0; i < size; ++i) out[i] = value;
}

template <typename acc>
DHVT_HD void copy(const acc* from, int64_t size, acc* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = from[i];
}

// Small pieces of known size need no call.
template <typename acc>
DHVT_HD void copy_side(const acc* from, int64_t size, acc* to) {
  if (size == 8)
    __builtin_memcpy(to, from, 8 * sizeof(acc));
  else if (size == 16)
    __builtin_memcpy(to, from, 16 * sizeof(acc));
  else
    copy(from, size, to);
}

// Numbers of the centres of three rows of cells: planes [entries,pitch] per row. Columns outside the image are 0.
template <typename acc>
class Planes {
 public:
  DHVT_HD Planes(int64_t entries, int64_t columns)
      : entries_(entries), pitch_(rounded(columns + 2, kChunk) + kChunk), data_(3 * entries * pitch_) {
    fill(+data_, 3 * entries * pitch_, acc(0));
  }
  DHVT_HD acc* row(int64_t row) const { return data_ + slot(row) * entries_ * pitch_ + 1; }
  DHVT_HD int64_t pitch() const { return pitch_; }
  // For a row outside the image: not even NaN stays of the row that was there before.
  DHVT_HD void clear(int64_t row) const { fill(data_ + slot(row) * entries_ * pitch_, entries_ * pitch_, acc(0)); }
  // Numbers `first` and on of the candidates of a cell.
  DHVT_HD Vectors<acc> around(int64_t row_, int64_t column, int64_t first) const {
    const int64_t at = first * pitch_ + column;
    return {{row(row_ - 1) + at, row(row_) + at, row(row_ + 1) + at}, pitch_};
  }

 private:
  int64_t entries_, pitch_;
  Scratch<acc> data_;
};

// The centres of the rows of cells around one: mass, features, position from the middle of the own cell. Entry d of a
// centre is a plane, for the preparation of many cells at once, and a lane of a record, for the sums of one.
template <typename acc>
class CenterRows {
 public:
  int64_t dims, record;  // C + 2; 1 + C + 2 rounded up

  DHVT_HD CenterRows(const CellGrid& grid, int64_t channels)
      : dims(channels + 2),
        record(record_size(dims + 1)),
        columns_(grid.columns),
        planes_(dims + 1, grid.columns),
        records_(3 * (grid.columns + 2) * record) {
    fill(+records_, 3 * (grid.columns + 2) * record, acc(0));
  }

  // Entry 0 of a record is 0.
  DHVT_HD acc* center(int64_t row, int64_t column) const {
    return records_ + (slot(row) * (columns_ + 2) + column + 1) * record;
  }
  DHVT_HD const acc* plane(int64_t row, int64_t d) const { return planes_.row(row) + d * planes_.pitch(); }

  DHVT_HD void clear(int64_t row) const { fill(planes_.row(row), columns_, acc(0)); }

  // Sets a centre from its features and its position in the image.
  DHVT_HD void set(const CellGrid& grid, int64_t row, int64_t column, const acc* features, const acc* position,
                   acc mass) const {
    acc* own = center(row, column) + 1;
    acc* entry = planes_.row(row) + column;
    const int64_t pitch = planes_.pitch();
    *entry = mass;
    for (int64_t c = 0; c < dims - 2; ++c) *(entry += pitch) = own[c] = features[c];
    *(entry += pitch) = own[dims - 2] = position[0] - grid.middle_y<acc>(row);
    *(entry += pitch) = own[dims - 1] = position[1] - grid.middle_x<acc>(column);
  }

 private:
  int64_t columns_;
  Planes<acc> planes_;
  Scratch<acc> records_;
};

// The centres of an image in memory.
template <typename acc>
void read_centers(const CellGrid& grid, const CenterView<acc>& view, int64_t row, const CenterRows<acc>& out) {
  if (row < 0 || row >= grid.rows) return out.clear(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t j = row * grid.columns + column;
    out.set(grid, row, column, view.centers + j * view.channels, view.positions + 2 * j,
            view.mass ? view.mass[j] : acc(1));
  }
}

// body(b, row, task) for every row of cells, with `centers` those around it, which fetch(b, row) sets.
template <typename Fetch, typename Body>
DHVT_HD void for_each_row(const CellGrid& grid, int64_t begin, int64_t end, const Fetch& fetch, const Body& body) {
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    if (task == begin || row == 0) {
      fetch(b, row - 1);
      fetch(b, row);
    }
    fetch(b, row + 1);
    body(b, row, task);
  }
}

// The candidates of the cells of kChunk columns.
template <typename acc>
class Candidates {
 public:
  DHVT_HD explicit Candidates(int64_t dims)
      : coefficient_(dims * kOthers * kChunk), difference_(dims * kOthers * kChunk) {}

  void prepare(const CellGrid& grid, const Metric<acc>& metric, const CenterRows<acc>& centers, int64_t row,
               int64_t first) {
    using V = Lanes<acc>;
    using I = Index<acc>;
    first_ = first;
    const int64_t dims = centers.dims;
    const acc lowest = std::numeric_limits<acc>::lowest();
    // Scores cannot overflow, not even multiplied with the scale, where no coefficient is above 2^40.
    const acc heavier = metric.kappa2 > 1 ? metric.kappa2 : acc(1);
    const acc limit = acc(6e23) / metric.scale / heavier;
    for (int part = 0; part < kChunk; part += kLanes<acc>) {
      const int64_t at = first + part;
      const I own_alive = load(centers.plane(row, 0) + at) > acc(0);
      store(own_constant_ + part, own_alive ? V{} : splat(lowest));
      I present = own_alive & (1 << kOwnCell);
      I bounded = ~I{};
      // In x, cells are `cell` apart, but for the last column if it is smaller.
      const V column = numbers<acc>() + acc(at), last = splat(acc(grid.columns - 1));
      const acc narrower = acc(grid.column_width(grid.columns - 1) - grid.cell) / 2;
      const V right = acc(grid.cell) + (column + acc(1) == last ? splat(narrower) : V{});
      const V left = -(acc(grid.cell) + (column == last ? splat(narrower) : V{}));
      DHVT_EACH (k, kCandidates) {
        if (k != kOwnCell) {
          const int other = other_index(k), down = k / 3 - 1, across = k % 3 - 1;
          const I alive = load(centers.plane(row + down, 0) + at + across) > acc(0);
          present |= alive & (1 << k);
          V squares = {};
          const auto entry = [&](int64_t d, V offset, acc scale) __attribute__((always_inline)) {
            const V there = load(centers.plane(row + down, d + 1) + at + across);
            const V difference = alive ? there - load(centers.plane(row, d + 1) + at) + offset : V{};
            const V coefficient = difference * scale;
            squares += difference * coefficient;
            store(difference_ + (d * kOthers + other) * kChunk + part, difference);
            store(coefficient_ + (d * kOthers + other) * kChunk + part, coefficient);
          };
          for (int64_t d = 0; d < dims - 2; ++d) entry(d, V{}, 2 * metric.scale);
          const acc scale = 2 * metric.scale * metric.kappa2;
          const acc apart = grid.middle_y<acc>(row + down) - grid.middle_y<acc>(row);
          entry(dims - 2, splat(apart), scale);
          entry(dims - 1, across < 0 ? left : across > 0 ? right : V{}, scale);
          store(constant_ + other * kChunk + part, alive ? squares * acc(-0.5) : splat(lowest));
          bounded &= squares <= limit;
        }
      }
      store(present_ + part, present);
      store(plain_ + part, bounded & present);
      store(scale_ + part, splat(acc(1)));
      for (int l = 0; l < kLanes<acc>; ++l)
        if (!bounded[l]) leave_unscaled(metric, dims, part + l);
    }
  }

  DHVT_HD void set(int64_t column, Cell<acc>& cell) const {
    const int64_t at = column - first_;
    cell.coefficient = coefficient_ + at;
    cell.constant = constant_ + at;
    cell.difference = difference_ + at;
    cell.own_constant = own_constant_[at];
    cell.scale = scale_[at];
    cell.plain = plain_[at] != 0;
    cell.present = uint32_t(present_[at]);
  }

 private:
  // Extreme numbers: the difference of two scores is scaled, which does not overflow to NaN.
  void leave_unscaled(const Metric<acc>& metric, int64_t dims, int at) {
    scale_[at] = metric.scale;
    for (int k = 0; k < kOthers; ++k) {
      acc squares = 0;
      for (int64_t d = 0; d < dims; ++d) {
        const int64_t i = (d * kOthers + k) * kChunk + at;
        coefficient_[i] = 2 * (d < dims - 2 ? acc(1) : metric.kappa2) * difference_[i];
        squares += coefficient_[i] * difference_[i];
      }
      acc& constant = constant_[k * kChunk + at];
      if (constant != std::numeric_limits<acc>::lowest()) constant = squares * acc(-0.5);
    }
  }

  int64_t first_ = 0;
  Scratch<acc> coefficient_, difference_;  // [C+2,8,kChunk]
  alignas(64) acc constant_[kOthers * kChunk];
  alignas(64) acc own_constant_[kChunk];
  acc scale_[kChunk];
  using Bits = std::remove_cvref_t<decltype(Index<acc>{}[0])>;
  Bits present_[kChunk], plain_[kChunk];  // plain: not 0
};

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
