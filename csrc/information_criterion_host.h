// The criterion: its names, checks and outputs, shared by every device.
#pragma once

#include <string>

#include "common.h"
#include "information_criterion.h"

namespace dhvt {

inline Criterion parse_criterion(const std::string& name) {
  if (name == "aic") return Criterion::aic;
  if (name == "aicc") return Criterion::aicc;
  if (name == "bic") return Criterion::bic;
  if (name == "hqc") return Criterion::hqc;
  if (name == "cic") return Criterion::cic;
  if (name == "mdl") return Criterion::mdl;
  STD_TORCH_CHECK(false, "criterion: expected one of aic, aicc, bic, hqc, cic, mdl; found ", name);
}

// Of one node after the other. Dense arrays, nodes and channels per image.
template <typename acc>
struct CriterionOfNode {
  const int32_t* count;       // [B,V]
  const acc* m2;              // [B,V,C]
  const int32_t* boundary;    // [B,V]
  const int32_t* num_pixels;  // [B]
  acc* likelihood;            // [B,V]
  acc* penalty;               // [B,V]
  int64_t nodes, channels;
  Criterion criterion;
  double noise, rho;

  // A mean and a variance per channel.
  DHVT_HD double parameters() const { return 2.0 * static_cast<double>(channels); }
  DHVT_HD double of_image(int64_t b) const { return image_penalty(criterion, parameters(), num_pixels[b], rho); }

  DHVT_HD double likelihood_of(int64_t v) const {
    return node_likelihood(count[v], m2 + v * channels, channels, noise, rho);
  }

  // v counts the nodes of all images; of_image is that of the node's image.
  DHVT_HD void operator()(int64_t v, double of_image) const { write(v, likelihood_of(v), of_image); }

  DHVT_HD void write(int64_t v, double of_node, double of_image) const {
    likelihood[v] = static_cast<acc>(of_node);
    const double own = node_penalty(criterion, parameters(), count[v], boundary[v], rho);
    penalty[v] = count[v] > 0 ? static_cast<acc>(of_image + own) : acc(0);
  }
};

template <typename acc>
struct CriterionOfNodeBackward {
  const acc* grad;       // [B,V]
  const int32_t* count;  // [B,V]
  const acc* m2;         // [B,V,C]
  acc* grad_m2;          // [B,V,C]
  int64_t channels;
  double noise, rho;

  DHVT_HD void operator()(int64_t v) const {
    for (int64_t c = v * channels; c < (v + 1) * channels; ++c)
      grad_m2[c] = count[v] > 0 && grad[v] != 0  // a node that is not asked stays out, even where its m2 is NaN
                       ? static_cast<acc>(grad[v] * likelihood_gradient(count[v], m2[c], noise, rho))
                       : acc(0);
  }
};

// run(CriterionOfNode, batch)
template <typename Run>
std::tuple<Tensor, Tensor> information_criterion_checked(const Tensor& count, const Tensor& m2, const Tensor& boundary,
                                                         const Tensor& num_pixels, const std::string& criterion,
                                                         double noise, double pixel_correlation, const Run& run) {
  const ScalarType type = m2.scalar_type();
  check(count, "count [B,V]", ScalarType::Int, {-1, -1});
  const int64_t batch = count.size(0), nodes = count.size(1);
  check(m2, "m2 [B,V,C]", type, {batch, nodes, -1});
  check(boundary, "boundary [B,V]", ScalarType::Int, {batch, nodes});
  check(num_pixels, "num_pixels [B]", ScalarType::Int, {batch});
  const Criterion parsed = parse_criterion(criterion);
  Tensor likelihood = empty({batch, nodes}, type, m2), penalty = empty({batch, nodes}, type, m2);
  const Tensor n = dense(count), q = dense(m2), length = dense(boundary), pixels = dense(num_pixels);
  dispatch_accumulation(type, "information_criterion", [&](auto tag) {
    using acc = typename decltype(tag)::type;
    run(CriterionOfNode<acc>{data<int32_t>(n), data<acc>(q), data<int32_t>(length), data<int32_t>(pixels),
                             mutable_data<acc>(likelihood), mutable_data<acc>(penalty), nodes, m2.size(2), parsed,
                             noise, pixel_correlation},
        batch);
  });
  return {likelihood, penalty};
}

// run(CriterionOfNodeBackward, nodes of all images)
template <typename Run>
Tensor information_criterion_backward_checked(const Tensor& grad_likelihood, const Tensor& count, const Tensor& m2,
                                              double noise, double pixel_correlation, const Run& run) {
  const ScalarType type = m2.scalar_type();
  check(count, "count [B,V]", ScalarType::Int, {-1, -1});
  const int64_t batch = count.size(0), nodes = count.size(1);
  check(m2, "m2 [B,V,C]", type, {batch, nodes, -1});
  check(grad_likelihood, "grad_likelihood [B,V]", type, {batch, nodes});
  Tensor grad_m2 = empty({batch, nodes, m2.size(2)}, type, m2);
  const Tensor grad = dense(grad_likelihood), n = dense(count), q = dense(m2);
  dispatch_accumulation(type, "information_criterion_backward", [&](auto tag) {
    using acc = typename decltype(tag)::type;
    run(CriterionOfNodeBackward<acc>{data<acc>(grad), data<int32_t>(n), data<acc>(q), mutable_data<acc>(grad_m2),
                                     m2.size(2), noise, pixel_correlation},
        batch * nodes);
  });
  return grad_m2;
}

}  // namespace dhvt
