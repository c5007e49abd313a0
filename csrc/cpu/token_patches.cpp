// Boxes of the image resampled to P x P, with the share of the samples that belong to the segment.
#include "../token_patches.h"

#include <algorithm>

#include "../common.h"

namespace dhvt {
namespace {

// The P samples of a box along one axis: the two pixels of each, clamped to the image, and the share of the second.
template <typename acc>
struct Axis {
  std::vector<int64_t> low, high;
  std::vector<acc> share;

  explicit Axis(int64_t size) : low(size), high(size), share(size) {}

  void set(int32_t first, int32_t last, int64_t limit) {
    const int64_t size = static_cast<int64_t>(low.size());
    AxisWalk walk = axis_walk(first, last, size);
    for (int64_t i = 0; i < size; ++i, walk.advance()) {
      low[i] = clamp_index(walk.position, limit);
      high[i] = clamp_index(walk.position + (walk.remainder > 0), limit);
      share[i] = acc(walk.remainder) / acc(walk.denominator);
    }
  }
};

bool is_empty(const int32_t* box) { return box[2] < box[0] || box[3] < box[1]; }

// One row resampled along x: the two pixels of each sample are fetched first, then all are mixed at once, without a
// branch per sample. value(x) is a pixel. scratch [2 P], out [P].
template <typename acc, typename Value>
void resample_row(const Axis<acc>& x, const Value& value, acc* __restrict scratch, acc* __restrict out) {
  const int64_t size = static_cast<int64_t>(x.low.size());
  const int64_t *low = x.low.data(), *high = x.high.data();
  const acc* __restrict share = x.share.data();
  for (int64_t j = 0; j < size; ++j) {
    scratch[j] = value(low[j]);
    scratch[size + j] = value(high[j]);
  }
  for (int64_t j = 0; j < size; ++j) {
    const acc mixed = (acc(1) - share[j]) * scratch[j] + share[j] * scratch[size + j];
    out[j] = share[j] > 0 ? mixed : scratch[j];
  }
}

// Bilinear resampling of one plane in two steps: rows are resampled along x once each and kept while neighbouring
// samples need them, then mixed along y. row_of(y) gives a function x -> value. scratch [4 P], out [P,P].
template <typename scalar_t, typename acc, typename RowOf>
void resample(const Axis<acc>& y, const Axis<acc>& x, acc* scratch, const RowOf& row_of, scalar_t* __restrict out) {
  const int64_t size = static_cast<int64_t>(x.low.size());
  acc *first = scratch, *second = scratch + size, *fetched = scratch + 2 * size;
  int64_t in_first = -1, in_second = -1;
  for (int64_t i = 0; i < size; ++i, out += size) {
    if (y.low[i] == in_second) {
      std::swap(first, second);
      std::swap(in_first, in_second);
    }
    if (y.low[i] != in_first) resample_row(x, row_of(in_first = y.low[i]), fetched, first);
    const acc* __restrict a = first;
    const acc t = y.share[i], rest = acc(1) - t;
    if (t == 0) {  // not 1 * a + 0 * b, which is NaN where b is not finite
      for (int64_t j = 0; j < size; ++j) out[j] = scalar_t(a[j]);
      continue;
    }
    if (y.high[i] != in_second) resample_row(x, row_of(in_second = y.high[i]), fetched, second);
    const acc* __restrict b = second;
    for (int64_t j = 0; j < size; ++j) out[j] = scalar_t(rest * a[j] + t * b[j]);
  }
}

// One task per box. Reads each pixel of a box at most once per channel, writes b (C + 1) P^2 bytes.
// label [B,H,W], box [B,K,4] -> patches [B,K,C,P,P], masks [B,K,1,P,P].
template <typename scalar_t>
void patches_of(const ImageView<const scalar_t>& image, const int32_t* label, const int32_t* box, int64_t num_segments,
                int64_t size, scalar_t* patches, scalar_t* masks) {
  using acc = acc_t<scalar_t>;
  const int64_t area = size * size, channels = image.channels;
  torch::stable::parallel_for(0, image.batch * num_segments, 1, [&](int64_t begin, int64_t end) {
    Axis<acc> y(size), x(size), x_offset(size);
    std::vector<acc> scratch(4 * size);
    const acc share_of[2] = {0, 1};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / num_segments, k = task % num_segments;
      const int32_t* corner = box + task * 4;
      scalar_t* patch = patches + task * channels * area;
      scalar_t* mask = masks + task * area;
      if (is_empty(corner) || image.height == 0 || image.width == 0) {
        std::fill(patch, patch + channels * area, scalar_t(0));
        std::fill(mask, mask + area, scalar_t(0));
        continue;
      }
      y.set(corner[0], corner[2], image.height);
      x.set(corner[1], corner[3], image.width);
      for (int64_t j = 0; j < size; ++j) {  // memory offsets in place of columns
        x_offset.low[j] = x.low[j] * image.column_stride;
        x_offset.high[j] = x.high[j] * image.column_stride;
      }
      x_offset.share = x.share;
      for (int64_t c = 0; c < channels; ++c) {
        const scalar_t* plane = image.data + b * image.batch_stride + c * image.channel_stride;
        resample(
            y, x_offset, scratch.data(),
            [&](int64_t row) {
              return [pixel = plane + row * image.row_stride](int64_t offset) { return acc(pixel[offset]); };
            },
            patch + c * area);
      }
      const int32_t* labels = label + b * image.height * image.width;
      resample(
          y, x, scratch.data(),
          [&](int64_t row) {
            return [=, of_row = labels + row * image.width](int64_t column) { return share_of[of_row[column] == k]; };
          },
          mask);
    }
  });
}

std::tuple<Tensor, Tensor> token_patches(const Tensor& image, const Tensor& labels, const Tensor& boxes, int64_t size) {
  const ScalarType type = image.scalar_type();
  check(image, "image [B,C,H,W]", type, {-1, -1, -1, -1});
  check(labels, "labels [B,H,W]", ScalarType::Int, {image.size(0), image.size(2), image.size(3)});
  check(boxes, "boxes [B,K,4]", ScalarType::Int, {image.size(0), -1, 4});
  STD_TORCH_CHECK(size >= 1, "size: expected an integer >= 1; found ", size);
  const int64_t num_segments = boxes.size(1);
  Tensor patches = empty({image.size(0), num_segments, image.size(1), size, size}, type, image);
  Tensor masks = empty({image.size(0), num_segments, 1, size, size}, type, image);
  const Tensor dense_labels = dense(labels), dense_boxes = dense(boxes);
  dispatch_floating(type, "token_patches", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    patches_of(image_view<scalar_t>(image), data<int32_t>(dense_labels), data<int32_t>(dense_boxes), num_segments, size,
               mutable_data<scalar_t>(patches), mutable_data<scalar_t>(masks));
  });
  return {patches, masks};
}

constexpr int64_t kBand = 64;  // rows per task of the backward

// The transpose of the resampling. One task per band of rows of one plane: it takes the boxes in order, so every pixel
// adds its samples in the same order whatever the number of threads, and no two tasks write the same pixel.
// grad [B,K,C,P,P], box [B,K,4] -> out [B,C,H,W].
template <typename scalar_t>
void scatter_patches(const scalar_t* grad, const int32_t* box, int64_t num_segments, int64_t size,
                     const ImageView<scalar_t>& out) {
  using acc = acc_t<scalar_t>;
  const int64_t area = size * size, channels = out.channels, height = out.height, width = out.width;
  const int64_t bands = width > 0 ? (height + kBand - 1) / kBand : 0;
  torch::stable::parallel_for(0, out.batch * channels * bands, 1, [&](int64_t begin, int64_t end) {
    Axis<acc> y(size), x(size);
    std::vector<acc> plane(kBand * width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / (channels * bands), c = task / bands % channels;
      const int64_t top = task % bands * kBand, bottom = std::min(top + kBand, height);
      std::fill(plane.begin(), plane.end(), acc(0));
      for (int64_t k = 0; k < num_segments; ++k) {
        const int32_t* corner = box + (b * num_segments + k) * 4;
        if (is_empty(corner) || clamp_index(corner[0], height) >= bottom || clamp_index(corner[2], height) < top)
          continue;
        y.set(corner[0], corner[2], height);
        x.set(corner[1], corner[3], width);
        const scalar_t* patch = grad + ((b * num_segments + k) * channels + c) * area;
        const auto add = [&](int64_t row, acc share, const scalar_t* values) {
          if (row < top || row >= bottom || share == 0) return;
          acc* target = plane.data() + (row - top) * width;
          for (int64_t j = 0; j < size; ++j) {
            const acc value = share * acc(values[j]);
            target[x.low[j]] += (acc(1) - x.share[j]) * value;
            if (x.share[j] > 0) target[x.high[j]] += x.share[j] * value;
          }
        };
        for (int64_t i = 0; i < size; ++i) {
          add(y.low[i], acc(1) - y.share[i], patch + i * size);
          add(y.high[i], y.share[i], patch + i * size);
        }
      }
      scalar_t* target = out.data + (b * channels + c) * height * width + top * width;
      for (int64_t i = 0; i < (bottom - top) * width; ++i) target[i] = scalar_t(plane[i]);
    }
  });
}

Tensor token_patches_backward(const Tensor& grad_patches, const Tensor& boxes, int64_t height, int64_t width) {
  const ScalarType type = grad_patches.scalar_type();
  check(boxes, "boxes [B,K,4]", ScalarType::Int, {-1, -1, 4});
  check(grad_patches, "grad_patches [B,K,C,P,P]", type, {boxes.size(0), boxes.size(1), -1, -1, -1});
  const int64_t size = grad_patches.size(3);
  STD_TORCH_CHECK(grad_patches.size(4) == size && size >= 1, "grad_patches [B,K,C,P,P]: expected square patches");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "height, width: expected integers >= 0");
  Tensor out = empty({boxes.size(0), grad_patches.size(2), height, width}, type, grad_patches);
  const Tensor dense_grad = dense(grad_patches), dense_boxes = dense(boxes);
  dispatch_floating(type, "token_patches_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    scatter_patches(data<scalar_t>(dense_grad), data<int32_t>(dense_boxes), boxes.size(1), size,
                    mutable_image_view<scalar_t>(out));
  });
  return out;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("token_patches", TORCH_BOX(&dhvt::token_patches));
  m.impl("token_patches_backward", TORCH_BOX(&dhvt::token_patches_backward));
}
