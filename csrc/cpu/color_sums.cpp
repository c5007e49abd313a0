// Sums of colours, positions and their products over segments: one pass over the pixels, run by run. In integers, so
// they are exact. Reads 4 + C bytes per pixel; one thread, which is bound by the adding to the segments' rows.
#include "common.h"
#include "cpu/levels/color_sums_kernels.h"

namespace dhvt {
namespace {

// So that sums of squares of coordinates stay within int64.
constexpr int64_t kMaxSide = int64_t{1} << 17, kMaxPixels = int64_t{1} << 29;

Tensor color_sums(const Tensor& any_image, const Tensor& any_labels, int64_t segments) {
  check(any_labels, "labels [H,W]", ScalarType::Int, {-1, -1});
  const int64_t height = any_labels.size(0), width = any_labels.size(1);
  check(any_image, "image [C,H,W]", ScalarType::Byte, {-1, height, width});
  const int64_t channels = any_image.size(0), columns = kPlaceSums + kColorSums * channels;
  STD_TORCH_CHECK(height <= kMaxSide && width <= kMaxSide && height * width <= kMaxPixels,
                  "labels [H,W]: expected at most 2^29 pixels, and 2^17 in a row or column; found ", height, " x ",
                  width);
  STD_TORCH_CHECK(segments >= 0, "num_segments: expected at least 0; found ", segments);
  const Tensor image = dense(any_image), labels = dense(any_labels);
  Tensor out = zeros({segments, columns}, ScalarType::Long, labels);
  int64_t* sums = mutable_data<int64_t>(out);
  const auto* pixels = data<uint8_t>(image);
  const auto* label = data<int32_t>(labels);
  const auto add = DHVT_AT_LEVEL(add_color_sums);
  for (int64_t y = 0; y < height; ++y)
    add(pixels + y * width, height * width, channels, label + y * width, y, width, segments, sums);
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("color_sums", TORCH_BOX(&dhvt::color_sums)); }
