// Count, places, box and boundary of the segments of a tile and of an image: whole numbers, in any order.
#pragma once

#include "cuda/segment_parts.cuh"
#include "cuda/segment_records.cuh"

namespace dhvt {

// Of some pixels of a segment in a tile. Rows and columns of the tile are bits.
struct ShapeSums {
  uint32_t count_and_boundary = 0, sum_y = 0, sum_x = 0, rows = 0, columns[2] = {};

  __device__ __forceinline__ void join(const ShapeSums& other) {
    count_and_boundary += other.count_and_boundary;
    sum_y += other.sum_y;
    sum_x += other.sum_x;
    rows |= other.rows;
    columns[0] |= other.columns[0];
    columns[1] |= other.columns[1];
  }

  __device__ __forceinline__ ShapeSums below(int lanes) const {
    const auto from = [&](uint32_t v) { return __shfl_down_sync(kAllLanes, v, lanes); };
    return {from(count_and_boundary), from(sum_y), from(sum_x), from(rows), {from(columns[0]), from(columns[1])}};
  }

  __device__ __forceinline__ Shape shape() const {
    const int left = columns[0] ? __ffs(int(columns[0])) - 1 : 31 + __ffs(int(columns[1]));
    const int right = columns[1] ? 63 - __clz(int(columns[1])) : 31 - __clz(int(columns[0]));
    const int top = __ffs(int(rows)) - 1, bottom = 31 - __clz(int(rows));
    return {count_and_boundary, sum_y, sum_x,
            uint32_t(top) | uint32_t(left) << 8 | uint32_t(bottom) << 16 | uint32_t(right) << 24};
  }
};

__device__ __forceinline__ ShapeSums shape_of(const Record& record) {
  const uint32_t pixels = record.pixels(), count = uint32_t(__popc(pixels));
  const uint32_t top = uint32_t(record.top()), left = uint32_t(record.left());
  ShapeSums out;
  out.count_and_boundary = count | uint32_t(record.boundary()) << 12;
  out.sum_y = count * top + uint32_t(__popc(pixels & 0xf0f0) + 2 * __popc(pixels & 0xff00));
  out.sum_x = count * left + uint32_t(__popc(pixels & 0xaaaa) + 2 * __popc(pixels & 0xcccc));
  for (int i = 0; i < kPatch; ++i) {
    const uint32_t row = pixels >> i * kPatch & 0xf;
    out.rows |= uint32_t(row != 0) << (top + i);
    out.columns[0] |= left < 32 ? row << left : 0;
    out.columns[1] |= left < 32 ? 0 : row << (left - 32);
  }
  return out;
}

// One pixel of a tile.
__device__ __forceinline__ ShapeSums shape_of_pixel(int y, int x, int boundary) {
  ShapeSums out;
  out.count_and_boundary = 1 | uint32_t(boundary) << 12;
  out.sum_y = uint32_t(y);
  out.sum_x = uint32_t(x);
  out.rows = uint32_t(1) << y;
  out.columns[0] = x < 32 ? uint32_t(1) << x : 0;
  out.columns[1] = x < 32 ? 0 : uint32_t(1) << (x - 32);
  return out;
}

// Of a segment, in pixels of the image.
struct ShapeTotal {
  int64_t sum_y = 0, sum_x = 0;
  int32_t count = 0, boundary = 0;
  int32_t box[4] = {0, 0, -1, -1};

  __device__ void take(const TilePlace& place, const Shape& part) {
    const int32_t origin[2] = {int32_t(place.top), int32_t(place.left)};
    for (int d = 0; d < 2; ++d) {
      const int32_t first = origin[d] + part.side(d), last = origin[d] + part.side(d + 2);
      box[d] = count == 0 || first < box[d] ? first : box[d];
      box[d + 2] = last > box[d + 2] ? last : box[d + 2];
    }
    sum_y += place.top * part.count() + part.sum_y;
    sum_x += place.left * part.count() + part.sum_x;
    count += part.count();
    boundary += part.boundary();
  }

  template <typename Operator>
  __device__ void write(const Operator& to, int64_t segment) const {
    using acc = typename Operator::acc;
    const double n = count > 1 ? count : 1;
    to.count[segment] = count;
    to.centroid[2 * segment] = static_cast<acc>(static_cast<double>(sum_y) / n);
    to.centroid[2 * segment + 1] = static_cast<acc>(static_cast<double>(sum_x) / n);
    for (int d = 0; d < 4; ++d) to.box[4 * segment + d] = box[d];
    to.boundary[segment] = boundary;
  }
};

}  // namespace dhvt
