// Boxes of the image resampled to P x P, with the share of the samples that belong to the segment.
#include "token_patches_host.h"

#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

namespace dhvt {
namespace {

// One thread per sample of a patch, neighbours along its rows: it finds its four pixels once and mixes them in every
// channel and for the mask. Reads 4 (b C + 4) bytes, mostly from the L1 cache, and writes b (C + 1).
template <typename scalar_t>
struct ResampleBox {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> image;
  const int32_t* labels;      // [B,H,W]
  const int32_t* boxes;       // [B,K,4]
  scalar_t *patches, *masks;  // [B,K,C,P,P], [B,K,1,P,P]
  int64_t num_segments, size;

  __device__ void operator()(int64_t task, int64_t, int64_t of_patch) const {
    const int32_t* box = boxes + task * 4;
    const int64_t area = size * size;
    scalar_t* patch = patches + task * image.channels * area + of_patch;
    scalar_t& mask = masks[task * area + of_patch];
    if (is_empty(box) || image.height == 0 || image.width == 0) {
      for (int64_t c = 0; c < image.channels; ++c) patch[c * area] = scalar_t(0);
      mask = scalar_t(0);
      return;
    }
    const int64_t b = task / num_segments;
    const auto y = sample_at<acc>(box[0], box[2], size, of_patch / size, image.height);
    const auto x = sample_at<acc>(box[1], box[3], size, of_patch % size, image.width);
    const auto resample = [&](const auto& value) {  // value(y, x)
      const acc first = mix(value(y.low, x.low), value(y.low, x.high), x.share);
      const acc second = mix(value(y.high, x.low), value(y.high, x.high), x.share);
      return static_cast<scalar_t>(mix(first, second, y.share));
    };
    for (int64_t c = 0; c < image.channels; ++c)
      patch[c * area] = resample([&](int64_t row, int64_t column) {
        return static_cast<acc>(image.pixel(b, row, column)[c * image.channel_stride]);
      });
    const int32_t* label = labels + b * image.height * image.width;
    const int32_t k = int32_t(task % num_segments);
    mask =
        resample([&](int64_t row, int64_t column) { return label[row * image.width + column] == k ? acc(1) : acc(0); });
  }
};

std::tuple<Tensor, Tensor> token_patches(const Tensor& image, const Tensor& labels, const Tensor& boxes, int64_t size) {
  const Launcher launch(image);
  return token_patches_checked(
      image, labels, boxes, size,
      [&](auto tag, const Tensor& image, const Tensor& labels, const Tensor& boxes, const Tensor& patches,
          const Tensor& masks) {
        using scalar_t = typename decltype(tag)::type;
        for_each_pixel(
            launch, boxes.size(0) * boxes.size(1), 1, size * size,
            ResampleBox<scalar_t>{image_view<scalar_t>(image), data<int32_t>(labels), data<int32_t>(boxes),
                                  mutable_data<scalar_t>(patches), mutable_data<scalar_t>(masks), boxes.size(1), size});
      });
}

constexpr int kTileWidth = 32, kTileHeight = kThreads / kTileWidth;
constexpr int kAtOnce = 4;  // channels

// The transpose of the resampling. A block takes 32 x 8 pixels of an image: it lists the boxes that reach them, 256
// boxes at a time and in their order, and each thread collects the samples around its pixel, box by box: always in the
// same order, without atomics. Reads the gradients of a box about four times, from the caches, and writes b C bytes per
// pixel.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    collect_patches_kernel(const scalar_t* __restrict__ grad /* [B,K,C,P,P] */,
                           const int32_t* __restrict__ boxes /* [B,K,4] */, int64_t num_segments, int64_t size,
                           ImageView<scalar_t> out, int64_t rows, int64_t columns) {
  using acc = acc_t<scalar_t>;
  int32_t* const counts = shared_memory<int32_t>();  // [warps]
  int32_t* const listed = counts + kThreads / 32;    // [threads]
  const int warp = int(threadIdx.x) / 32;
  const int64_t area = size * size;
  for (int64_t tile = blockIdx.x; tile < out.batch * rows * columns; tile += gridDim.x) {
    const int64_t b = tile / (rows * columns);
    const int64_t top = tile / columns % rows * kTileHeight, left = tile % columns * kTileWidth;
    const int64_t y = top + warp, x = left + lane();
    const bool inside = y < out.height && x < out.width;
    const auto reaches = [&](const int32_t* box) {
      return !is_empty(box) && clamp_index(box[0], out.height) < top + kTileHeight &&
             clamp_index(box[2], out.height) >= top && clamp_index(box[1], out.width) < left + kTileWidth &&
             clamp_index(box[3], out.width) >= left;
    };
    for (int64_t channel = 0; channel < out.channels; channel += kAtOnce) {
      acc sums[kAtOnce] = {};
      for (int64_t first = 0; first < num_segments; first += kThreads) {
        const int64_t k = first + threadIdx.x;
        const bool wanted = k < num_segments && reaches(boxes + (b * num_segments + k) * 4);
        const unsigned votes = __ballot_sync(kAllLanes, wanted);
        if (lane() == 0) counts[warp] = __popc(votes);
        __syncthreads();
        int before = 0, total = 0;
        for (int w = 0; w < kThreads / 32; ++w) {
          before += w < warp ? counts[w] : 0;
          total += counts[w];
        }
        if (wanted) listed[before + __popc(votes & lanes_below())] = int32_t(threadIdx.x);
        __syncthreads();
        for (int i = 0; inside && i < total; ++i) {
          const int64_t task = b * num_segments + first + listed[i];
          const int32_t* box = boxes + task * 4;
          const SampleRange over_y = samples_near(box[0], box[2], size, y, out.height);
          const SampleRange over_x = samples_near(box[1], box[3], size, x, out.width);
          const auto share_of = [](const Sample<acc>& sample, int64_t pixel) {
            return (sample.low == pixel ? acc(1) - sample.share : acc(0)) +
                   (sample.high == pixel ? sample.share : acc(0));
          };
          for (int64_t row = over_y.begin; row < over_y.end; ++row) {
            const acc of_row = share_of(sample_at<acc>(box[0], box[2], size, row, out.height), y);
            if (!(of_row > 0)) continue;
            for (int64_t column = over_x.begin; column < over_x.end; ++column) {
              const acc share = of_row * share_of(sample_at<acc>(box[1], box[3], size, column, out.width), x);
              if (!(share > 0)) continue;
              const scalar_t* from = grad + (task * out.channels + channel) * area + row * size + column;
              for (int c = 0; c < kAtOnce; ++c)
                if (channel + c < out.channels) sums[c] += share * static_cast<acc>(from[c * area]);
            }
          }
        }
        __syncthreads();  // before the next list takes the place of this one
      }
      if (inside)
        for (int c = 0; c < kAtOnce; ++c)
          if (channel + c < out.channels)
            out.pixel(b, y, x)[(channel + c) * out.channel_stride] = static_cast<scalar_t>(sums[c]);
    }
  }
}

Tensor token_patches_backward(const Tensor& grad_patches, const Tensor& boxes, int64_t height, int64_t width) {
  const Launcher launch(grad_patches);
  return token_patches_backward_checked(
      grad_patches, boxes, height, width, [&](auto tag, const Tensor& grad, const Tensor& boxes, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        const int64_t rows = (height + kTileHeight - 1) / kTileHeight, columns = (width + kTileWidth - 1) / kTileWidth;
        launch(collect_patches_kernel<scalar_t>, blocks_for(out.size(0) * rows * columns), dim3(kThreads),
               sizeof(int32_t) * (kThreads / 32 + kThreads), data<scalar_t>(grad), data<int32_t>(boxes), boxes.size(1),
               grad.size(3), mutable_image_view<scalar_t>(out), rows, columns);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("token_patches", TORCH_BOX(&dhvt::token_patches));
  m.impl("token_patches_backward", TORCH_BOX(&dhvt::token_patches_backward));
}
