// Merging of the pixels of an image into a binary tree.
#include "any_image.h"
#include "cuda/merge_launch.cuh"
#include "merge_pixels_host.h"

namespace dhvt {
namespace {

// The pixels of an image and the grid between them, without a list of its edges.
template <typename T>
struct PixelLeaves {
  static constexpr bool kParallelEdges = false;
  AnyImage<T> features;
  const bool* mask;  // [B,H,W] or null
  int64_t height, width, first;

  __device__ PixelLeaves of_image(int64_t b) const {
    return {features, mask ? mask + b * height * width : nullptr, height, width, b * features.batch_stride};
  }

  __device__ int32_t count(int64_t v) const { return mask == nullptr || mask[v]; }
  __device__ T mean(int64_t v, int64_t c) const {
    return features.load(first + c * features.channel_stride + v / width * features.row_stride +
                         v % width * features.column_stride);
  }
  __device__ T m2(int64_t, int64_t) const { return T(0); }
  __device__ T centroid(int64_t v, int d) const { return T(d == 0 ? v / width : v % width); }
  __device__ int32_t box(int64_t v, int d) const { return int32_t(d % 2 == 0 ? v / width : v % width); }
  __device__ int32_t boundary(int64_t v) const {
    const int64_t y = v / width, x = v % width;
    int32_t neighbours = y > 0 ? count(v - width) : 0;
    neighbours += x > 0 ? count(v - 1) : 0;
    neighbours += x + 1 < width ? count(v + 1) : 0;
    return neighbours + (y + 1 < height ? count(v + width) : 0);
  }

  // Of each pixel to the right and down.
  __device__ int64_t candidates() const { return 2 * height * width; }
  __device__ MergeEdge edge(int64_t e) const {
    const int64_t v = e / 2, down = e % 2;
    const bool exists = down ? v / width + 1 < height : v % width + 1 < width;
    const int64_t other = v + (down ? width : 1);
    if (!exists || !count(v) || !count(other)) return {-1, -1, 0};
    return {int32_t(v), int32_t(other), 1};
  }
};

// All rounds of an image by one block.
MergedTree merge_pixels(const Tensor& features, const std::optional<Tensor>& mask, std::string distance,
                        double compactness, int64_t depth) {
  const Launcher launch(features);
  return merge_pixels_checked(
      features, mask, distance, compactness, depth, [&]<typename T>(const bool* masks, MergeTask<T> task) {
        const int64_t height = features.size(2), width = features.size(3);
        task.num_edges = 2 * task.leaves;
        merge_batch(launch, task, PixelLeaves<T>{any_image<T>(features), masks, height, width, 0}, features.size(0),
                    features);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("merge_pixels", TORCH_BOX(&dhvt::merge_pixels)); }
