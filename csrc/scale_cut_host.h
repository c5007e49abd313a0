// Cuts of a scale set: checks and outputs, shared by every device.
#pragma once

#include "common.h"
#include "scale_cut.h"

namespace dhvt {

// segment [N,B,L], node [N,B,K], counts [N,B], strength [N,B]. kernel(ScaleCutTask).
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor, Tensor> scale_cut_checked(const Tensor& lower, const Tensor& parent,
                                                             const Tensor& round, const Tensor& strength,
                                                             const Tensor& max_tokens, int64_t num_segments,
                                                             const Kernel& kernel) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(lower, "lower [B,V]", ScalarType::Float, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  check(strength, "strength [N]", ScalarType::Float, {-1});
  const int64_t cuts = strength.size(0);
  check(max_tokens, "max_tokens [N]", ScalarType::Int, {cuts});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "scale_cut: node numbers must fit int32");
  STD_TORCH_CHECK(num_segments >= 0, "scale_cut: num_segments must not be negative");
  const Tensor l = dense(lower), p = dense(parent), r = dense(round), s = dense(strength), m = dense(max_tokens);
  Tensor segment = empty({cuts, batch, leaves}, ScalarType::Int, parent);
  Tensor node = empty({cuts, batch, num_segments}, ScalarType::Int, parent);
  Tensor counts = empty({cuts, batch}, ScalarType::Int, parent);
  Tensor used_strength = empty({cuts, batch}, ScalarType::Float, parent);
  kernel(ScaleCutTask{batch, leaves, nodes, cuts, num_segments, data<float>(l), data<int32_t>(p), data<int32_t>(r),
                      data<float>(s), data<int32_t>(m), mutable_data<int32_t>(segment), mutable_data<int32_t>(node),
                      mutable_data<int32_t>(counts), mutable_data<float>(used_strength)});
  return {segment, node, counts, used_strength};
}

}  // namespace dhvt
