// Sums of colours, positions and their products over segments: one pass over the pixels, run by run. In integers, so
// they are exact. Reads 4 + C bytes per pixel; one thread, which is bound by the adding to the segments' rows.
#include <algorithm>

#include "common.h"

namespace dhvt {
namespace {

constexpr int64_t kPlace = 6, kColor = 4;  // columns: n, y, x, yy, yx, xx; and of each channel c, yc, xc, cc
// So that sums of squares of coordinates stay within int64.
constexpr int64_t kMaxSide = int64_t{1} << 17, kMaxPixels = int64_t{1} << 29;

constexpr int64_t kBlock = 256;  // pixels whose sums fit int32, and whose places fit int16

// Of n values: their sum, that of their places times them, and that of their squares. In int16, of which the compiler
// multiplies and adds pairs at once.
struct ColorSums {
  int32_t c = 0, xc = 0, cc = 0;

  ColorSums(const uint8_t* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const int16_t value = values[i], place = static_cast<int16_t>(i);
      c += value;
      xc += place * value;
      cc += value * value;
    }
  }
};

// The sum of the squares of the numbers below n.
int64_t squares_below(int64_t n) { return (n - 1) * n * (2 * n - 1) / 6; }

// Adds the pixels [begin, end) of row y, all of one segment. Sums along a row first: fewer products.
void add_run(const uint8_t* image, int64_t channel_stride, int64_t channels, int64_t y, int64_t begin, int64_t end,
             int64_t* out) {
  const int64_t n = end - begin;
  const int64_t x = n * (begin + end - 1) / 2, xx = squares_below(end) - squares_below(begin);
  const int64_t place[kPlace] = {n, n * y, x, n * y * y, y * x, xx};
  for (int64_t i = 0; i < kPlace; ++i) out[i] += place[i];
  for (int64_t k = 0; k < channels; ++k) {
    const uint8_t* row = image + k * channel_stride;
    int64_t* color = out + kPlace + k * kColor;
    for (int64_t first = begin; first < end; first += kBlock) {
      const ColorSums sums(row + first, std::min(kBlock, end - first));
      color[0] += sums.c;
      color[1] += y * sums.c;
      color[2] += first * sums.c + sums.xc;
      color[3] += sums.cc;
    }
  }
}

Tensor color_sums(const Tensor& any_image, const Tensor& any_labels, int64_t segments) {
  check(any_labels, "labels [H,W]", ScalarType::Int, {-1, -1});
  const int64_t height = any_labels.size(0), width = any_labels.size(1);
  check(any_image, "image [C,H,W]", ScalarType::Byte, {-1, height, width});
  const int64_t channels = any_image.size(0), columns = kPlace + kColor * channels;
  STD_TORCH_CHECK(height <= kMaxSide && width <= kMaxSide && height * width <= kMaxPixels,
                  "labels [H,W]: expected at most 2^29 pixels, and 2^17 in a row or column; found ", height, " x ",
                  width);
  STD_TORCH_CHECK(segments >= 0, "num_segments: expected at least 0; found ", segments);
  const Tensor image = dense(any_image), labels = dense(any_labels);
  Tensor out = zeros({segments, columns}, ScalarType::Long, labels);
  int64_t* sums = mutable_data<int64_t>(out);
  const auto* pixels = data<uint8_t>(image);
  const auto* label = data<int32_t>(labels);
  for (int64_t y = 0; y < height; ++y) {
    const int32_t* row = label + y * width;
    for (int64_t begin = 0, end; begin < width; begin = end) {
      for (end = begin + 1; end < width && row[end] == row[begin];) ++end;
      if (row[begin] < 0 || row[begin] >= segments) continue;
      add_run(pixels + y * width, height * width, channels, y, begin, end, sums + row[begin] * columns);
    }
  }
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("color_sums", TORCH_BOX(&dhvt::color_sums)); }
