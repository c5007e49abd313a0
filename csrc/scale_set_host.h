// The strengths at which each node of a tree is in the cut of least cost: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "scale_set.h"

namespace dhvt {

// lower and upper [B,V]. kernel(ScaleTask of the first image, batch).
template <typename Kernel>
std::tuple<Tensor, Tensor> scale_set_checked(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent,
                                             const Tensor& round, const Kernel& kernel) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const ScalarType type = likelihood.scalar_type();
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(likelihood, "likelihood [B,V]", type, {batch, nodes});
  check(penalty, "penalty [B,V]", type, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "scale_set: node numbers must fit int32");
  const Tensor l = dense(likelihood), q = dense(penalty), p = dense(parent), r = dense(round);
  Tensor lower = empty({batch, nodes}, ScalarType::Float, parent);
  Tensor upper = empty({batch, nodes}, ScalarType::Float, parent);
  dispatch_accumulation(type, "scale_set", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(ScaleTask<T>{leaves, nodes, data<T>(l), data<T>(q), data<int32_t>(p), data<int32_t>(r),
                        mutable_data<float>(lower), mutable_data<float>(upper)},
           batch);
  });
  return {lower, upper};
}

}  // namespace dhvt
