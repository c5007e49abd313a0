// Sums over the segments of a label map, of any kind: tiles first, then each segment joins its tiles in fixed order.
#pragma once

#include "cuda/segment_tile.cuh"
#include "cuda/segment_wide.cuh"

namespace dhvt {

constexpr int kParallelParts = 4;  // on the way at a time

// kLanes threads take a segment, and kLanes x kEach of its channels by blockIdx.y. Each looks for the segment in one
// tile; what they find is then joined in the order of the tiles, a channel per thread. Reads the parts once.
template <typename Operator, int kLanes, int kEach>
__global__ void __launch_bounds__(kThreads)
    join_parts_kernel(const Operator op, const Tiling tiling, int64_t num_segments,
                      const Parts<typename Operator::Part> parts) {
  constexpr int kGroups = kThreads / kLanes;
  const int group_lane = int(threadIdx.x) % kLanes, group_first = lane() / kLanes * kLanes;
  const int64_t segments = tiling.batch * num_segments, first_channel = int64_t(blockIdx.y) * kLanes * kEach;
  const bool leads_segment = blockIdx.y == 0 && group_lane == 0;
  for (int64_t s0 = int64_t(blockIdx.x) * kGroups; s0 < segments; s0 += int64_t(gridDim.x) * kGroups) {
    const int64_t segment = s0 + threadIdx.x / kLanes;
    const bool inside = segment < segments;
    const int64_t image = inside ? segment / num_segments : 0;
    const int32_t label = int32_t(segment - image * num_segments);
    const Candidates candidates(inside ? parts.held[segment] : Held{}, tiling, image);
    typename Operator::Total totals[kEach];
    for (auto& total : totals) total = op.total();
    ShapeTotal shape;
    for (int64_t i0 = 0; __any_sync(kAllLanes, i0 < candidates.count); i0 += kLanes) {
      const int64_t candidate = i0 + group_lane;
      const int64_t tile = candidate < candidates.count ? candidates.tile(candidate) : -1;
      for (int list = 0; list < kLists; ++list) {
        const int64_t part = tile >= 0 ? parts.find(tile, list, label) : -1;
        const unsigned found = __ballot_sync(kAllLanes, part >= 0) >> group_first;
        uint32_t left = kLanes == 32 ? found : found & ((1u << kLanes) - 1);
        while (__any_sync(kAllLanes, left != 0)) {
          int64_t at[kParallelParts], of_tile[kParallelParts];
          bool has[kParallelParts];
#pragma unroll
          for (int u = 0; u < kParallelParts; ++u) {
            has[u] = left != 0;
            const int source = group_first + (has[u] ? __ffs(int(left)) - 1 : 0);
            at[u] = __shfl_sync(kAllLanes, part, source);
            of_tile[u] = __shfl_sync(kAllLanes, tile, source);
            left &= left - (has[u] ? 1 : 0);
          }
          typename Operator::Part values[kParallelParts][kEach];
          Shape shapes[kParallelParts];
#pragma unroll
          for (int u = 0; u < kParallelParts; ++u) {
            if (!has[u]) continue;
            if constexpr (Operator::kShape) shapes[u] = parts.shapes[at[u]];
#pragma unroll
            for (int e = 0; e < kEach; ++e) {
              const int64_t c = first_channel + e * kLanes + group_lane;
              if (c < parts.channels) values[u][e] = parts.values[at[u] * parts.channels + c];
            }
          }
#pragma unroll
          for (int u = 0; u < kParallelParts; ++u) {
            if (!has[u]) continue;
            int32_t count = 0;
            if constexpr (Operator::kShape) count = shapes[u].count();
#pragma unroll
            for (int e = 0; e < kEach; ++e)
              if (first_channel + e * kLanes + group_lane < parts.channels)
                op.take(totals[e], values[u][e], shape.count, count);
            if constexpr (Operator::kShape) shape.take(TilePlace(tiling, of_tile[u]), shapes[u]);
          }
        }
      }
    }
    if (!inside) continue;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t c = first_channel + e * kLanes + group_lane;
      if (c < parts.channels) op.write(segment, c, totals[e]);
    }
    if constexpr (Operator::kShape)
      if (leads_segment) shape.write(op, segment);
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
  const auto& view = op.view;
  const int64_t channels = op.channels(), segments = view.batch * num_segments;
  if (segments == 0) return;
  const bool wide = view.channel_stride == 1 && view.column_stride != 1 && view.channels >= 32;
  int64_t wide_rows = 1;
  while (wide_rows < 8 && wide_rows < view.height) wide_rows *= 2;
  const Tiling tiling =
      wide ? tiling_of(labels, wide_rows, kWidePixels / wide_rows) : tiling_of(labels, kTileRows, kTileColumns);
  const int64_t capacity =
      wide ? std::min<int64_t>(num_segments, kWidePixels) : kLists * std::min<int64_t>(num_segments, kListRecords);
  const PartsMemory<typename Operator::Part> memory(labels, tiling, num_segments, capacity, channels, Operator::kShape);
  const auto& parts = memory.parts();
  const auto shares = [](int64_t all, int64_t each) { return std::max<int64_t>(1, (all + each - 1) / each); };
  for_each(launch, segments, ClearHeld{parts.held});
  const unsigned tiles = blocks_for(tiling.count()).x;
  if (wide) {
    const int64_t threads = std::min<int64_t>(kWideThreads, shares(view.channels, 32) * 32);
    const dim3 blocks(tiles, unsigned(std::min<int64_t>(shares(view.channels, threads), 65535)));
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
  const auto join = [&](auto kernel, int64_t lanes, int64_t each) {
    const int64_t groups = kThreads / lanes;
    const dim3 blocks(blocks_for((segments + groups - 1) / groups).x, unsigned(shares(channels, each)));
    launch(kernel, blocks, dim3(kThreads), 0, op, tiling, num_segments, parts);
  };
  if (channels <= 8)
    join(join_parts_kernel<Operator, 8, 1>, 8, 8);
  else
    join(join_parts_kernel<Operator, 32, 4>, 32, 128);
}

}  // namespace dhvt
