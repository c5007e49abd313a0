// The tiles of images with many adjacent channels: lanes are channels.
#pragma once

#include "cuda/segment_operators.cuh"
#include "cuda/segment_shape.cuh"

namespace dhvt {

constexpr int kWidePixels = 64;    // of a tile: 8 x 8, or fewer rows of more
constexpr int kWideThreads = 128;  // the most of a block
constexpr int kAhead = 8;          // pixels that a thread has on the way

struct WideMemory {
  int32_t label[kWidePixels];
  int32_t order[kWidePixels];      // pixels sorted by label, in raster order within; those with no segment at the end
  int32_t begin[kWidePixels + 1];  // of a slot in `order`, and the end
  uint32_t starts[2];              // bits of `order` where a slot begins
  int32_t valid;                   // pixels with a segment
};

// A block takes a tile and, by blockIdx.y, 128 channels: it sorts 64 labels by counting, then each thread walks the
// pixels in this order with a channel of its own. Reads b C + 4 bytes per pixel in whole rows of channels; writes a
// part per segment and tile.
template <typename Operator>
__global__ void __launch_bounds__(kWideThreads)
    reduce_wide_kernel(const Operator op, const int32_t* __restrict__ labels /* [B,H,W] */, const Tiling tiling,
                       int64_t num_segments, const Parts<typename Operator::Output::Part> parts) {
  using State = typename Operator::State;
  using scalar_t = typename Operator::scalar;
  using acc = typename Operator::acc;
  auto& tile = *shared_memory<WideMemory>();
  const auto& view = op.view;
  const int thread = int(threadIdx.x), threads = int(blockDim.x), columns = int(tiling.columns);
  const bool leads_tile = blockIdx.y == 0;  // writes what is not of a channel

  for (int64_t t = blockIdx.x; t < tiling.batch * tiling.down * tiling.across; t += gridDim.x) {
    const TilePlace place(tiling, t);
    const ImageLabels of_image = labels_of(labels, tiling, place.image, num_segments);
    const int64_t base = t * parts.capacity;
    __syncthreads();
    for (int p = thread; p < kWidePixels; p += threads)
      tile.label[p] = of_image.at(place.top + p / columns, place.left + p % columns);
    if (thread < 2) tile.starts[thread] = 0;
    if (thread == 2) tile.valid = 0;
    __syncthreads();
    for (int p = thread; p < kWidePixels; p += threads) {
      const uint32_t own = uint32_t(tile.label[p]);  // no segment is above all
      int rank = 0;
      bool first = true;
      for (int q = 0; q < kWidePixels; ++q) {
        const uint32_t other = uint32_t(tile.label[q]);
        rank += (other < own) | ((other == own) & (q < p));
        first = first & !((other == own) & (q < p));
      }
      tile.order[rank] = p;
      if (tile.label[p] < 0) continue;
      atomicAdd(&tile.valid, 1);
      if (first) set_bit(tile.starts, rank);
    }
    __syncthreads();
    const uint32_t low = tile.starts[0], high = tile.starts[1];
    const int slots = __popc(low) + __popc(high), valid = tile.valid;
    const auto is_start = [&](int i) { return (i < 32 ? low >> i : high >> (i - 32)) & 1; };
    for (int i = thread; i < valid; i += threads) {
      if (!is_start(i)) continue;
      const uint32_t mask = (uint32_t(1) << i % 32) - 1;
      const int slot = i < 32 ? __popc(low & mask) : __popc(low) + __popc(high & mask);
      tile.begin[slot] = i;
      if (!leads_tile) continue;
      const int32_t label = tile.label[tile.order[i]];
      parts.labels[base + slot] = label;
      Held& held = parts.held[place.image * num_segments + label];
      set_bit(held.rows, bit_of_tile(place.down, tiling.down));
      set_bit(held.columns, bit_of_tile(place.across, tiling.across));
    }
    if (thread == 0) tile.begin[slots] = valid;
    if (leads_tile)
      for (int l = thread; l < kLists; l += threads) parts.ends[t * kLists + l] = slots;
    __syncthreads();

    if constexpr (Operator::Output::kShape)
      for (int slot = thread; leads_tile && slot < slots; slot += threads) {
        ShapeSums sums;
        for (int i = tile.begin[slot]; i < tile.begin[slot + 1]; ++i) {
          const int y = tile.order[i] / columns, x = tile.order[i] % columns;
          const int64_t row = place.top + y, column = place.left + x;
          const int32_t own = tile.label[tile.order[i]];
          int boundary = 0;
          for (int side = 0; side < 4; ++side) {
            const int32_t other = of_image.at(row + (side == 0) - (side == 1), column + (side == 2) - (side == 3));
            boundary += other >= 0 && other != own;
          }
          sums.join(shape_of_pixel(y, x, boundary));
        }
        parts.shapes[base + slot] = sums.shape();
      }

    for (int64_t c = int64_t(blockIdx.y) * threads + thread; c < parts.channels; c += int64_t(gridDim.y) * threads) {
      const bool read = c < view.channels;  // else the sum of the weights
      const scalar_t* channel = view.data + place.image * view.batch_stride + c;
      const auto place_of = [&](int i, int64_t& y, int64_t& x) {
        y = place.top + tile.order[i] / columns;
        x = place.left + tile.order[i] % columns;
      };
      State state = op.start();
      acc shift = 0;
      int slot = -1;
      const auto finish = [&] {
        const int32_t count = tile.begin[slot + 1] - tile.begin[slot];
        parts.values[(base + slot) * parts.channels + c] = op.part(state, shift, count);
      };
      for (int i0 = 0; i0 < valid; i0 += kAhead) {
        acc values[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          values[i] = 1;
          if (i0 + i >= valid) continue;
          int64_t y, x;
          place_of(i0 + i, y, x);
          if (read) values[i] = static_cast<acc>(channel[y * view.row_stride + x * view.column_stride]);
          if constexpr (Operator::kWeights)
            if (op.weights) values[i] *= op.weights[(place.image * view.height + y) * view.width + x];
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (i0 + i >= valid) continue;
          if (is_start(i0 + i)) {
            if (slot >= 0) finish();
            ++slot;
            state = op.start();
            shift = values[i];
          }
          int64_t y, x;
          place_of(i0 + i, y, x);
          op.add(state, values[i], shift, int32_t(y * view.width + x));
        }
      }
      if (slot >= 0) finish();
    }
  }
}

}  // namespace dhvt
