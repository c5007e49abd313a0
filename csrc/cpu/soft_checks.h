// What the soft operators check and read of their arguments.
#pragma once

#include <algorithm>

#include "common.h"
#include "cpu/soft_memory.h"
#include "cpu/soft_rows.h"

namespace dhvt {

// `parallel` in pieces: body(begin, end), which prepares what its tasks use.
template <typename Body>
void parallel_chunks(int64_t n, const Body& body) {
  torch::stable::parallel_for(0, n, 1, body);
}

template <typename acc>
Metric<acc> read_metric(const std::optional<Tensor>& coefficients, double compactness, double temperature,
                        int64_t cell) {
  if (!coefficients.has_value()) return {acc(compactness), acc(temperature), cell};
  const Tensor values = dense(*coefficients);
  return {data<acc>(values)[0], data<acc>(values)[1], cell};
}

// Sizes and dtypes of what describes an assignment; returns the number of cells.
inline int64_t check_clusters(const Tensor& features, const Tensor& centers, const Tensor& positions,
                              const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                              const std::optional<Tensor>& coefficients, int64_t cell) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0, "expected features [B,C,H,W] and a positive cell");
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  const int64_t cells = CellGrid(height, width, cell).cells();
  const ScalarType type = acc_type(features.scalar_type());
  check(centers, "centers [B,L,C]", type, {batch, cells, features.size(1)});
  check(positions, "positions [B,L,2]", type, {batch, cells, 2});
  check(mass, "mass [B,L]", type, {batch, cells});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  return cells;
}

}  // namespace dhvt
