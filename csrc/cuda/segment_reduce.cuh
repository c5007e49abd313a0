// Sums over the segments of a label map, of any kind: tiles first, then each segment joins its tiles in fixed order.
#pragma once

#include "cuda/segment_tile.cuh"
#include "cuda/segment_wide.cuh"

namespace dhvt {

constexpr int kParallelParts = 4;  // on the way at a time

// `lanes` (a power of 2 up to 32) threads take a segment, and as many of its channels. Each looks for the
// segment in one tile; what they find is then joined in the order of the tiles, a channel per thread. Reads the parts
// once, and the labels of a tile by halves.
template <typename Output>
__global__ void __launch_bounds__(kThreads)
    join_parts_kernel(const Output out, const Tiling tiling, int64_t num_segments, int lanes,
                      const Parts<typename Output::Part> parts) {
  const int own = int(threadIdx.x) % lanes, first_lane = lane() - own, groups = kThreads / lanes;
  const int64_t segments = tiling.batch * num_segments, rounds = (segments + groups - 1) / groups;
  const int64_t tasks = rounds * max((parts.channels + lanes - 1) / lanes, int64_t(1));
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t s0 = task % rounds * groups, c = task / rounds * lanes + own;
    const bool has_channel = c < parts.channels;
    const int64_t segment = s0 + threadIdx.x / lanes;
    const bool inside = segment < segments;
    const int64_t image = inside ? segment / num_segments : 0;
    const int32_t label = int32_t(segment - image * num_segments);
    const Candidates candidates(inside ? parts.held[segment] : Held{}, tiling, image);
    typename Output::Total total = out.total();
    ShapeTotal shape;
    for (int64_t i0 = 0; __any_sync(kAllLanes, i0 < candidates.count); i0 += lanes) {
      const int64_t tile = i0 + own < candidates.count ? candidates.tile(i0 + own) : -1;
      for (int list = 0; list < kLists; ++list) {
        const int64_t part = tile >= 0 ? parts.find(tile, list, label) : -1;
        unsigned left = __ballot_sync(kAllLanes, part >= 0) >> first_lane;
        if (lanes < 32) left &= (1u << lanes) - 1;
        while (__any_sync(kAllLanes, left != 0)) {
          int64_t at[kParallelParts], of_tile[kParallelParts];
          bool has[kParallelParts];
          typename Output::Part values[kParallelParts];
          Shape shapes[kParallelParts];
#pragma unroll
          for (int u = 0; u < kParallelParts; ++u) {
            has[u] = left != 0;
            const int source = first_lane + (has[u] ? __ffs(int(left)) - 1 : 0);
            left &= left - 1;  // 0 stays
            at[u] = __shfl_sync(kAllLanes, part, source);
            of_tile[u] = __shfl_sync(kAllLanes, tile, source);
            if constexpr (Output::kShape)
              if (has[u]) shapes[u] = parts.shapes[at[u]];
            if (has[u] && has_channel) values[u] = parts.values[at[u] * parts.channels + c];
          }
#pragma unroll
          for (int u = 0; u < kParallelParts; ++u) {
            if (!has[u]) continue;
            int32_t count = 0;
            if constexpr (Output::kShape) count = shapes[u].count();
            if (has_channel) out.take(total, values[u], shape.count, count);
            if constexpr (Output::kShape) shape.take(TilePlace(tiling, of_tile[u]), shapes[u]);
          }
        }
      }
    }
    if (!inside) continue;
    if (has_channel) out.write(segment, c, total);
    if constexpr (Output::kShape)
      if (c == 0) shape.write(out, segment);
  }
}

// Nothing is held yet.
struct ClearHeld {
  Held* held;
  __device__ void operator()(int64_t i) const { held[i] = Held{}; }
};

// The parts of a batch in one allocation.
template <typename Part>
class PartsMemory {
 public:
  PartsMemory(const Tensor& like, const Tiling& tiling, int64_t num_segments, int64_t capacity, int64_t channels,
              bool with_shape) {
    const int64_t segments = tiling.batch * num_segments, slots = tiling.count() * capacity;
    const int64_t held = reserve(segments * sizeof(Held)), values = reserve(slots * channels * sizeof(Part));
    const int64_t shapes = reserve(with_shape ? slots * sizeof(Shape) : 0);
    const int64_t labels = reserve(slots * sizeof(int32_t)), ends = reserve(tiling.count() * kLists * sizeof(int32_t));
    memory_ = empty({size_}, ScalarType::Byte, like);
    auto* bytes = mutable_data<unsigned char>(memory_);
    parts_ = {reinterpret_cast<Held*>(bytes + held),
              reinterpret_cast<int32_t*>(bytes + ends),
              reinterpret_cast<int32_t*>(bytes + labels),
              reinterpret_cast<Part*>(bytes + values),
              reinterpret_cast<Shape*>(bytes + shapes),
              capacity,
              channels};
  }

  const Parts<Part>& parts() const { return parts_; }

 private:
  int64_t reserve(int64_t bytes) {
    const int64_t at = size_;
    size_ += (bytes + 255) / 256 * 256;
    return at;
  }

  int64_t size_ = 0;
  Tensor memory_;
  Parts<Part> parts_{};
};

// Three launches: clears what segments know of their tiles, reduces the tiles, joins them. labels [B,H,W] dense.
template <typename Operator>
void reduce_segments(const Launcher& launch, const Operator& op, const Tensor& labels, int64_t num_segments) {
  using Output = typename Operator::Output;
  const auto& view = op.view;
  const int64_t channels = op.channels(), segments = view.batch * num_segments;
  if (segments == 0) return;
  const bool wide = view.channel_stride == 1 && view.column_stride != 1 && view.channels >= 32;
  int64_t wide_rows = 1;
  while (wide_rows < 8 && wide_rows < view.height) wide_rows *= 2;
  const Tiling tiling =
      wide ? tiling_of(labels, wide_rows, kWidePixels / wide_rows) : tiling_of(labels, kTileRows, kTileColumns);
  // A part holds a pixel at least, and the lists of a tile share its pixels.
  const int64_t pixels = std::min(view.height, int64_t(tiling.rows)) * std::min(view.width, int64_t(tiling.columns));
  const int64_t capacity = std::min(pixels, wide ? num_segments : kLists * num_segments);
  const PartsMemory<typename Output::Part> memory(labels, tiling, num_segments, capacity, channels, Output::kShape);
  const auto& parts = memory.parts();
  const auto shares = [](int64_t all, int64_t each) { return std::max<int64_t>(1, (all + each - 1) / each); };
  for_each(launch, segments, ClearHeld{parts.held});
  const unsigned tiles = blocks_for(tiling.count()).x;
  if (wide) {
    const int64_t threads = std::min<int64_t>(kWideThreads, shares(channels, 32) * 32);
    const dim3 blocks(tiles, unsigned(std::min<int64_t>(shares(channels, threads), 65535)));
    launch(reduce_wide_kernel<Operator>, blocks, dim3(unsigned(threads)), sizeof(WideMemory), op, data<int32_t>(labels),
           tiling, num_segments, parts);
  } else {
    // Enough blocks for a large device, but not so many that the labels cost more than the features.
    const int64_t groups = shares(channels, kChannelGroup),
                  splits = std::min(groups, shares(1024, std::max(1u, tiles)));
    const int64_t each = shares(groups, splits) * kChannelGroup;
    launch(reduce_tiles_kernel<Operator>, dim3(tiles, unsigned(shares(channels, each))), dim3(kTileThreads),
           sizeof(TileMemory<Operator>), op, data<int32_t>(labels), tiling, num_segments, each, parts);
  }
  const int64_t lanes = channels <= 8 ? 8 : 32, groups = kThreads / lanes;
  launch(join_parts_kernel<Output>, blocks_for(shares(segments, groups) * shares(channels, lanes)), dim3(kThreads), 0,
         op.out, tiling, num_segments, int(lanes), parts);
}

}  // namespace dhvt
