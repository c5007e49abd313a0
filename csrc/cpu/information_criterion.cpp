// Likelihood and penalty of every node, and the derivative of the likelihood.
#include "information_criterion.h"

#include "common.h"

namespace dhvt {
namespace {

constexpr int64_t kGrain = 512;  // nodes per task: some 10 us of logarithms

Criterion parse_criterion(const std::string& name) {
  if (name == "aic") return Criterion::aic;
  if (name == "aicc") return Criterion::aicc;
  if (name == "bic") return Criterion::bic;
  if (name == "hqc") return Criterion::hqc;
  if (name == "cic") return Criterion::cic;
  if (name == "mdl") return Criterion::mdl;
  STD_TORCH_CHECK(false, "criterion: expected one of aic, aicc, bic, hqc, cic, mdl; found ", name);
}

// One task per group of nodes; a node reads its count, boundary and m2 once and writes two numbers: 16 + 4 C bytes.
template <typename acc>
void evaluate(const Tensor& count, const Tensor& m2, const Tensor& boundary, const Tensor& num_pixels,
              Criterion criterion, double noise, double rho, const Tensor& likelihood, const Tensor& penalty) {
  const int64_t nodes = count.size(1), channels = m2.size(2);
  const int32_t* n = data<int32_t>(count);               // [B,V]
  const acc* q = data<acc>(m2);                          // [B,V,C]
  const int32_t* length = data<int32_t>(boundary);       // [B,V]
  const int32_t* pixels = data<int32_t>(num_pixels);     // [B]
  acc* out_likelihood = mutable_data<acc>(likelihood);   // [B,V]
  acc* out_penalty = mutable_data<acc>(penalty);         // [B,V]
  const double d = 2.0 * static_cast<double>(channels);  // a mean and a variance per channel
  std::vector<double> shared(count.size(0));             // [B]
  for (int64_t b = 0; b < count.size(0); ++b) shared[b] = image_penalty(criterion, d, pixels[b], rho);
  parallel(
      count.size(0) * nodes,
      [&](int64_t v) {
        out_likelihood[v] = static_cast<acc>(node_likelihood(n[v], q + v * channels, channels, noise, rho));
        const bool used = n[v] > 0;
        out_penalty[v] =
            used ? static_cast<acc>(shared[v / nodes] + node_penalty(criterion, d, n[v], length[v], rho)) : acc(0);
      },
      kGrain);
}

std::tuple<Tensor, Tensor> information_criterion(const Tensor& count, const Tensor& m2, const Tensor& boundary,
                                                 const Tensor& num_pixels, std::string criterion, double noise,
                                                 double pixel_correlation) {
  const ScalarType type = m2.scalar_type();
  check(count, "count [B,V]", ScalarType::Int, {-1, -1});
  const int64_t batch = count.size(0), nodes = count.size(1);
  check(m2, "m2 [B,V,C]", type, {batch, nodes, -1});
  check(boundary, "boundary [B,V]", ScalarType::Int, {batch, nodes});
  check(num_pixels, "num_pixels [B]", ScalarType::Int, {batch});
  const Criterion parsed = parse_criterion(criterion);
  Tensor likelihood = empty({batch, nodes}, type, m2), penalty = empty({batch, nodes}, type, m2);
  dispatch_accumulation(type, "information_criterion", [&](auto tag) {
    using acc = typename decltype(tag)::type;
    evaluate<acc>(dense(count), dense(m2), dense(boundary), dense(num_pixels), parsed, noise, pixel_correlation,
                  likelihood, penalty);
  });
  return {likelihood, penalty};
}

// One task per group of nodes: reads and writes m2 once, 8 C bytes per node.
template <typename acc>
void differentiate(const Tensor& grad_likelihood, const Tensor& count, const Tensor& m2, double noise, double rho,
                   const Tensor& grad_m2) {
  const int64_t channels = m2.size(2);
  const acc* grad = data<acc>(grad_likelihood);  // [B,V]
  const int32_t* n = data<int32_t>(count);       // [B,V]
  const acc* q = data<acc>(m2);                  // [B,V,C]
  acc* out = mutable_data<acc>(grad_m2);         // [B,V,C]
  parallel(
      count.size(0) * count.size(1),
      [&](int64_t v) {
        for (int64_t c = v * channels; c < (v + 1) * channels; ++c)
          out[c] = n[v] > 0 && grad[v] != 0  // a node that is not asked stays out, even where its m2 is NaN
                       ? static_cast<acc>(grad[v] * likelihood_gradient(n[v], q[c], noise, rho))
                       : acc(0);
      },
      kGrain);
}

Tensor information_criterion_backward(const Tensor& grad_likelihood, const Tensor& count, const Tensor& m2,
                                      double noise, double pixel_correlation) {
  const ScalarType type = m2.scalar_type();
  check(count, "count [B,V]", ScalarType::Int, {-1, -1});
  const int64_t batch = count.size(0), nodes = count.size(1);
  check(m2, "m2 [B,V,C]", type, {batch, nodes, -1});
  check(grad_likelihood, "grad_likelihood [B,V]", type, {batch, nodes});
  Tensor grad_m2 = empty({batch, nodes, m2.size(2)}, type, m2);
  dispatch_accumulation(type, "information_criterion_backward", [&](auto tag) {
    using acc = typename decltype(tag)::type;
    differentiate<acc>(dense(grad_likelihood), dense(count), dense(m2), noise, pixel_correlation, grad_m2);
  });
  return grad_m2;
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("information_criterion", TORCH_BOX(&dhvt::information_criterion));
  m.impl("information_criterion_backward", TORCH_BOX(&dhvt::information_criterion_backward));
}
