#include "cpu/levels/color_sums_kernels.h"

#include "cpu/levels/label_runs.h"

namespace dhvt::DHVT_LEVEL {
namespace {

constexpr int64_t kBlock = 256;  // pixels whose sums fit int32, and whose places fit int16

// Of n values: their sum, that of their places times them, and that of their squares. In int16, of which the compiler
// multiplies and adds pairs at once.
struct ColorSums {
  int32_t c = 0, xc = 0, cc = 0;

  DHVT_HD ColorSums(const uint8_t* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const int16_t value = values[i], place = static_cast<int16_t>(i);
      c += value;
      xc += place * value;
      cc += value * value;
    }
  }
};

// The sum of the squares of the numbers below n.
DHVT_HD int64_t squares_below(int64_t n) { return (n - 1) * n * (2 * n - 1) / 6; }

}  // namespace

void add_color_sums(const uint8_t* image, int64_t stride, int64_t channels, const int32_t* labels, int64_t y,
                    int64_t width, int64_t segments, int64_t* sums) {
  for_each_run(labels, 0, width, [&](int64_t begin, int64_t end) {
    const int64_t label = labels[begin];
    if (label < 0 || label >= segments) return;
    // Sums along a row first: fewer products.
    int64_t* out = sums + label * (kPlaceSums + kColorSums * channels);
    const int64_t n = end - begin;
    const int64_t x = n * (begin + end - 1) / 2, xx = squares_below(end) - squares_below(begin);
    const int64_t place[kPlaceSums] = {n, n * y, x, n * y * y, y * x, xx};
    for (int64_t i = 0; i < kPlaceSums; ++i) out[i] += place[i];
    for (int64_t k = 0; k < channels; ++k) {
      int64_t* color = out + kPlaceSums + k * kColorSums;
      for (int64_t first = begin; first < end; first += kBlock) {
        const ColorSums of(image + k * stride + first, end - first < kBlock ? end - first : kBlock);
        color[0] += of.c;
        color[1] += y * of.c;
        color[2] += first * of.c + of.xc;
        color[3] += of.cc;
      }
    }
  });
}

}  // namespace dhvt::DHVT_LEVEL
