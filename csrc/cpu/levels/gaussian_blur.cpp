#include "cpu/levels/gaussian_blur_kernels.h"

#include <algorithm>

#include "cpu/levels/rows.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// out = sum_d weights[d] (line[-d] + line[d]), in whole vectors.
template <typename acc>
void smooth_line(const acc* __restrict line, const acc* weights, int64_t radius, int64_t size, acc* __restrict out) {
  for (int64_t i = 0; i < size; ++i) out[i] = weights[0] * line[i];
  for (int64_t d = 1; d <= radius; ++d) {
    const acc weight = weights[d];
    const acc *before = line - d, *after = line + d;
    for (int64_t i = 0; i < size; ++i) out[i] += weight * (before[i] + after[i]);
  }
}

template <typename acc>
void add_weighted(const acc* __restrict row, acc weight, int64_t size, acc* __restrict out) {
  for (int64_t i = 0; i < size; ++i) out[i] += weight * row[i];
}

}  // namespace

template <typename scalar_t>
void blur_tile(const Blur<scalar_t>& blur, bool adjoint, int64_t b, int64_t y_begin, int64_t x_begin,
               acc_t<scalar_t>* scratch) {
  using acc = acc_t<scalar_t>;
  const auto& view = blur.images;
  const int64_t channels = view.channels, height = view.height, width = view.width;
  const int64_t planes = channels + (adjoint ? 0 : 1);  // the last is the sum of the weights
  const int64_t y_end = std::min(y_begin + blur.rows, height), size = std::min(blur.columns, width - x_begin);
  const int64_t padded = (size + 15) / 16 * 16, line_size = blur.line(), columns = blur.columns;
  const int64_t from_y = std::max<int64_t>(y_begin - blur.radius_y, 0), to_y = std::min(y_end + blur.radius_y, height);
  const int64_t from_x = std::max<int64_t>(x_begin - blur.radius_x, 0),
                to_x = std::min(x_begin + padded + blur.radius_x, width);
  acc* const lines = scratch;                              // [planes,line]
  acc* const smooth = lines + (channels + 1) * line_size;  // [planes,rows + 2 radius,columns]
  acc* const sums = smooth + (channels + 1) * (blur.rows + 2 * blur.radius_y) * columns;  // [planes,columns]
  acc* const exists = sums + (channels + 1) * columns;                                    // [rows,columns]
  const int64_t plane = (blur.rows + 2 * blur.radius_y) * columns;
  const int64_t offset = from_x - (x_begin - blur.radius_x), loaded = to_x - from_x;

  std::fill_n(lines, planes * line_size, acc(0));
  for (int64_t y = from_y; y < to_y; ++y) {
    const int64_t first = (b * height + y) * width + from_x;
    acc* const present = lines + channels * line_size + offset;
    for (int64_t c = 0; c < channels; ++c)
      load_row(view.pixel(b, y, from_x) + c * view.channel_stride, view.column_stride, loaded,
               lines + c * line_size + offset);
    if (adjoint) {
      for (int64_t c = 0; c < channels; ++c) {
        acc* line = lines + c * line_size + offset;
        for (int64_t i = 0; i < loaded; ++i) line[i] = blur.total[first + i] > 0 ? line[i] / blur.total[first + i] : 0;
      }
    } else {
      std::fill_n(present, loaded, acc(0));
      for (int64_t c = 0; c < channels; ++c) add_weighted(lines + c * line_size + offset, acc(1), loaded, present);
      for (int64_t i = 0; i < loaded; ++i) present[i] = present[i] - present[i] == acc(0) ? acc(1) : acc(0);
      if (blur.mask)
        for (int64_t i = 0; i < loaded; ++i) present[i] = blur.mask[first + i] ? present[i] : acc(0);
      for (int64_t c = 0; c < channels; ++c) {
        acc* line = lines + c * line_size + offset;
        for (int64_t i = 0; i < loaded; ++i) line[i] = present[i] != 0 ? line[i] : acc(0);
      }
      if (y >= y_begin && y < y_end)
        std::copy_n(lines + channels * line_size + blur.radius_x, padded, exists + (y - y_begin) * columns);
    }
    for (int64_t p = 0; p < planes; ++p)
      smooth_line(lines + p * line_size + blur.radius_x, blur.weights, blur.radius_x, padded,
                  smooth + p * plane + (y - from_y) * columns);
  }

  for (int64_t y = y_begin; y < y_end; ++y) {
    for (int64_t p = 0; p < planes; ++p) {
      const acc* row = smooth + p * plane + (y - from_y) * columns;
      acc* sum = sums + p * columns;
      std::fill_n(sum, padded, acc(0));
      add_weighted(row, blur.weights[0], padded, sum);
      for (int64_t d = 1; d <= blur.radius_y; ++d) {
        if (y - d >= from_y) add_weighted(row - d * columns, blur.weights[d], padded, sum);
        if (y + d < to_y) add_weighted(row + d * columns, blur.weights[d], padded, sum);
      }
    }
    const acc* present = exists + (y - y_begin) * columns;
    acc* total = blur.total + (b * height + y) * width + x_begin;
    if (!adjoint)
      for (int64_t i = 0; i < size; ++i) total[i] = present[i] * sums[channels * columns + i];
    for (int64_t c = 0; c < channels; ++c) {
      acc* sum = sums + c * columns;
      const scalar_t* source = view.pixel(b, y, x_begin) + c * view.channel_stride;
      const int64_t stride = view.column_stride;
      if (!adjoint)
        for (int64_t i = 0; i < size; ++i) sum[i] /= total[i] > 0 ? total[i] : acc(1);
      for (int64_t i = 0; i < size; ++i) sum[i] = total[i] > 0 ? sum[i] : acc(source[i * stride]);
      store_row(sum, blur.out.column_stride, size, blur.out.pixel(b, y, x_begin) + c * blur.out.channel_stride);
    }
  }
}

#define INSTANTIATE(scalar_t) \
  template void blur_tile(const Blur<scalar_t>&, bool, int64_t, int64_t, int64_t, acc_t<scalar_t>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
