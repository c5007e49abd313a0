// The tiles of images whose rows are contiguous in memory, or that have few channels: lanes are patches of pixels.
#pragma once

#include "cuda/segment_operators.cuh"
#include "cuda/segment_records.cuh"
#include "cuda/segment_shape.cuh"

namespace dhvt {

constexpr int kChunks = kListRecords / 32;  // of sorted records, the most in a list
constexpr int kChannelGroup = 4;            // channels between two barriers

// Lane's record in a chunk of 32 sorted ones, and where its segment begins and ends.
struct ChunkLane {
  Record record;  // no pixels past the last record
  int record_index, slot, begin, end;
  int last;    // the last lane of this segment
  bool heads;  // the first lane of the segment in this chunk
  bool starts, ends_here;

  __device__ ChunkLane(const TileRecords& tile, int chunk, int size) {
    const int at = chunk * 32 + lane(), inside = at < size ? at : size - 1;
    record_index = tile.order[inside];
    record = tile.records[record_index];
    slot = tile.slot(record_index);
    begin = tile.begin[slot];
    end = tile.begin[slot + 1];
    if (at >= size) record.bits = 0;  // these follow the last segment, and add nothing to it
    const int first = begin > chunk * 32 ? begin - chunk * 32 : 0;
    last = (end < chunk * 32 + 32 ? end - chunk * 32 : 32) - 1;
    heads = at < size && lane() == first;
    starts = begin >= chunk * 32;
    ends_here = end <= chunk * 32 + 32;
  }
};

// The state of a segment's lanes in its first one, joined in order.
template <typename State, typename Below, typename Join>
__device__ __forceinline__ void reduce_lanes(State& state, int last, const Below& below, const Join& join) {
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const State later = below(state, lanes);
    if (lane() + lanes <= last) join(state, later);
  }
}

// Segments that go on past the end of a chunk: what each chunk has of them.
template <typename State>
struct Open {
  State begun[kChunks][kChannelGroup], continued[kChunks][kChannelGroup];
};

// Chunk `chunk`'s last segment, if it begins there and goes on: its state of all chunks, in order. on_state(slot,
// state).
template <typename State, typename Join, typename OnState>
__device__ __forceinline__ void join_chunks(const TileRecords& tile, const Open<State>& open, int chunk, int size,
                                            int g, const Join& join, const OnState& on_state) {
  const int next = chunk * 32 + 32;
  if (next >= size) return;
  const int slot = tile.slot(tile.order[next - 1]), begin = tile.begin[slot], end = tile.begin[slot + 1];
  if (begin < chunk * 32 || end <= next) return;
  State state = open.begun[chunk][g];
  for (int c = chunk + 1; c * 32 < end; ++c) join(state, open.continued[c][g]);
  on_state(slot, state);
}

template <typename Operator>
struct TileMemory {
  TileRecords records;
  union {
    Open<typename Operator::State> open;
    Open<ShapeSums> open_shape;
  };
  int32_t counts[Operator::Output::kShape ? kListRecords : 4];  // of a slot
};

// Brings the thread's patch of some channels near, while the labels are looked at.
template <typename T>
__device__ __forceinline__ void prefetch_patches(const ImageView<const T>& view, const TilePlace& place, int64_t first,
                                                 int64_t last) {
  const int64_t y = place.top + threadIdx.x / kPatchesAcross * kPatch;
  const int64_t x = place.left + threadIdx.x % kPatchesAcross * kPatch;
  if (x >= view.width) return;
  for (int64_t c = first; c < last; ++c)
    for (int i = 0; i < kPatch; ++i)
      if (y + i < view.height) prefetch(view.pixel(place.image, y + i, x) + c * view.channel_stride);
}

// A block takes a tile: reads its labels, then its features channel by channel, a record per thread, in sorted order. A
// warp adds up the records of a segment in a fixed tree, so pixels cost the same whatever their segments look like.
// blockIdx.y shares out the channels of small batches. Reads 4 + b C bytes per pixel, and the labels around a tile;
// writes a part per segment and tile.
template <typename Operator>
__global__ void __launch_bounds__(kTileThreads, 6)
    reduce_tiles_kernel(const Operator op, const int32_t* __restrict__ labels /* [B,H,W] */, const Tiling tiling,
                        int64_t num_segments, int64_t channels_each,
                        const Parts<typename Operator::Output::Part> parts) {
  using State = typename Operator::State;
  using scalar_t = typename Operator::scalar;
  using acc = typename Operator::acc;
  auto& memory = *shared_memory<TileMemory<Operator>>();
  TileRecords& records = memory.records;
  const auto& view = op.view;
  const int thread = int(threadIdx.x), warp = thread / 32;
  const int64_t first_channel = blockIdx.y * channels_each;
  const int64_t past_channel =
      first_channel + channels_each < parts.channels ? first_channel + channels_each : parts.channels;
  const bool leads_tile = blockIdx.y == 0;  // writes what is not of a channel
  const bool quads = has_quads(view),
             label_quads =
                 has_quads(ImageView<const int32_t>{labels, 0, 1, tiling.height, tiling.width, 0, 0, tiling.width, 1});
  const auto add_below = [](const State& state, int lanes) { return Operator::below(state, lanes); };
  const auto join = [](State& state, const State& later) { Operator::join(state, later); };
  const auto shape_below = [](const ShapeSums& sums, int lanes) { return sums.below(lanes); };
  const auto join_shape = [](ShapeSums& sums, const ShapeSums& other) { sums.join(other); };

  for (int64_t t = blockIdx.x; t < tiling.batch * tiling.down * tiling.across; t += gridDim.x) {
    __syncthreads();
    const TilePlace place(tiling, t);
    const ImageLabels of_image = labels_of(labels, tiling, place.image, num_segments);
    if (quads)
      prefetch_patches(view, place, first_channel,
                       first_channel + kChannelGroup < view.channels ? first_channel + kChannelGroup : view.channels);
    find_records<Operator::Output::kShape>(of_image, label_quads, place);
    const bool one_list = ListRange::all(records.counts).size <= kListRecords;
    int64_t before = t * parts.capacity;  // parts of the lists before
    for (int l = 0; l < kLists; ++l) {
      ListRange list = one_list ? ListRange::all(records.counts) : ListRange::of_warp(records.counts, l);
      if (one_list && l > 0) list.size = 0;
      int slots = 0;
      if (list.size > 0) {
        slots = find_slots(list, num_segments, leads_tile,
                           {parts.labels + before, parts.held + place.image * num_segments,
                            bit_of_tile(place.down, tiling.down), bit_of_tile(place.across, tiling.across)});
        sort_records(list, slots);
      }
      if (leads_tile && thread == 0) parts.ends[t * kLists + l] = int32_t(before + slots - t * parts.capacity);
      if (list.size == 0) continue;

      if constexpr (Operator::Output::kShape) {
        const auto on_shape = [&](int slot, const ShapeSums& sums) {
          const Shape shape = sums.shape();
          memory.counts[slot] = shape.count();
          if (leads_tile) parts.shapes[before + slot] = shape;
        };
        for (int chunk = warp; chunk * 32 < list.size; chunk += kTileWarps) {
          const ChunkLane at(records, chunk, list.size);
          ShapeSums sums = shape_of(at.record);
          reduce_lanes(sums, at.last, shape_below, join_shape);
          if (!at.heads) continue;
          if (at.starts && at.ends_here)
            on_shape(at.slot, sums);
          else
            (at.starts ? memory.open_shape.begun : memory.open_shape.continued)[chunk][0] = sums;
        }
        __syncthreads();
        if (thread < kChunks) join_chunks(records, memory.open_shape, thread, list.size, 0, join_shape, on_shape);
        __syncthreads();
      }

      for (int64_t c0 = first_channel; c0 < past_channel; c0 += kChannelGroup) {
        const int group = past_channel - c0 < kChannelGroup ? int(past_channel - c0) : kChannelGroup;
        const auto first_of = [&](int slot) {  // the segment's first pixel in the tile
          const Record first = records.records[records.order[records.begin[slot]]];
          const int pixel = __ffs(int(first.pixels())) - 1;
          return view.pixel(place.image, place.top + first.top() + pixel / kPatch,
                            place.left + first.left() + pixel % kPatch);
        };
        const auto shift_from = [&](const scalar_t* first, int64_t c) {
          return Operator::kShift ? static_cast<acc>(first[c * view.channel_stride]) : acc(0);
        };
        const auto on_state = [&](int slot, int64_t c, const State& state, acc shift) {
          int32_t count = 0;
          if constexpr (Operator::Output::kShape) count = memory.counts[slot];
          parts.values[(before + slot) * parts.channels + c] = op.part(state, shift, count);
        };
        for (int chunk = warp; chunk * 32 < list.size; chunk += kTileWarps) {
          const ChunkLane at(records, chunk, list.size);
          const int64_t y = place.top + at.record.top(), x = place.left + at.record.left();
          const uint32_t pixels = at.record.pixels();
          const int64_t first_pixel = y * view.width + x;
          const scalar_t* first = first_of(at.slot);
#pragma unroll 1
          for (int g = 0; g < group; ++g) {
            const int64_t c = c0 + g;
            acc values[kPatch * kPatch];
            if (!Operator::kWeights || c < view.channels) {
              scalar_t loaded[kPatch * kPatch];
              load_patch(view.pixel(place.image, y, x) + c * view.channel_stride, view.row_stride, view.column_stride,
                         quads, pixels, loaded);
#pragma unroll
              for (int i = 0; i < kPatch * kPatch; ++i) values[i] = static_cast<acc>(loaded[i]);
            } else {
#pragma unroll
              for (acc& value : values) value = 1;
            }
            if constexpr (Operator::kWeights)
              if (op.weights) {
                const acc* weights = op.weights + place.image * view.height * view.width + first_pixel;
#pragma unroll
                for (int i = 0; i < kPatch * kPatch; ++i)
                  if (pixels >> i & 1) values[i] *= weights[i / kPatch * view.width + i % kPatch];
              }
            const acc shift = shift_from(first, c);
            State state = op.start();
#pragma unroll
            for (int i = 0; i < kPatch * kPatch; ++i)
              if (pixels >> i & 1)
                op.add(state, values[i], shift, int32_t(first_pixel) + i / kPatch * int32_t(view.width) + i % kPatch);
            reduce_lanes(state, at.last, add_below, join);
            if (!at.heads) continue;
            if (at.starts && at.ends_here)
              on_state(at.slot, c, state, shift);
            else
              (at.starts ? memory.open.begun : memory.open.continued)[chunk][g] = state;
          }
        }
        __syncthreads();
        const int g = thread % kChannelGroup;
        if (thread < kChunks * kChannelGroup && g < group)
          join_chunks(
              records, memory.open, thread / kChannelGroup, list.size, g, join,
              [&](int slot, const State& state) { on_state(slot, c0 + g, state, shift_from(first_of(slot), c0 + g)); });
        __syncthreads();
      }
      before += slots;
      __syncthreads();
    }
  }
}

}  // namespace dhvt
