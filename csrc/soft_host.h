// The soft operators: checks and outputs, shared by every device.
#pragma once

#include "common.h"
#include "soft_assign.h"

namespace dhvt {

// What describes an assignment: the arguments that soft_assign and soft_pool share.
struct SoftClusters {
  const Tensor& features;
  const Tensor &centers, &positions;
  const std::optional<Tensor>&mass, &mask, &coefficients;
  int64_t cell;
  double compactness, temperature;

  ScalarType type() const { return features.scalar_type(); }

  // Sizes and dtypes; returns the number of cells.
  int64_t check_sizes() const {
    STD_TORCH_CHECK(features.dim() == 4 && cell > 0, "expected features [B,C,H,W] and a positive cell");
    const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
    const int64_t cells = CellGrid(height, width, cell).cells();
    const ScalarType acc = acc_type(type());
    check(centers, "centers [B,L,C]", acc, {batch, cells, features.size(1)});
    check(positions, "positions [B,L,2]", acc, {batch, cells, 2});
    check(mass, "mass [B,L]", acc, {batch, cells});
    check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
    check(coefficients, "coefficients [2]", acc, {2});
    return cells;
  }
};

// The gradients that soft_assign and soft_pool share.
struct SoftGradients {
  Tensor features, centers, positions, coefficients;

  explicit SoftGradients(const SoftClusters& in)
      : features(empty_image_like(in.features, in.type())),
        centers(empty({in.centers.size(0), in.centers.size(1), in.centers.size(2)}, acc_type(in.type()), in.features)),
        positions(empty({in.centers.size(0), in.centers.size(1), 2}, acc_type(in.type()), in.features)),
        coefficients(empty({2}, acc_type(in.type()), in.features)) {}
};

// kernel(TypeTag<acc>, assignment [B,9,H,W], labels [B,H,W]).
template <typename Kernel>
std::tuple<Tensor, Tensor> soft_assign_checked(const SoftClusters& in, const Kernel& kernel) {
  in.check_sizes();
  const int64_t batch = in.features.size(0), height = in.features.size(2), width = in.features.size(3);
  Tensor assignment = empty({batch, kCandidates, height, width}, in.type(), in.features);
  Tensor labels = empty({batch, height, width}, ScalarType::Int, in.features);
  dispatch_any_floating(in.type(), "soft_assign", [&](auto tag) { kernel(tag, assignment, labels); });
  return {assignment, labels};
}

// kernel(TypeTag<acc>, gradients).
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward_checked(const Tensor& grad_assignment,
                                                                        const SoftClusters& in, const Kernel& kernel) {
  in.check_sizes();
  check(grad_assignment, "grad_assignment [B,9,H,W]", in.type(),
        {in.features.size(0), kCandidates, in.features.size(2), in.features.size(3)});
  const SoftGradients out(in);
  dispatch_any_floating(in.type(), "soft_assign_backward", [&](auto tag) { kernel(tag, out); });
  return {out.features, out.centers, out.positions, out.coefficients};
}

inline int64_t check_pool(const SoftClusters& in, const Tensor& values) {
  const int64_t cells = in.check_sizes();
  check(values, "values [B,Cv,H,W]", in.type(), {in.features.size(0), -1, in.features.size(2), in.features.size(3)});
  return cells;
}

// kernel(TypeTag<acc>, sums [B,L,Cv], mass [B,L]).
template <typename Kernel>
std::tuple<Tensor, Tensor> soft_pool_checked(const SoftClusters& in, const Tensor& values, const Kernel& kernel) {
  const int64_t cells = check_pool(in, values);
  Tensor sums = empty({values.size(0), cells, values.size(1)}, acc_type(in.type()), in.features);
  Tensor mass = empty({values.size(0), cells}, acc_type(in.type()), in.features);
  dispatch_any_floating(in.type(), "soft_pool", [&](auto tag) { kernel(tag, sums, mass); });
  return {sums, mass};
}

// kernel(TypeTag<acc>, gradients, that of the values, dense grad_sums [B,L,Cv], dense grad_mass [B,L]).
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_pool_backward_checked(const Tensor& grad_sums,
                                                                              const Tensor& grad_mass,
                                                                              const SoftClusters& in,
                                                                              const Tensor& values,
                                                                              const Kernel& kernel) {
  const int64_t cells = check_pool(in, values);
  check(grad_sums, "grad_sums [B,L,Cv]", acc_type(in.type()), {values.size(0), cells, values.size(1)});
  check(grad_mass, "grad_mass [B,L]", acc_type(in.type()), {values.size(0), cells});
  const SoftGradients out(in);
  Tensor grad_values = empty_image_like(values, in.type());
  const Tensor of_sums = dense(grad_sums), of_mass = dense(grad_mass);
  dispatch_any_floating(in.type(), "soft_pool_backward",
                        [&](auto tag) { kernel(tag, out, grad_values, of_sums, of_mass); });
  return {out.features, grad_values, out.centers, out.positions, out.coefficients};
}

// kernel(TypeTag<acc>, centers [I+1,B,L,C], positions [I+1,B,L,2], mass [I+1,B,L], labels [B,H,W]).
template <typename Kernel>
std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cluster_checked(const Tensor& features,
                                                                const std::optional<Tensor>& mask,
                                                                const std::optional<Tensor>& coefficients, int64_t cell,
                                                                int64_t iterations, const Kernel& kernel) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0 && iterations >= 0, "soft_cluster: expected features [B,C,H,W]");
  const int64_t batch = features.size(0), channels = features.size(1), height = features.size(2),
                width = features.size(3), cells = CellGrid(height, width, cell).cells();
  const ScalarType type = acc_type(features.scalar_type());
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  Tensor centers = empty({iterations + 1, batch, cells, channels}, type, features);
  Tensor positions = empty({iterations + 1, batch, cells, 2}, type, features);
  Tensor mass = empty({iterations + 1, batch, cells}, type, features);
  Tensor labels = empty({batch, height, width}, ScalarType::Int, features);
  dispatch_any_floating(features.scalar_type(), "soft_cluster",
                        [&](auto tag) { kernel(tag, centers, positions, mass, labels); });
  return {centers, positions, mass, labels};
}

// States of all iterations and the gradients of the last, dense.
struct ClusterStates {
  Tensor grad_centers, grad_positions, grad_mass, centers, positions, mass;
};

// kernel(TypeTag<acc>, states, grad_features, grad_coefficients).
template <typename Kernel>
std::tuple<Tensor, Tensor> soft_cluster_backward_checked(const ClusterStates& in, const Tensor& features,
                                                         const std::optional<Tensor>& mask,
                                                         const std::optional<Tensor>& coefficients, int64_t cell,
                                                         const Kernel& kernel) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0, "soft_cluster_backward: expected features [B,C,H,W]");
  STD_TORCH_CHECK(in.centers.dim() == 4 && in.centers.size(0) > 0, "centers: expected [I+1,B,L,C]");
  const int64_t batch = features.size(0), channels = features.size(1), height = features.size(2),
                width = features.size(3), cells = CellGrid(height, width, cell).cells(), saved = in.centers.size(0);
  const ScalarType type = acc_type(features.scalar_type());
  check(in.grad_centers, "grad_centers [B,L,C]", type, {batch, cells, channels});
  check(in.grad_positions, "grad_positions [B,L,2]", type, {batch, cells, 2});
  check(in.grad_mass, "grad_mass [B,L]", type, {batch, cells});
  check(in.centers, "centers [I+1,B,L,C]", type, {saved, batch, cells, channels});
  check(in.positions, "positions [I+1,B,L,2]", type, {saved, batch, cells, 2});
  check(in.mass, "mass [I+1,B,L]", type, {saved, batch, cells});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  Tensor grad_features = empty_image_like(features, features.scalar_type());
  Tensor grad_coefficients = empty({2}, type, features);
  const ClusterStates states{dense(in.grad_centers), dense(in.grad_positions), dense(in.grad_mass),
                             dense(in.centers),      dense(in.positions),      dense(in.mass)};
  dispatch_any_floating(features.scalar_type(), "soft_cluster_backward",
                        [&](auto tag) { kernel(tag, states, grad_features, grad_coefficients); });
  return {grad_features, grad_coefficients};
}

}  // namespace dhvt
