// Soft assignment at given centres, with the assignment itself as output.
#include "soft_tile.h"

namespace dhvt {
namespace {

// One task per row of cells. Reads the features once, writes 9 shares and a label per pixel.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void assign(const Tensor& features, const Tensor& centers, const Tensor& positions, const std::optional<Tensor>& mass,
            const std::optional<Tensor>& mask, const Metric<acc>& metric, int64_t cell, const Tensor& assignment,
            const Tensor& labels) {
  const auto view = image_view<scalar_t>(features);
  const auto out = mutable_image_view<scalar_t>(assignment);
  const CellGrid grid(view.height, view.width, cell);
  const int64_t cells = grid.cells(), pixels = view.height * view.width, channels = view.channels;
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const CenterView<acc> center{data<acc>(centers) + b * cells * channels, data<acc>(positions) + b * cells * 2,
                                 mass ? data<acc>(mass) + b * cells : nullptr, channels};
    const bool* inside = mask ? data<bool>(mask) + b * pixels : nullptr;
    int32_t* label = mutable_data<int32_t>(labels) + b * pixels;
    Candidates<acc> candidates(channels);
    Tile<acc> tile(candidates.dims);
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(center, grid, row, column, metric);
      for_each_tile(grid, row, column, inside, tile, [&] {
        load_tile(view, b, candidates, tile);
        score_tile(candidates, tile);
        label_tile(candidates, grid, row * grid.columns + column, tile, label);
        softmax(candidates, metric, tile);
        store_planes(out, b, tile, tile.weight[0]);
      });
    }
  });
}

std::tuple<Tensor, Tensor> soft_assign(const Tensor& features, const Tensor& centers, const Tensor& positions,
                                       const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                       double temperature) {
  check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
  Tensor assignment = empty({batch, kCandidates, height, width}, features.scalar_type(), features);
  Tensor labels = empty({batch, height, width}, ScalarType::Int, features);
  dispatch_floating(features.scalar_type(), "soft_assign", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto metric = read_metric<acc_t<scalar_t>>(coefficients, compactness, temperature, cell);
    assign<scalar_t>(features, dense(centers), dense(positions), dense(mass), dense(mask), metric, cell, assignment,
                     labels);
  });
  return {assignment, labels};
}

// One task per row of cells: recomputes the assignment; then one task per row of centres gathers their gradients.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void assign_backward(const Tensor& grad_assignment, const Tensor& features, const Tensor& centers,
                     const Tensor& positions, const std::optional<Tensor>& mass, const std::optional<Tensor>& mask,
                     const Metric<acc>& metric, int64_t cell, const Tensor& grad_features, const Tensor& grad_centers,
                     const Tensor& grad_positions, const Tensor& grad_coefficients) {
  const auto view = image_view<scalar_t>(features), upstream = image_view<scalar_t>(grad_assignment);
  const auto out = mutable_image_view<scalar_t>(grad_features);
  const CellGrid grid(view.height, view.width, cell);
  const int64_t cells = grid.cells(), pixels = view.height * view.width, channels = view.channels;
  const int64_t width = channels + 2, tasks = view.batch * grid.rows;
  const Scratch<acc> partial(view.batch * cells * kCandidates * width);
  std::vector<acc> coefficient(tasks * 2);
  parallel(tasks, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const CenterView<acc> center{data<acc>(centers) + b * cells * channels, data<acc>(positions) + b * cells * 2,
                                 mass ? data<acc>(mass) + b * cells : nullptr, channels};
    const bool* inside = mask ? data<bool>(mask) + b * pixels : nullptr;
    Candidates<acc> candidates(channels);
    const int64_t dims = candidates.dims;
    Tile<acc> tile(dims);
    CellSums<acc> sums(dims);
    const Scratch<acc> grad_planes(channels * kLanes), totals(kCandidates * dims);
    alignas(64) Rows<acc> grad;
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(center, grid, row, column, metric);
      sums.clear();
      for_each_tile(grid, row, column, inside, tile, [&] {
        load_tile(view, b, candidates, tile);
        assign_tile(candidates, metric, tile);
        load_planes<scalar_t, acc>(upstream, b, tile, grad[0]);
        // A share that is 0 by definition has no gradient, not even 0 * infinity.
        clear_unused<acc>(tile, kCandidates, grad[0]);
        for (int k = 0; k < kCandidates; ++k)
          if (candidates.index[k] < 0) std::fill_n(grad[k], kLanes, acc(0));
        std::fill_n(+grad_planes, channels * kLanes, acc(0));
        assign_backward<acc>(candidates, metric, tile, grad, grad_planes, sums);
        store_planes<scalar_t, acc>(out, b, tile, grad_planes);
      });
      const int64_t own = b * cells + row * grid.columns + column;
      center_gradient<acc>(candidates, metric, sums, totals, partial + own * kCandidates * width,
                           &coefficient[task * 2]);
    }
  });
  parallel(tasks, [&](int64_t task) {
    const int64_t b = task / grid.rows;
    const acc* own = partial + b * cells * kCandidates * width;
    gather_centers(grid, own, width, task % grid.rows, [&](int64_t j, const acc* sum) {
      std::copy_n(sum, channels, mutable_data<acc>(grad_centers) + (b * cells + j) * channels);
      std::copy_n(sum + channels, 2, mutable_data<acc>(grad_positions) + (b * cells + j) * 2);
    });
  });
  acc* total = mutable_data<acc>(grad_coefficients);
  for (size_t i = 0; i < coefficient.size(); ++i) total[i % 2] += coefficient[i];
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_assign_backward(const Tensor& grad_assignment, const Tensor& features,
                                                                const Tensor& centers, const Tensor& positions,
                                                                const std::optional<Tensor>& mass,
                                                                const std::optional<Tensor>& mask,
                                                                const std::optional<Tensor>& coefficients, int64_t cell,
                                                                double compactness, double temperature) {
  check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  const ScalarType type = features.scalar_type();
  check(grad_assignment, "grad_assignment [B,9,H,W]", type,
        {features.size(0), kCandidates, features.size(2), features.size(3)});
  Tensor grad_features = empty_image_like(features, type);
  Tensor grad_centers = empty({centers.size(0), centers.size(1), centers.size(2)}, acc_type(type), features);
  Tensor grad_positions = empty({centers.size(0), centers.size(1), 2}, acc_type(type), features);
  Tensor grad_coefficients = zeros({2}, acc_type(type), features);
  dispatch_floating(type, "soft_assign_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto metric = read_metric<acc_t<scalar_t>>(coefficients, compactness, temperature, cell);
    assign_backward<scalar_t>(grad_assignment, features, dense(centers), dense(positions), dense(mass), dense(mask),
                              metric, cell, grad_features, grad_centers, grad_positions, grad_coefficients);
  });
  return {grad_features, grad_centers, grad_positions, grad_coefficients};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_assign", TORCH_BOX(&dhvt::soft_assign));
  m.impl("soft_assign_backward", TORCH_BOX(&dhvt::soft_assign_backward));
}
