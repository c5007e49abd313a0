// The hot loops on a tile (see soft_tile.h), compiled once per instruction set and dtype. The loops over a block of 16
// lanes have a fixed trip count and local accumulators, which compilers then keep in vector registers.
#include "soft_tile.h"

namespace dhvt {

// A loop over the lanes of a block. Without the pragma g++ 12 vectorises the loop around it, ten times slower.
#define DHVT_EACH_LANE _Pragma("omp simd") for (int l = 0; l < kBlock; ++l)

template <typename scalar_t, typename acc>
DHVT_CLONES void load_planes(const ImageView<const scalar_t>& view, int64_t b, const Tile<acc>& tile, acc* planes) {
  constexpr int kChunk = 8;
  for (int64_t c = 0; c < view.channels; ++c) {
    acc* plane = planes + c * kLanes;
    for (int i = 0; i < tile.num_runs; ++i) {
      const Run run = tile.runs[i];
      const scalar_t* source = view.pixel(b, run.y, run.x) + c * view.channel_stride;
      // The next cell: more rows and channels than the hardware prefetches on its own.
      __builtin_prefetch(source + run.length * view.column_stride);
      acc* lane = plane + run.lane;
      int n = 0;
      if (view.column_stride == 1) {
        for (; n + kChunk <= run.length; n += kChunk) {
#pragma omp simd
          for (int l = 0; l < kChunk; ++l) lane[n + l] = acc(source[n + l]);
        }
      }
      for (; n < run.length; ++n) lane[n] = acc(source[n * view.column_stride]);
    }
    for (int n = tile.count; n < tile.padded; ++n) plane[n] = 0;
  }
}

template <typename scalar_t, typename acc>
DHVT_CLONES void store_planes(const ImageView<scalar_t>& view, int64_t b, const Tile<acc>& tile, const acc* planes) {
  for (int64_t c = 0; c < view.channels; ++c)
    for (int i = 0; i < tile.num_runs; ++i) {
      const Run run = tile.runs[i];
      scalar_t* out = view.pixel(b, run.y, run.x) + c * view.channel_stride;
      const acc* plane = planes + c * kLanes + run.lane;
      for (int n = 0; n < run.length; ++n) out[n * view.column_stride] = scalar_t(plane[n]);
    }
}

template <typename acc>
DHVT_CLONES void clear_unused(const Tile<acc>& tile, int64_t channels, acc* planes) {
  if (tile.all) return;
  for (int64_t c = 0; c < channels; ++c)
    for (int n = 0; n < tile.padded; ++n)
      planes[c * kLanes + n] = tile.planes[n] != 0 ? planes[c * kLanes + n] : acc(0);
}

template <typename scalar_t, typename acc>
DHVT_CLONES void load_tile(const ImageView<const scalar_t>& view, int64_t b, const Candidates<acc>& candidates,
                           Tile<acc>& tile) {
  acc* usable = tile.planes;
  acc* features = usable + kLanes;
  acc* plane_y = features + view.channels * kLanes;
  acc* plane_x = plane_y + kLanes;
  load_planes(view, b, tile, features);
  acc squares[kLanes] = {};
  for (int64_t c = 0; c < view.channels; ++c)
    for (int n = 0; n < tile.padded; ++n) squares[n] += features[c * kLanes + n] * features[c * kLanes + n];
  acc used = 0;
#pragma omp simd reduction(+ : used)
  for (int n = 0; n < tile.padded; ++n) {
    usable[n] = (squares_are_finite(squares[n]) ? acc(1) : acc(0)) * acc(tile.inside[n]);
    used += usable[n];
  }
  tile.all = used == acc(tile.padded);
  for (int64_t c = 0; c < view.channels; ++c) {
    acc* plane = features + c * kLanes;
    const acc shift = candidates.shift[c];
    for (int n = 0; n < tile.padded; ++n) plane[n] -= shift;
  }
  for (int i = 0; i < tile.num_runs; ++i) {
    const Run run = tile.runs[i];
    const acc y = acc(run.y) - candidates.origin_y, x = acc(run.x) - candidates.origin_x;
    for (int n = 0; n < run.length; ++n) {
      plane_y[run.lane + n] = y;
      plane_x[run.lane + n] = x + acc(n);
    }
  }
  clear_unused(tile, view.channels + 2, features);
}

template <typename acc>
DHVT_CLONES void linear(const acc* vectors, int64_t dims, const acc* planes, int padded, Rows<acc>& out) {
  for (int n = 0; n < padded; n += kBlock) {
    acc sum[kCandidates][kBlock] = {};
    for (int64_t d = 0; d < dims; ++d) {
      const acc* vector = vectors + d * kCandidates;
      const acc* plane = planes + d * kLanes + n;
#pragma GCC unroll 9
      for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE sum[k][l] += vector[k] * plane[l];
    }
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE out[k][n + l] = sum[k][l];
  }
}

template <typename acc>
DHVT_CLONES void spread(const Rows<acc>& weight, const acc* vectors, int64_t dims, int padded, acc* planes) {
  for (int n = 0; n < padded; n += kBlock) {
    acc row[kCandidates][kBlock];
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE row[k][l] = weight[k][n + l];
    for (int64_t d = 0; d < dims; ++d) {
      acc* plane = planes + d * kLanes + n;
      acc sum[kBlock];
      DHVT_EACH_LANE sum[l] = plane[l];
#pragma GCC unroll 9
      for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE sum[l] += vectors[d * kCandidates + k] * row[k][l];
      DHVT_EACH_LANE plane[l] = sum[l];
    }
  }
}

template <typename acc>
DHVT_CLONES void add_products(const Rows<acc>& weight, const acc* planes, int64_t dims, int padded, acc* lanes) {
  for (int64_t d = 0; d < dims; ++d) {
    acc* own = lanes + d * kCandidates * kBlock;
    acc sum[kCandidates][kBlock];
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE sum[k][l] = own[k * kBlock + l];
    for (int n = 0; n < padded; n += kBlock) {
      const acc* plane = planes + d * kLanes + n;
#pragma GCC unroll 9
      for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE sum[k][l] += weight[k][n + l] * plane[l];
    }
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE own[k * kBlock + l] = sum[k][l];
  }
}

template <typename acc>
DHVT_CLONES void add_lanes(const acc* lanes, int64_t dims, acc* out) {
  for (int64_t d = 0; d < dims; ++d)
    for (int k = 0; k < kCandidates; ++k) {
      const acc* lane = lanes + (d * kCandidates + k) * kBlock;
      acc half[kBlock / 2], quarter[kBlock / 4];
#pragma omp simd
      for (int l = 0; l < kBlock / 2; ++l) half[l] = lane[l] + lane[l + kBlock / 2];
#pragma omp simd
      for (int l = 0; l < kBlock / 4; ++l) quarter[l] = half[l] + half[l + kBlock / 4];
      out[k * dims + d] = (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
    }
}

template <typename acc>
DHVT_CLONES void add_planes(const acc* planes, int64_t dims, int padded, acc* sums) {
  for (int64_t d = 0; d < dims; ++d) {
    acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int n = 0; n < padded; ++n) sum += planes[d * kLanes + n];
    sums[d] += sum;
  }
}

template <typename acc>
DHVT_CLONES void softmax(const Candidates<acc>& candidates, const Metric<acc>& metric_, Tile<acc>& tile) {
  const Metric<acc> metric = metric_;  // local copies, that no store in the loop can change
  const auto present = candidates.present;
  const acc* usable = tile.planes;
  Rows<acc>& weight = tile.weight;
  for (int n = 0; n < tile.padded; n += kBlock) {
    acc best[kBlock], sum[kBlock] = {};
    DHVT_EACH_LANE best[l] = weight[0][n + l];
    for (int k = 1; k < kCandidates; ++k)
      DHVT_EACH_LANE best[l] = weight[k][n + l] > best[l] ? weight[k][n + l] : best[l];
    for (int k = 0; k < kCandidates; ++k) {
      DHVT_EACH_LANE {
        const acc value = share(weight[k][n + l], best[l], metric) * present[k];
        weight[k][n + l] = value;
        sum[l] += value;
      }
    }
    // Without any candidate the sum is 0.
    DHVT_EACH_LANE sum[l] = sum[l] == 0 ? acc(0) : usable[n + l] / sum[l];
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE weight[k][n + l] *= sum[l];
  }
}

template <typename acc>
DHVT_CLONES void softmax_backward(const Metric<acc>& metric_, const Tile<acc>& tile, Rows<acc>& grad) {
  const Metric<acc> metric = metric_;
  const Rows<acc>& weight = tile.weight;
  for (int n = 0; n < tile.padded; n += kBlock) {
    acc inner[kBlock] = {};
    for (int k = 0; k < kCandidates; ++k) DHVT_EACH_LANE inner[l] += weight[k][n + l] * grad[k][n + l];
    for (int k = 0; k < kCandidates; ++k) {
      DHVT_EACH_LANE grad[k][n + l] = score_gradient(weight[k][n + l], grad[k][n + l], inner[l], metric);
    }
  }
}

template <typename acc>
DHVT_CLONES void label_tile(const Candidates<acc>& candidates, const CellGrid& grid, int64_t own, const Tile<acc>& tile,
                            int32_t* labels) {
  acc best[kLanes];
  int32_t label[kLanes];
  for (int n = 0; n < tile.padded; ++n) {
    best[n] = tile.weight[kOwnCell][n];
    label[n] = int32_t(own);
  }
  for (int k = 0; k < kCandidates; ++k) {
    if (k == kOwnCell || candidates.index[k] < 0) continue;
    const int32_t j = int32_t(candidates.index[k]);
    const acc* row = tile.weight[k];
    for (int n = 0; n < tile.padded; ++n) {
      const bool nearer = row[n] > best[n];  // never where the pixel takes no part: all scores are 0 there
      best[n] = nearer ? row[n] : best[n];
      label[n] = nearer ? j : label[n];
    }
  }
  for (int i = 0; i < tile.num_runs; ++i) {
    const Run run = tile.runs[i];
    int32_t* out = labels + run.y * grid.width + run.x;
    for (int n = 0; n < run.length; ++n) out[n] = tile.inside[run.lane + n] ? label[run.lane + n] : -1;
  }
}

#define DHVT_INSTANTIATE(acc)                                                       \
  template void clear_unused(const Tile<acc>&, int64_t, acc*);                      \
  template void linear(const acc*, int64_t, const acc*, int, Rows<acc>&);           \
  template void spread(const Rows<acc>&, const acc*, int64_t, int, acc*);           \
  template void add_products(const Rows<acc>&, const acc*, int64_t, int, acc*);     \
  template void add_lanes(const acc*, int64_t, acc*);                               \
  template void add_planes(const acc*, int64_t, int, acc*);                         \
  template void softmax(const Candidates<acc>&, const Metric<acc>&, Tile<acc>&);    \
  template void softmax_backward(const Metric<acc>&, const Tile<acc>&, Rows<acc>&); \
  template void label_tile(const Candidates<acc>&, const CellGrid&, int64_t, const Tile<acc>&, int32_t*);

#define DHVT_INSTANTIATE_IMAGE(scalar_t, acc)                                                    \
  template void load_planes(const ImageView<const scalar_t>&, int64_t, const Tile<acc>&, acc*);  \
  template void store_planes(const ImageView<scalar_t>&, int64_t, const Tile<acc>&, const acc*); \
  template void load_tile(const ImageView<const scalar_t>&, int64_t, const Candidates<acc>&, Tile<acc>&);

DHVT_INSTANTIATE(float)
DHVT_INSTANTIATE(double)
DHVT_INSTANTIATE_IMAGE(float, float)
DHVT_INSTANTIATE_IMAGE(Half, float)
DHVT_INSTANTIATE_IMAGE(BFloat16, float)
DHVT_INSTANTIATE_IMAGE(double, double)

}  // namespace dhvt
