// What the soft operators on the CPU share.
#pragma once

#include <algorithm>

#include "cpu/soft_memory.h"
#include "cpu/soft_rows.h"
#include "soft_host.h"

namespace dhvt {

// `parallel` in pieces: body(begin, end), which prepares what its tasks use.
template <typename Body>
void parallel_chunks(int64_t n, const Body& body) {
  torch::stable::parallel_for(0, n, 1, body);
}

// out [2] = the sum of pairs.
template <typename acc>
void add_pairs(const acc* pairs, int64_t count, const Tensor& out) {
  acc sum[2] = {};
  for (int64_t i = 0; i < count * 2; ++i) sum[i % 2] += pairs[i];
  std::copy_n(sum, 2, mutable_data<acc>(out));
}

template <typename acc>
Metric<acc> read_metric(const std::optional<Tensor>& coefficients, double compactness, double temperature,
                        int64_t cell) {
  if (!coefficients.has_value()) return {acc(compactness), acc(temperature), cell};
  const Tensor values = dense(*coefficients);
  return {data<acc>(values)[0], data<acc>(values)[1], cell};
}

}  // namespace dhvt
