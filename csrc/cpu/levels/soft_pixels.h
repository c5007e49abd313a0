// The pixels of a row of cells, in cell-major order: from the image and back.
#pragma once

#include "cpu/levels/rows.h"
#include "cpu/levels/soft_centers.h"

namespace dhvt::DHVT_LEVEL {
namespace {

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

// Pixels of one channel side by side, to and from the image.
template <typename scalar_t, typename acc>
DHVT_HD void load_run(const scalar_t* from, int64_t stride, int64_t length, acc* out) {
  if constexpr (std::is_same_v<scalar_t, acc>)
    if (stride == 1) return copy_side(from, length, out);
  load_row(from, stride, length, out);
}
template <typename scalar_t, typename acc>
DHVT_HD void store_run(const acc* from, int64_t stride, int64_t length, scalar_t* out) {
  if constexpr (std::is_same_v<scalar_t, acc>)
    if (stride == 1) return copy_side(from, length, out);
  store_row(from, stride, length, out);
}

// Copies `channels` of a tile's pixels, from channel `first` on, into rows of kStride; 0 for the rest of a block.
template <typename acc>
void load_tile(const AnyImage<acc>& image, int64_t b, const CellGrid& grid, const Cell<acc>& cell, int64_t start,
               int count, int64_t first, int64_t channels, acc* out) {
  image.visit([&](auto* data) {
    for_each_run(grid, cell, start, count, [&](int64_t y, int64_t x, int n, int length) {
      const auto* from = data + image.at(b, y, x) + first * image.channel_stride;
      for (int64_t c = 0; c < channels; ++c, from += image.channel_stride)
        load_run(from, image.column_stride, length, out + c * kStride + n);
    });
  });
  for (int64_t c = 0; c < channels; ++c) fill(out + c * kStride + count, padded<acc>(count) - count, acc(0));
}

template <typename acc>
void store_tile(const AnyImage<acc>& image, int64_t b, const CellGrid& grid, const Cell<acc>& cell, int64_t start,
                int count, int64_t first, int64_t channels, const acc* from) {
  image.visit([&](auto* data) {
    for_each_run(grid, cell, start, count, [&](int64_t y, int64_t x, int n, int length) {
      auto* to = data + image.at(b, y, x) + first * image.channel_stride;
      for (int64_t c = 0; c < channels; ++c, to += image.channel_stride)
        store_run(from + c * kStride + n, image.column_stride, length, to);
    });
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

// Copies the channels of a row of cells: [C, pixels of a cell] of each cell.
template <typename acc>
void load_cells(const AnyImage<acc>& image, int64_t channels, int64_t b, const CellGrid& grid, int64_t row, acc* out,
                acc* line) {
  const int64_t height = grid.row_height(row), cell = grid.cell;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < height; ++y) {
      const int64_t source = image.at(b, row * cell + y, 0) + c * image.channel_stride;
      const acc* from = line;
      if (image.type == 0 && image.column_stride == 1)
        from = static_cast<const acc*>(image.data) + source;
      else
        image.visit([&](const auto* data) { load_row(data + source, image.column_stride, grid.width, line); });
      for (int64_t x = 0; x < grid.width; x += cell) {
        const int64_t width = x + cell <= grid.width ? cell : grid.width - x;
        copy_side(from + x, width, out + x * height * channels + (c * height + y) * width);
      }
    }
}

// Writes cell-major planes of a row of cells to an image, which may lie in the same memory.
template <typename acc>
void store_cells(const AnyImage<acc>& image, int64_t channels, int64_t b, const CellGrid& grid, int64_t row,
                 int64_t plane, const acc* from, acc* line, acc* band) {
  const int64_t height = grid.row_height(row), cell = grid.cell;
  for (int64_t c = 0; c < channels; ++c) {
    copy(from + c * plane, height * grid.width, band);
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < grid.width; x += cell) {
        const int64_t width = x + cell <= grid.width ? cell : grid.width - x;
        copy_side(band + x * height + y * width, width, line + x);
      }
      const int64_t target = image.at(b, row * cell + y, 0) + c * image.channel_stride;
      image.visit([&](auto* data) { store_row(line, image.column_stride, grid.width, data + target); });
    }
  }
}

// Loads a row of cells and decides which pixels take part: `whole` where all of a cell do, else their codes; the
// features of the others become 0.
template <typename acc>
void load_row_of_cells(const AnyImage<acc>& image, const bool* mask, int64_t b, const CellGrid& grid, int64_t row,
                       const CellMajorRow<acc>& out, acc* line) {
  const int64_t channels = out.channels;
  load_cells(image, channels, b, grid, row, out.features, line);
  const int64_t height = grid.row_height(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    const int64_t width = grid.column_width(column), first = column * grid.cell * height, count = width * height;
    acc* own = out.features + first * channels;
    Index<acc> finite = ~Index<acc>{};
    const auto squares = [&](int64_t n, bool whole) __attribute__((always_inline)) {
      Lanes<acc> sum = {};
      const acc* from = own + n;
      for (int64_t c = 0; c < channels; ++c, from += count) {
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
      for (int64_t c = 0; c < channels; ++c) sum += own[c * count + i] * own[c * count + i];
      const bool in = !inside || inside[i / width * grid.width + i % width];
      code[i] = !in ? kOutside : squares_are_finite(sum) ? kTakesPart : kNotFinite;
      if (code[i] != kTakesPart)
        for (int64_t c = 0; c < channels; ++c) own[c * count + i] = 0;
    }
  }
}

// One row of cells at a time, for what reads the image once. Its gradient takes the same form.
template <typename acc>
class RowScratch {
 public:
  DHVT_HD RowScratch(const CellGrid& grid, int64_t channels)
      : pixels_((grid.cell < grid.height ? grid.cell : grid.height) * grid.width),
        channels_(channels),
        features_(pixels_ * channels + kLanes<acc>),
        line_(grid.width),
        codes_(pixels_),
        whole_(grid.columns) {
    fill(+features_, pixels_ * channels + kLanes<acc>, acc(0));  // whole blocks are read, see Numbers
  }

  DHVT_HD CellMajorRow<acc> load(const AnyImage<acc>& image, const bool* mask, int64_t b, const CellGrid& grid,
                                 int64_t row) const {
    const CellMajorRow<acc> out{features_, channels_, codes_, whole_};
    load_row_of_cells<acc>(image, mask ? mask + b * grid.height * grid.width : nullptr, b, grid, row, out, line_);
    return out;
  }

 private:
  int64_t pixels_, channels_;
  Scratch<acc> features_, line_;
  Scratch<uint8_t> codes_;
  Scratch<bool> whole_;
};

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
