// A row of cells: its pixels in cell-major order, the centres around it, and what its cells add to them.
//
// Every centre gets three partial sums from each of the three rows of cells around it: a row adds up, from left to
// right, what its cells have for a centre; the next pass adds the rows from top to bottom. No atomics, nothing of size
// pixels x candidates, the same bits for any number of threads.
#pragma once

#include "cpu/levels/rows.h"
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
DHVT_HD void read_centers(const CellGrid& grid, const CenterView<acc>& view, int64_t row, const CenterRows<acc>& out) {
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

  DHVT_HD void prepare(const CellGrid& grid, const Metric<acc>& metric, const CenterRows<acc>& centers, int64_t row,
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
      each<kCandidates>(DHVT_EACH(k) {
        if constexpr (k != kOwnCell) {
          constexpr int other = other_index(k), down = k / 3 - 1, across = k % 3 - 1;
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
      });
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

// The buffers of a tile, and the positions of its pixels.
template <typename acc>
class TileScratch : public Tile<acc> {
 public:
  DHVT_HD TileScratch() : data_((2 * kCandidates + 3) * kStride) {
    this->weight = data_;
    this->gradient = this->weight + kCandidates * kStride;
    this->position = this->gradient + kCandidates * kStride;
    this->best = this->position + 2 * kStride;
  }

  // Positions of the pixels from `start` on of a cell of this size, from its middle.
  DHVT_HD void set_positions(int64_t start, int64_t width, int64_t height) {
    if (start == start_ && width == width_ && height == height_) return;
    start_ = start, width_ = width, height_ = height;
    int64_t y = start / width, x = start % width;
    const acc middle_y = acc(height - 1) / 2, middle_x = acc(width - 1) / 2;
    for (int n = 0; n < kTile; ++n) {
      this->position[n] = acc(y) - middle_y;
      this->position[kStride + n] = acc(x) - middle_x;
      if (++x == width) x = 0, ++y;
    }
  }

 private:
  int64_t start_ = -1, width_ = 0, height_ = 0;
  Scratch<acc> data_;
};

// body(start, count) for every tile of a cell.
template <typename acc, typename Body>
DHVT_HD void for_each_tile(const Cell<acc>& cell, TileScratch<acc>& tile, const Body& body) {
  for (int64_t start = 0; start < cell.count; start += kTile) {
    tile.set_positions(start, cell.width, cell.count / cell.width);
    body(start, int(cell.count - start < kTile ? cell.count - start : kTile));
  }
}

// body(y, x, n, length) for the pixels `n` to `n + length` of a tile that lie side by side in the image.
template <typename acc, typename Body>
DHVT_HD void for_each_run(const CellGrid& grid, const Cell<acc>& cell, int64_t start, int count, const Body& body) {
  int64_t y = cell.row * grid.cell + start / cell.width, x = start % cell.width;
  for (int n = 0; n < count; ++y, x = 0) {
    const int length = int(cell.width - x < count - n ? cell.width - x : count - n);
    body(y, cell.column * grid.cell + x, n, length);
    n += length;
  }
}

template <typename acc>
DHVT_HD void store_labels(const CellGrid& grid, const Cell<acc>& cell, int64_t start, int count, const int32_t* tile,
                          int32_t* labels) {
  for_each_run(grid, cell, start, count, [&](int64_t y, int64_t x, int n, int length) {
    copy_side(tile + n, length, labels + y * grid.width + x);
  });
}

// Copies `channels` of a tile's pixels, from channel `first` on, into rows of kStride; 0 for the rest of a block.
template <typename scalar_t, typename acc>
DHVT_HD void load_tile(const ImageView<const scalar_t>& view, int64_t b, const CellGrid& grid, const Cell<acc>& cell,
                       int64_t start, int count, int64_t first, int64_t channels, acc* out) {
  for_each_run(grid, cell, start, count, [&](int64_t y, int64_t x, int n, int length) {
    const scalar_t* from = view.pixel(b, y, x) + first * view.channel_stride;
    for (int64_t c = 0; c < channels; ++c, from += view.channel_stride)
      load_row(from, view.column_stride, length, out + c * kStride + n);
  });
  for (int64_t c = 0; c < channels; ++c) fill(out + c * kStride + count, padded<acc>(count) - count, acc(0));
}

template <typename scalar_t, typename acc>
DHVT_HD void store_tile(const ImageView<scalar_t>& view, int64_t b, const CellGrid& grid, const Cell<acc>& cell,
                        int64_t start, int count, int64_t first, int64_t channels, const acc* from) {
  for_each_run(grid, cell, start, count, [&](int64_t y, int64_t x, int n, int length) {
    scalar_t* to = view.pixel(b, y, x) + first * view.channel_stride;
    for (int64_t c = 0; c < channels; ++c, to += view.channel_stride)
      store_row(from + c * kStride + n, view.column_stride, length, to);
  });
}

// 0 in rows of a tile for pixels that take no part: their share is 0, but 0 * NaN is not.
template <typename acc>
DHVT_HD void clear_unused(const Cell<acc>& cell, int64_t start, int count, int64_t rows, acc* values) {
  if (!cell.codes) return;
  for (int64_t i = 0; i < rows; ++i)
    for (int n = 0; n < count; ++n)
      if (cell.codes[start + n] != kTakesPart) values[i * kStride + n] = 0;
}

// body(cell) for every cell of a row, with its candidates prepared.
template <typename acc, typename Body>
DHVT_HD void for_each_cell(const CellGrid& grid, const Metric<acc>& metric, const CenterRows<acc>& centers,
                           Candidates<acc>& candidates, const CellMajorRow<acc>& pixels, int64_t row,
                           const Body& body) {
  const int64_t height = grid.row_height(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    if (column % kChunk == 0) candidates.prepare(grid, metric, centers, row, column);
    Cell<acc> cell;
    cell.row = row;
    cell.column = column;
    cell.width = grid.column_width(column);
    cell.count = cell.width * height;
    cell.first = column * grid.cell * height;
    cell.features = pixels.features + cell.first * pixels.channels;
    cell.codes = pixels.whole[column] ? nullptr : pixels.codes + cell.first;
    cell.base = centers.center(row, column) + 1;
    candidates.set(column, cell);
    body(cell);
  }
}

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
    const auto add = [&](auto k, Lanes<acc> value) __attribute__((always_inline)) {
      acc* sum = to[k % 3] + k / 3 * size;
      store(sum, k % 3 == 2 ? value : load(sum) + value);  // the right column is new
    };
    each<kCandidates>(DHVT_EACH(k) { add(k, mass[k] = load(from + k * size)); });
    for (int64_t d = 0; d < dims; ++d) {
      from += kLanes<acc>;
      for (acc*& sums : to) sums += kLanes<acc>;
      change(d, [&](const auto& of_candidate) __attribute__((always_inline)) {
        each<kCandidates>(DHVT_EACH(k) { add(k, of_candidate(k, load(from + k * size), mass[k])); });
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
DHVT_HD void gather_center(const CellGrid& grid, const acc* partial, int64_t row, int64_t column, int64_t record,
                           acc* sums) {
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
    each_candidate([&](auto k, Lanes<acc> sum, Lanes<acc> mass) __attribute__((always_inline)) {
      if constexpr (k != kOwnCell) sum -= difference[other_index(k) * kChunk] * mass;
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
      each_candidate([&](auto k, Lanes<acc> sum, Lanes<acc> mass) __attribute__((always_inline)) {
        if constexpr (k != kOwnCell) {
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

// Copies the channels of a row of cells: [C, pixels of a cell] of each cell.
template <typename scalar_t, typename acc>
DHVT_HD void load_cells(const ImageView<const scalar_t>& view, int64_t b, const CellGrid& grid, int64_t row, acc* out,
                        acc* line) {
  const int64_t height = grid.row_height(row), cell = grid.cell;
  for (int64_t c = 0; c < view.channels; ++c)
    for (int64_t y = 0; y < height; ++y) {
      const scalar_t* source = view.pixel(b, row * cell + y, 0) + c * view.channel_stride;
      const acc* from = line;
      if constexpr (std::is_same_v<scalar_t, acc>)
        if (view.column_stride == 1) from = source;
      if (from == line) load_row(source, view.column_stride, view.width, line);
      for (int64_t x = 0; x < grid.width; x += cell) {
        const int64_t width = x + cell <= grid.width ? cell : grid.width - x;
        copy_side(from + x, width, out + x * height * view.channels + (c * height + y) * width);
      }
    }
}

// Writes cell-major planes of a row of cells to an image, which may lie in the same memory.
template <typename scalar_t, typename acc>
DHVT_HD void store_cells(const ImageView<scalar_t>& view, int64_t b, const CellGrid& grid, int64_t row, int64_t plane,
                         const acc* from, acc* line, acc* band) {
  const int64_t height = grid.row_height(row), cell = grid.cell;
  for (int64_t c = 0; c < view.channels; ++c) {
    copy(from + c * plane, height * grid.width, band);
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < grid.width; x += cell) {
        const int64_t width = x + cell <= grid.width ? cell : grid.width - x;
        copy_side(band + x * height + y * width, width, line + x);
      }
      store_row(line, view.column_stride, grid.width, view.pixel(b, row * cell + y, 0) + c * view.channel_stride);
    }
  }
}

// Loads a row of cells and decides which pixels take part: `whole` where all of a cell do, else their codes; the
// features of the others become 0.
template <typename scalar_t, typename acc>
DHVT_HD void load_row_of_cells(const ImageView<const scalar_t>& view, const bool* mask, int64_t b, const CellGrid& grid,
                               int64_t row, const CellMajorRow<acc>& out, acc* line) {
  load_cells(view, b, grid, row, out.features, line);
  const int64_t height = grid.row_height(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t width = grid.column_width(column), first = column * grid.cell * height, count = width * height;
    acc* own = out.features + first * view.channels;
    Index<acc> finite = ~Index<acc>{};
    const auto squares = [&](int64_t n, bool whole) __attribute__((always_inline)) {
      Lanes<acc> sum = {};
      const acc* from = own + n;
      for (int64_t c = 0; c < view.channels; ++c, from += count) {
        const Lanes<acc> value = whole ? load(from) : load_some(from, int(count - n));
        sum += value * value;
      }
      finite &= squares_are_finite(sum);
    };
    int64_t n = 0;
    for (; n + kLanes<acc> <= count; n += kLanes<acc>) squares(n, true);
    if (n < count) squares(n, false);
    bool whole = true;
    for (int l = 0; l < kLanes<acc>; ++l) whole &= finite[l] != 0;
    const bool* inside = mask ? mask + row * grid.cell * grid.width + column * grid.cell : nullptr;
    if (inside)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) whole &= inside[y * grid.width + x];
    out.whole[column] = whole;
    if (whole) continue;
    uint8_t* code = out.codes + first;
    for (int64_t i = 0; i < count; ++i) {
      acc sum = 0;
      for (int64_t c = 0; c < view.channels; ++c) sum += own[c * count + i] * own[c * count + i];
      const bool in = !inside || inside[i / width * grid.width + i % width];
      code[i] = !in ? kOutside : squares_are_finite(sum) ? kTakesPart : kNotFinite;
      if (code[i] != kTakesPart)
        for (int64_t c = 0; c < view.channels; ++c) own[c * count + i] = 0;
    }
  }
}

// One row of cells at a time, for what reads the image once. Its gradient takes the same form.
template <typename acc>
class RowScratch {
 public:
  DHVT_HD RowScratch(const CellGrid& grid, int64_t channels)
      : pixels_((grid.cell < grid.height ? grid.cell : grid.height) * grid.width),
        features_(pixels_ * channels + kLanes<acc>),
        line_(grid.width),
        codes_(pixels_),
        whole_(grid.columns) {
    fill(+features_, pixels_ * channels + kLanes<acc>, acc(0));  // whole blocks are read, see Numbers
  }

  template <typename scalar_t>
  DHVT_HD CellMajorRow<acc> load(const ImageView<const scalar_t>& view, const bool* mask, int64_t b,
                                 const CellGrid& grid, int64_t row) const {
    const CellMajorRow<acc> out{features_, view.channels, codes_, whole_};
    load_row_of_cells<scalar_t, acc>(view, mask ? mask + b * grid.height * grid.width : nullptr, b, grid, row, out,
                                     line_);
    return out;
  }

 private:
  int64_t pixels_;
  Scratch<acc> features_, line_;
  Scratch<uint8_t> codes_;
  Scratch<bool> whole_;
};

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
