// Gaussian smoothing that stops at the border, at masked pixels and at NaN: one launch for small kernels, whose tile
// fits on chip; for wide ones, along the rows and then along the columns, through a workspace.
#include "gaussian_blur_host.h"

#include "cuda/launch.cuh"

namespace dhvt {
namespace {

// The adjoint of the blur is the same sum with the division before it, so it reads the sums of weights that the forward
// writes. A pixel exists where its divisor, which is 1 in the forward, is positive; others are returned as they came.
template <typename scalar_t>
struct Blur {
  using acc = acc_t<scalar_t>;
  ImageView<const scalar_t> images;
  ImageView<scalar_t> out;
  const bool* mask;  // [B,H,W] or null
  acc* total;        // [B,H,W]
  bool adjoint;

  __device__ int64_t place(int64_t b, int64_t y, int64_t x) const { return (b * images.height + y) * images.width + x; }
  __device__ acc value(int64_t b, int64_t c, int64_t y, int64_t x) const {
    return static_cast<acc>(images.pixel(b, y, x)[c * images.channel_stride]);
  }
  __device__ acc divisor(int64_t b, int64_t y, int64_t x) const {
    const int64_t i = place(b, y, x);
    if (adjoint) return total[i] > 0 ? total[i] : acc(0);
    acc sum = 0;
    for (int64_t c = 0; c < images.channels; ++c) sum += value(b, c, y, x);
    return sum - sum == acc(0) && (!mask || mask[i]) ? acc(1) : acc(0);
  }
  __device__ void store(int64_t b, int64_t c, int64_t y, int64_t x, acc v) const {
    out.pixel(b, y, x)[c * out.channel_stride] = static_cast<scalar_t>(v);
  }
};

constexpr int kReach = 4;  // the largest radius of a kernel that is held in registers
constexpr int kSide = 32;  // of a tile
constexpr int kPerThread = 4;
constexpr int kPadded = kSide + 2 * kReach;

// One weight per distance, in registers. Beyond the radius nothing is added: 0 times NaN is NaN.
template <typename acc>
struct Weights {
  acc at[kReach + 1];
  int radius;
};

template <typename acc>
constexpr size_t tile_bytes() {
  return sizeof(acc) * kPadded * (2 * kPadded + kSide);
}

// A block smooths a tile of 32 x 32 pixels, plane by plane: it loads the tile with its margin of 4, smooths the rows,
// and then each thread smooths four pixels of a column. The sum of the weights is one plane more, but the same number
// in every tile whose pixels all exist. Reads 1.6 b C bytes per pixel, of which the margins come from the L2 cache, and
// again, from the caches, what says whether a pixel exists; writes b C + 4. About 20 accesses of shared memory per
// pixel and plane take as long as that.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    blur_tiles_kernel(Blur<scalar_t> blur, Weights<acc_t<scalar_t>> weights, int64_t rows, int64_t columns) {
  using acc = acc_t<scalar_t>;
  const auto& view = blur.images;
  acc* const divisors = shared_memory<acc>();        // [padded,padded]
  acc* const values = divisors + kPadded * kPadded;  // [padded,padded]
  acc* const smoothed = values + kPadded * kPadded;  // [padded,side]
  const int tx = int(threadIdx.x % kSide), ty = int(threadIdx.x / kSide) * kPerThread;
  acc all = 0;
  for (int d = -kReach; d <= kReach; ++d) all += weights.at[d < 0 ? -d : d];
  for (int64_t tile = blockIdx.x; tile < view.batch * rows * columns; tile += gridDim.x) {
    const int64_t b = tile / (rows * columns);
    const int64_t top = tile / columns % rows * kSide, left = tile % columns * kSide;
    const auto inside = [&](int64_t y, int64_t x) { return y >= 0 && y < view.height && x >= 0 && x < view.width; };
    int missing = 0;
    for (int i = int(threadIdx.x); i < kPadded * kPadded; i += kThreads) {
      const int64_t y = top + i / kPadded - kReach, x = left + i % kPadded - kReach;
      divisors[i] = inside(y, x) ? blur.divisor(b, y, x) : acc(0);
      missing |= !(divisors[i] > 0);
    }
    missing = __syncthreads_or(missing);
    acc sums[kPerThread], totals[kPerThread];
    for (int i = 0; i < kPerThread; ++i) totals[i] = blur.adjoint ? acc(1) : all * all;
    for (int64_t c = blur.adjoint || !missing ? 0 : -1; c < view.channels; ++c) {
      for (int i = int(threadIdx.x); i < kPadded * kPadded; i += kThreads) {
        const int64_t y = top + i / kPadded - kReach, x = left + i % kPadded - kReach;
        values[i] = c < 0 ? divisors[i] : divisors[i] > 0 ? blur.value(b, c, y, x) / divisors[i] : acc(0);
      }
      __syncthreads();
      for (int i = int(threadIdx.x); i < kPadded * kSide; i += kThreads) {
        const acc* at = values + i / kSide * kPadded + i % kSide + kReach;
        acc sum = weights.at[0] * at[0];
#pragma unroll
        for (int d = 1; d <= kReach; ++d)
          if (d <= weights.radius) sum += weights.at[d] * (at[-d] + at[d]);
        smoothed[i] = sum;
      }
      __syncthreads();
      for (int i = 0; i < kPerThread; ++i) sums[i] = 0;
#pragma unroll
      for (int j = -kReach; j < kPerThread + kReach; ++j) {
        const acc value = smoothed[(ty + j + kReach) * kSide + tx];
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
          const int d = j < i ? i - j : j - i;
          if (d <= kReach && d <= weights.radius) sums[i] += weights.at[d] * value;
        }
      }
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const int64_t y = top + ty + i, x = left + tx;
        if (!inside(y, x)) continue;
        const bool exists = divisors[(ty + i + kReach) * kPadded + tx + kReach] > 0;
        if (c < 0)
          totals[i] = exists ? sums[i] : acc(0);
        else
          blur.store(b, c, y, x, exists ? sums[i] / totals[i] : blur.value(b, c, y, x));
      }
    }
    if (!blur.adjoint)
      for (int i = 0; i < kPerThread; ++i)
        if (inside(top + ty + i, left + tx)) blur.total[blur.place(b, top + ty + i, left + tx)] = totals[i];
    __syncthreads();  // before the next tile takes the place of this one
  }
}

// The wide kernel, first launch: total = the divisor.
template <typename scalar_t>
struct FindDivisors {
  Blur<scalar_t> blur;
  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    blur.total[blur.place(b, y, x)] = blur.divisor(b, y, x);
  }
};

// Second launch: rows [B,P,H,W] = each row smoothed along itself, P = C planes and the weights'. One thread per pixel,
// whose neighbours come from the L1 cache.
template <typename scalar_t>
struct SmoothRows {
  using acc = acc_t<scalar_t>;
  Blur<scalar_t> blur;
  const acc* weights;  // [1 + radius]
  acc* rows;
  int64_t radius, planes;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const auto& view = blur.images;
    const acc* divisors = blur.total + blur.place(b, y, 0);
    const int64_t first = x > radius ? x - radius : 0, last = x + radius < view.width ? x + radius : view.width - 1;
    for (int64_t p = 0; p < planes; ++p) {
      acc sum = 0;
      for (int64_t i = first; i <= last; ++i)
        if (divisors[i] > 0)
          sum += weights[i < x ? x - i : i - x] * (p < view.channels ? blur.value(b, p, y, i) / divisors[i] : acc(1));
      rows[((b * planes + p) * view.height + y) * view.width + x] = sum;
    }
  }
};

// Third launch: the columns of that, and the division.
template <typename scalar_t>
struct SmoothColumns {
  using acc = acc_t<scalar_t>;
  Blur<scalar_t> blur;
  const acc *weights, *rows;
  int64_t radius, planes;

  __device__ void operator()(int64_t b, int64_t y, int64_t x) const {
    const auto& view = blur.images;
    const int64_t first = y > radius ? y - radius : 0, last = y + radius < view.height ? y + radius : view.height - 1;
    acc& total = blur.total[blur.place(b, y, x)];
    const bool exists = total > 0;
    acc divisor = 1;
    for (int64_t p = planes - 1; p >= 0; --p) {  // the weights come first
      const acc* column = rows + (b * planes + p) * view.height * view.width + x;
      acc sum = 0;
      for (int64_t i = first; i <= last; ++i) sum += weights[i < y ? y - i : i - y] * column[i * view.width];
      if (p == view.channels)
        total = divisor = exists ? sum : acc(0);
      else
        blur.store(b, p, y, x, exists ? sum / divisor : blur.value(b, p, y, x));
    }
  }
};

template <typename acc>
struct FillWeights {
  acc* weights;
  double sigma;
  __device__ void operator()(int64_t d) const { weights[d] = static_cast<acc>(blur_weight(d, sigma)); }
};

template <typename scalar_t>
void run(const Launcher& launch, const Blur<scalar_t>& blur, double sigma, const Tensor& like) {
  using acc = acc_t<scalar_t>;
  const auto& view = blur.images;
  const int64_t radius_y = blur_radius(sigma, view.height), radius_x = blur_radius(sigma, view.width);
  const int64_t radius = std::max(radius_y, radius_x);
  if (radius <= kReach) {
    Weights<acc> weights{{}, int(radius)};
    for (int64_t d = 0; d <= radius; ++d) weights.at[d] = static_cast<acc>(blur_weight(d, sigma));
    const int64_t rows = (view.height + kSide - 1) / kSide, columns = (view.width + kSide - 1) / kSide;
    launch(blur_tiles_kernel<scalar_t>, blocks_for(view.batch * rows * columns), dim3(kThreads), tile_bytes<acc>(),
           blur, weights, rows, columns);
    return;
  }
  const int64_t planes = view.channels + !blur.adjoint, pixels = view.batch * view.height * view.width;
  const Tensor workspace = empty({radius + 1 + planes * pixels}, acc_type(like.scalar_type()), like);
  acc *const weights = mutable_data<acc>(workspace), *const rows = weights + radius + 1;
  for_each(launch, radius + 1, FillWeights<acc>{weights, sigma});
  if (!blur.adjoint) for_each_pixel(launch, view.batch, view.height, view.width, FindDivisors<scalar_t>{blur});
  for_each_pixel(launch, view.batch, view.height, view.width,
                 SmoothRows<scalar_t>{blur, weights, rows, radius_x, planes});
  for_each_pixel(launch, view.batch, view.height, view.width,
                 SmoothColumns<scalar_t>{blur, weights, rows, radius_y, planes});
}

std::tuple<Tensor, Tensor> gaussian_blur(const Tensor& images, const std::optional<Tensor>& mask, double sigma) {
  const Launcher launch(images);
  return gaussian_blur_checked(
      images, mask, sigma,
      [&](auto tag, const Tensor& images, const std::optional<Tensor>& mask, const Tensor& total, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        run(launch,
            Blur<scalar_t>{image_view<scalar_t>(images), mutable_image_view<scalar_t>(out), data<bool>(mask),
                           mutable_data<acc_t<scalar_t>>(total), false},
            sigma, images);
      });
}

Tensor gaussian_blur_backward(const Tensor& grad, const Tensor& total, double sigma) {
  const Launcher launch(grad);
  return gaussian_blur_backward_checked(
      grad, total, sigma, [&](auto tag, const Tensor& grad, const Tensor& total, const Tensor& out) {
        using scalar_t = typename decltype(tag)::type;
        run(launch,
            Blur<scalar_t>{image_view<scalar_t>(grad), mutable_image_view<scalar_t>(out), nullptr,
                           mutable_data<acc_t<scalar_t>>(total), true},
            sigma, grad);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("gaussian_blur", TORCH_BOX(&dhvt::gaussian_blur));
  m.impl("gaussian_blur_backward", TORCH_BOX(&dhvt::gaussian_blur_backward));
}
