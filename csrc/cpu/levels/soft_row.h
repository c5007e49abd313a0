// A row of cells: its pixels, the centres around it, and what its cells add to them.
#pragma once

#include "cpu/levels/soft_pixels.h"
#include "cpu/levels/soft_sums.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// body(cell) for every cell of a row, with its candidates prepared.
template <typename acc, typename Body>
DHVT_HD void for_each_cell(const CellGrid& grid, const Metric<acc>& metric, const CenterRows<acc>& centers,
                           Candidates<acc>& candidates, const CellMajorRow<acc>& pixels, int64_t row,
                           const Body& body) {
  const int64_t height = grid.row_height(row);
  for (int64_t column = 0; column < grid.columns; ++column) {
    if (column % kChunk == 0) candidates.prepare(grid, metric, centers, row, column);
    Cell<acc> cell;
    cell.row = row;
    cell.column = column;
    cell.width = grid.column_width(column);
    cell.count = cell.width * height;
    cell.first = column * grid.cell * height;
    cell.features = pixels.features + cell.first * pixels.channels;
    cell.codes = pixels.whole[column] ? nullptr : pixels.codes + cell.first;
    cell.base = centers.center(row, column) + 1;
    candidates.set(column, cell);
    body(cell);
  }
}

}  // namespace
}  // namespace dhvt::DHVT_LEVEL
