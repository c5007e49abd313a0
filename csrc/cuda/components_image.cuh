// Connected components: what the kernels share about an image. Indices of pixels are those within their image.
#pragma once

#include "connected_components.h"
#include "cuda/forest.cuh"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

namespace dhvt {

constexpr int kTileRows = int(kStripRows), kTileColumns = 256;

// What counts something per image.
enum Counter { kFragments, kBoundary, kCrossing, kCounters };

// `head` of a component whose mean nobody asks for, and that of one without pixels in its list.
constexpr int32_t kNotNeeded = -2, kEmptyList = -1;

// An image, or a batch of them one after the other. Pixels form parts of tiles, those form parts of strips, and those
// form components; each is known by its first pixel in raster order, its root, and what belongs to it lies there in the
// arrays [H,W]: most of their memory is never touched. Bits are in rows of whole words.
struct ComponentImages {
  int32_t height, width, words;
  int32_t table_size;  // a power of two, >= H W
  int32_t channels;
  int64_t most_crossing, min_size;
  bool largest_only;

  const int32_t* labels;  // [H,W]
  int32_t* tile_root;     // [H,W] of each pixel, -1 = no segment; in the end, the result
  int32_t* strip_root;    // [H,W] of a tile's part; null where a tile has all columns, and it is the tile's
  int32_t* component;     // [H,W] of a tile's part
  int32_t* number;        // [H,W] of a component that is kept: the result's id; shares its place with size
  uint32_t* tile_bits;    // [H,words] roots of tiles' parts
  uint32_t* bits;         // [H,words] roots of components
  int32_t* counters;      // [kCounters]
  int32_t* counts;        // [1]

  // Only where there may be fragments.
  int32_t* size;       // [H,W] of a tile's part, then of a component
  int32_t* leaf;       // [H,W] component that one belongs to in the end; negative = not known yet
  int32_t* head;       // [H,W] first pixel of a fragment's list
  int32_t* next;       // [H,W] in the list of a fragment's pixels that touch another component
  int32_t* boundary;   // [H W] all such pixels
  int32_t* queue;      // [H W] fragments in the order in which they join
  int32_t* low;        // [H,W] least column where a run of a strip's part begins; later, piece of a fragment
  int32_t* high;       // [H,W] largest such column; later, what a piece keeps
  uint32_t* kept;      // [H,words] components that are kept
  int32_t* table;      // [table_size] largest component of each label, -1 = empty
  uint32_t* starts;    // [H,words] where runs begin, those without a segment, too
  double* sums;        // [H,W,C] of the run, the strip's part, and the component that begin there
  uint64_t* crossing;  // [most_crossing] (component, strip's part) where these differ and the sum is needed

  __device__ __forceinline__ int32_t pixels() const { return height * width; }
  __device__ __forceinline__ int32_t strip_of(int32_t tile_root) const {
    return strip_root ? strip_root[tile_root] : tile_root;
  }
  __device__ __forceinline__ int32_t component_of(int32_t pixel) const {
    const int32_t root = tile_root[pixel];
    return root < 0 ? -1 : component[root];
  }

  // body(component) for each neighbour of a pixel that has one.
  template <typename Body>
  __device__ __forceinline__ void for_neighbors(int32_t pixel, const Body& body) const {
    const int32_t x = pixel % width;
    const auto visit = [&](int32_t other) {
      const int32_t c = component_of(other);
      if (c >= 0) body(c);
    };
    if (pixel >= width) visit(pixel - width);
    if (x > 0) visit(pixel - 1);
    if (x + 1 < width) visit(pixel + 1);
    if (pixel + width < pixels()) visit(pixel + width);
  }

  // body(pixel) for each bit of word i of a map of bits.
  template <typename Body>
  __device__ __forceinline__ void for_bits(const uint32_t* map, int32_t i, const Body& body) const {
    const int32_t first = i / words * width + i % words * 32;
    for (uint32_t set = map[i]; set; set &= set - 1) body(first + __ffs(int(set)) - 1);
  }

  // Image b of the batch.
  __device__ __forceinline__ ComponentImages of(int64_t b) const {
    ComponentImages out = *this;
    const int64_t pixel = b * pixels(), word = b * height * words;
    out.labels += pixel, out.tile_root += pixel, out.component += pixel, out.number += pixel;
    if (strip_root) out.strip_root += pixel;
    out.tile_bits += word, out.bits += word, out.counters += b * kCounters, out.counts += b;
    if (size) {
      out.size += pixel, out.leaf += pixel, out.head += pixel, out.next += pixel, out.boundary += pixel;
      out.queue += pixel, out.low += pixel, out.high += pixel, out.kept += word;
    }
    if (largest_only) out.table += b * table_size;
    if (channels > 0) out.starts += word, out.sums += pixel * channels, out.crossing += b * most_crossing;
    return out;
  }
};

}  // namespace dhvt
