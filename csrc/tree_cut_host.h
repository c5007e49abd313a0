// The cut of least cost through a tree: checks and outputs, shared by every device.
#pragma once

#include <limits>

#include "common.h"
#include "tree_cut.h"

namespace dhvt {

// segment, node, counts, strength, probability.
using Cuts = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// kernel(CutTask of the first image, options, batch).
template <typename Kernel>
Cuts tree_cut_checked(const Tensor& likelihood, const Tensor& penalty, const Tensor& parent, const Tensor& round,
                      const std::string& select, double strength, int64_t max_tokens, int64_t lookahead,
                      double min_gain, double selection_temperature, const Kernel& kernel) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const ScalarType type = likelihood.scalar_type();
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(likelihood, "likelihood [B,V]", type, {batch, nodes});
  check(penalty, "penalty [B,V]", type, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "tree_cut: node numbers must fit int32");
  STD_TORCH_CHECK(select == "optimal" || select == "greedy", "tree_cut: unknown selection ", select);
  STD_TORCH_CHECK(strength >= 0 && strength <= std::numeric_limits<float>::max(),
                  "tree_cut: strength must be a float32 number >= 0");
  const Tensor l = dense(likelihood), q = dense(penalty), p = dense(parent), r = dense(round);
  Tensor segment = empty({batch, leaves}, ScalarType::Int, parent);
  Tensor node = empty({batch, leaves}, ScalarType::Int, parent);
  Tensor counts = empty({batch}, ScalarType::Int, parent);
  Tensor used_strength = empty({batch}, ScalarType::Float, parent);
  Tensor probability = empty({batch, nodes}, type, parent);
  // + 0.0 turns -0 into 0: the bits of a budget's search start there.
  const CutOptions options{select == "greedy",   static_cast<float>(strength) + 0.0f, max_tokens, lookahead, min_gain,
                           selection_temperature};
  dispatch_accumulation(type, "tree_cut", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(CutTask<T>{leaves, nodes, data<T>(l), data<T>(q), data<int32_t>(p), data<int32_t>(r),
                      mutable_data<int32_t>(segment), mutable_data<int32_t>(node), mutable_data<int32_t>(counts),
                      mutable_data<float>(used_strength), mutable_data<T>(probability)},
           options, batch);
  });
  return {segment, node, counts, used_strength, probability};
}

// kernel(CutBackwardTask of the first image, batch).
template <typename Kernel>
std::tuple<Tensor, Tensor> tree_cut_backward_checked(const Tensor& grad_probability, const Tensor& likelihood,
                                                     const Tensor& penalty, const Tensor& parent, const Tensor& round,
                                                     const Tensor& strength, const Kernel& kernel) {
  check(parent, "parent [B,V]", ScalarType::Int, {-1, -1});
  const ScalarType type = likelihood.scalar_type();
  const int64_t batch = parent.size(0), nodes = parent.size(1), leaves = (nodes + 1) / 2;
  check(grad_probability, "grad_probability [B,V]", type, {batch, nodes});
  check(likelihood, "likelihood [B,V]", type, {batch, nodes});
  check(penalty, "penalty [B,V]", type, {batch, nodes});
  check(round, "round [B,V]", ScalarType::Int, {batch, nodes});
  check(strength, "strength [B]", ScalarType::Float, {batch});
  STD_TORCH_CHECK(nodes <= std::numeric_limits<int32_t>::max(), "tree_cut_backward: node numbers must fit int32");
  const Tensor g = dense(grad_probability), l = dense(likelihood), q = dense(penalty), p = dense(parent),
               r = dense(round), s = dense(strength);
  Tensor grad_likelihood = empty({batch, nodes}, type, parent);
  Tensor grad_penalty = empty({batch, nodes}, type, parent);
  dispatch_accumulation(type, "tree_cut_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    kernel(CutBackwardTask<T>{leaves, nodes, data<T>(g), data<T>(l), data<T>(q), data<int32_t>(p), data<int32_t>(r),
                              data<float>(s), mutable_data<T>(grad_likelihood), mutable_data<T>(grad_penalty)},
           batch);
  });
  return {grad_likelihood, grad_penalty};
}

}  // namespace dhvt
