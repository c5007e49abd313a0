#include "cpu/levels/gaussian_blur_kernels.h"

#include <algorithm>

#include "cpu/levels/lanes.h"
#include "cpu/levels/rows.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// Several vectors, so that the sums of one do not wait for each other.
template <typename acc>
struct Block {
  static constexpr int vectors = 4, size = vectors * Lanes<acc>::count;
  using V = typename Lanes<acc>::vector;
  V sum[vectors];

  void start(acc weight, const acc* from) {
    for (int i = 0; i < vectors; ++i) sum[i] = weight * at(from, i);
  }
  void add(acc weight, const acc* from) {
    for (int i = 0; i < vectors; ++i) sum[i] += weight * at(from, i);
  }
  void add_pair(acc weight, const acc* from, const acc* other) {
    for (int i = 0; i < vectors; ++i) sum[i] += weight * (at(from, i) + at(other, i));
  }
  void store(acc* out) const {
    for (int i = 0; i < vectors; ++i) store_lanes(out + i * Lanes<acc>::count, sum[i]);
  }
  static V at(const acc* from, int i) { return load_lanes<V>(from + i * Lanes<acc>::count); }
};

// out = sum_d weights[d] (line[-d] + line[d]), in whole blocks.
template <typename acc>
void smooth_line(const acc* __restrict line, const acc* weights, int64_t radius, int64_t size, acc* __restrict out) {
  for (int64_t i = 0; i < size; i += Block<acc>::size) {
    Block<acc> block;
    block.start(weights[0], line + i);
    for (int64_t d = 1; d <= radius; ++d) block.add_pair(weights[d], line + i - d, line + i + d);
    block.store(out + i);
  }
}

// Whether no pixel of a row lacks weights.
template <typename acc>
bool all_exist(const acc* total, int64_t size) {
  int missing = 0;
  for (int64_t i = 0; i < size; ++i) missing |= !(total[i] > 0);
  return !missing;
}

// Smooths rows [y_begin, y_end) of one column of tiles: each row along itself, into a ring of as many as the kernel is
// high, and then across the ring.
template <typename scalar_t>
struct Smoother {
  using acc = acc_t<scalar_t>;
  const Blur<scalar_t>& blur;
  const bool adjoint;
  const int64_t b, x_begin;
  const int64_t channels = blur.images.channels, height = blur.images.height, width = blur.images.width;
  const int64_t planes = channels + (adjoint ? 0 : 1);  // the last is the sum of the weights
  const int64_t columns = blur.columns, size = std::min(columns, width - x_begin),
                padded = (size + kBlurAlign - 1) / kBlurAlign * kBlurAlign;
  const int64_t mask = blur.ring() - 1;
  acc* const lines;                                                   // [planes,line]
  acc* const ring = lines + (channels + 1) * blur.line();             // [ring rows,planes,columns]
  acc* const exists = ring + blur.ring() * (channels + 1) * columns;  // [ring rows,columns]
  acc* const sums = exists + blur.ring() * columns;                   // [planes,columns]

  acc* row(int64_t y, int64_t plane) const { return ring + (y & mask) * (planes * columns) + plane * columns; }

  void smooth_row(int64_t y) const {
    const auto& view = blur.images;
    const int64_t from_x = std::max<int64_t>(x_begin - blur.radius_x, 0),
                  to_x = std::min(x_begin + padded + blur.radius_x, width);
    const int64_t offset = from_x - (x_begin - blur.radius_x), loaded = to_x - from_x;
    const int64_t first = (b * height + y) * width + from_x;
    const auto line = [&](int64_t c) { return lines + c * blur.line() + offset; };
    for (int64_t c = 0; c < channels; ++c)
      load_row(view.pixel(b, y, from_x) + c * view.channel_stride, view.column_stride, loaded, line(c));
    if (adjoint) {
      const acc* total = blur.total + first;
      for (int64_t c = 0; c < channels; ++c) {
        acc* values = line(c);
        for (int64_t i = 0; i < loaded; ++i) values[i] = total[i] > 0 ? values[i] / total[i] : 0;
      }
    } else {
      acc* const present = line(channels);
      std::fill_n(present, loaded, acc(0));
      for (int64_t c = 0; c < channels; ++c) {
        const acc* values = line(c);
        for (int64_t i = 0; i < loaded; ++i) present[i] += values[i];
      }
      for (int64_t i = 0; i < loaded; ++i) present[i] = present[i] - present[i] == acc(0) ? acc(1) : acc(0);
      if (blur.mask)
        for (int64_t i = 0; i < loaded; ++i) present[i] = blur.mask[first + i] ? present[i] : acc(0);
      for (int64_t c = 0; c < channels; ++c) {
        acc* values = line(c);
        for (int64_t i = 0; i < loaded; ++i) values[i] = present[i] != 0 ? values[i] : acc(0);
      }
      std::copy_n(lines + channels * blur.line() + blur.radius_x, padded, exists + (y & mask) * columns);
    }
    for (int64_t p = 0; p < planes; ++p)
      smooth_line(lines + p * blur.line() + blur.radius_x, blur.weights, blur.radius_x, padded, row(y, p));
  }

  // sums = sum_d weights[d] row(y + d) over the rows of the image.
  void smooth_columns(int64_t y) const {
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t i = 0; i < padded; i += Block<acc>::size) {
        Block<acc> block;
        block.start(blur.weights[0], row(y, p) + i);
        for (int64_t d = 1; d <= blur.radius_y; ++d) {
          if (y - d >= 0) block.add(blur.weights[d], row(y - d, p) + i);
          if (y + d < height) block.add(blur.weights[d], row(y + d, p) + i);
        }
        block.store(sums + p * columns + i);
      }
  }

  void store(int64_t y) const {
    const auto& view = blur.images;
    const acc* present = exists + (y & mask) * columns;
    acc* total = blur.total + (b * height + y) * width + x_begin;
    if (!adjoint)
      for (int64_t i = 0; i < size; ++i) total[i] = present[i] * sums[channels * columns + i];
    const bool whole = all_exist(total, size);
    for (int64_t c = 0; c < channels; ++c) {
      acc* sum = sums + c * columns;
      if (!adjoint)
        for (int64_t i = 0; i < size; ++i) sum[i] /= total[i] > 0 ? total[i] : acc(1);
      if (!whole) {
        const scalar_t* source = view.pixel(b, y, x_begin) + c * view.channel_stride;
        for (int64_t i = 0; i < size; ++i) sum[i] = total[i] > 0 ? sum[i] : acc(source[i * view.column_stride]);
      }
      store_row(sum, blur.out.column_stride, size, blur.out.pixel(b, y, x_begin) + c * blur.out.channel_stride);
    }
  }
};

}  // namespace

template <typename scalar_t>
void blur_rows(const Blur<scalar_t>& blur, bool adjoint, int64_t b, int64_t x, int64_t y_begin, int64_t y_end,
               acc_t<scalar_t>* scratch) {
  const Smoother<scalar_t> smoother{.blur = blur, .adjoint = adjoint, .b = b, .x_begin = x, .lines = scratch};
  std::fill_n(smoother.lines, smoother.planes * blur.line(), 0);
  int64_t ready = std::max<int64_t>(y_begin - blur.radius_y, 0);
  for (int64_t y = y_begin; y < y_end; ++y) {
    for (; ready <= std::min(y + blur.radius_y, smoother.height - 1); ++ready) smoother.smooth_row(ready);
    smoother.smooth_columns(y);
    smoother.store(y);
  }
}

#define INSTANTIATE(scalar_t) \
  template void blur_rows(const Blur<scalar_t>&, bool, int64_t, int64_t, int64_t, int64_t, acc_t<scalar_t>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
