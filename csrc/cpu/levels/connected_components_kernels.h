// Connected components: what is compiled per level, strips of kStripRows rows and single rows.
#pragma once

#include "cpu/level.h"
#include "image.h"

namespace dhvt {

// A strip of an image: its runs, and the parts (components of the strip alone) that they belong to.
struct Strip {
  uint64_t* starts;    // [rows,words] a bit for every pixel that begins a run
  int32_t* row_begin;  // [rows + 1] into runs
  int32_t* begin;      // [runs] first column; each row ends with a sentinel, the width, so a run ends at the next begin
  int32_t* part;       // [runs] part, -1 = no segment
  int32_t* size;       // [parts]; the entry before the first takes what is written for runs without a segment
  int32_t* first;      // [parts] first pixel in raster order, from the strip's first
  int32_t num_parts;
  int32_t first_part;  // of the image
};

// What writes past the end of an array of runs.
constexpr int64_t kRunPadding = 16;

// Neighbours are looked up among as many pairs before they become edges once more.
constexpr int kSeenBits = 10;

// A fragment and a component that it touches.
struct FragmentEdge {
  int32_t fragment, neighbor;
};

// Runs and parts of a strip. labels [rows,W].
DHVT_PER_LEVEL(void label_strip(const int32_t* labels, int64_t rows, int32_t width, Strip& strip);

               // Joins the parts of two strips, the lower of which begins with row `labels` of the image.
               void join_strips(const int32_t* labels, int32_t width, const Strip& upper, int64_t upper_rows,
                                const Strip& lower, int32_t* parent);

               // Writes the edges of the fragments of a row to that row and to the one above, at most 6 W; returns how
               // many. node [parts of the image]: component * 2 + (1 for a fragment). row [W] becomes the nodes of the
               // row, `above` is that of the row above, or null; seen [2^kSeenBits] pairs that have their edges.
               int64_t find_edges(const int32_t* node, const Strip& strip, int64_t y, int32_t width,
                                  const uint64_t* above_starts, int32_t* values, const int32_t* above, int32_t* row,
                                  uint64_t* seen, FragmentEdge* edges);

               // Feature sums of the parts of a strip: each run from its own zero, runs in raster order. slot [parts of
               // the image] row of sums [slots,C], -1 = not needed; runs [W] scratch.
               template <typename scalar_t>
               void sum_strip(const ImageView<const scalar_t>& features, int64_t b, int64_t top, int64_t rows,
                              const Strip& strip, const int32_t* slot, int32_t* runs, double* sums);

               // out [rows,W] = value [parts of the image] of the pixel's part, -1 without one. values [W +
               // kRunPadding] is scratch.
               void write_strip(const Strip& strip, int64_t rows, int32_t width, const int32_t* value, int32_t* values,
                                int32_t* out);)

}  // namespace dhvt
