// Pooling of any values with the soft assignment, without ever storing it.
#include "soft_tile.h"

namespace dhvt {
namespace {

// What forward and backward read besides the pixels.
template <typename acc>
struct Clusters {
  const acc *centers, *positions, *mass;
  const bool* mask;
  int64_t cells, channels, pixels;

  CenterView<acc> view(int64_t b) const {
    return {centers + b * cells * channels, positions + b * cells * 2, mass + b * cells, channels};
  }
  const bool* inside(int64_t b) const { return mask ? mask + b * pixels : nullptr; }
};

// (1, values) of a tile's pixels, 0 where they do not take part: planes [1+Cv,64].
template <typename scalar_t, typename acc>
void load_values(const ImageView<const scalar_t>& view, int64_t b, const Tile<acc>& tile, acc* planes) {
  std::copy_n(+tile.planes, tile.padded, planes);
  load_planes(view, b, tile, planes + kLanes);
  clear_unused(tile, view.channels, planes + kLanes);
}

// One task per row of cells for the partial sums [L,9,1+Cv], one per row of centres to gather them. Reads features and
// values once.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void pool(const Tensor& features, const Tensor& values, const Clusters<acc>& clusters, const Metric<acc>& metric,
          int64_t cell, acc* out_sums, acc* out_mass) {
  const auto view = image_view<scalar_t>(features), value = image_view<scalar_t>(values);
  const CellGrid grid(view.height, view.width, cell);
  const int64_t cells = grid.cells(), channels = view.channels, width = value.channels + 1;
  const Scratch<acc> partial(view.batch * cells * kCandidates * width);
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    Candidates<acc> candidates(channels);
    Tile<acc> tile(candidates.dims);
    CellSums<acc> sums(width);
    const Scratch<acc> planes(width * kLanes);
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(clusters.view(b), grid, row, column, metric);
      sums.clear();
      for_each_tile(grid, row, column, clusters.inside(b), tile, [&] {
        load_tile(view, b, candidates, tile);
        assign_tile(candidates, metric, tile);
        load_values<scalar_t, acc>(value, b, tile, planes);
        sums.add(tile.weight, planes, tile.padded);
      });
      sums.total(partial + (b * cells + row * grid.columns + column) * kCandidates * width);
    }
  });
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows;
    const acc* own = partial + b * cells * kCandidates * width;
    gather_centers(grid, own, width, task % grid.rows, [&](int64_t j, const acc* sum) {
      out_mass[b * cells + j] = sum[0];
      std::copy_n(sum + 1, value.channels, out_sums + (b * cells + j) * value.channels);
    });
  });
}

// One task per row of cells: d loss / d a_ij = grad_sums_j . v_i + grad_mass_j, then the backward of the assignment.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void pool_backward(const Tensor& grad_sums, const Tensor& grad_mass, const Tensor& features, const Tensor& values,
                   const Clusters<acc>& clusters, const Metric<acc>& metric, int64_t cell, const Tensor& grad_features,
                   const Tensor& grad_values, acc* grad_centers, acc* grad_positions, acc* grad_coefficients) {
  const auto view = image_view<scalar_t>(features), value = image_view<scalar_t>(values);
  const auto out = mutable_image_view<scalar_t>(grad_features), out_value = mutable_image_view<scalar_t>(grad_values);
  const CellGrid grid(view.height, view.width, cell);
  const int64_t cells = grid.cells(), channels = view.channels, width = channels + 2, tasks = view.batch * grid.rows;
  const int64_t values_width = value.channels + 1;
  const Scratch<acc> partial(view.batch * cells * kCandidates * width);
  std::vector<acc> coefficient(tasks * 2);
  parallel(tasks, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    Candidates<acc> candidates(channels);
    const int64_t dims = candidates.dims;
    Tile<acc> tile(dims);
    CellSums<acc> sums(dims);
    const Scratch<acc> planes(values_width * kLanes), grad_planes(std::max(channels, value.channels) * kLanes);
    const Scratch<acc> totals(kCandidates * dims);
    const Scratch<acc> vectors(values_width * kCandidates);  // [1+Cv,9] d loss / d a_ij = vectors . (1, v_i)
    alignas(64) Rows<acc> grad;
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(clusters.view(b), grid, row, column, metric);
      for (int k = 0; k < kCandidates; ++k) {
        const bool present = candidates.index[k] >= 0;
        const int64_t j = b * cells + std::max<int64_t>(candidates.index[k], 0);
        vectors[k] = present ? data<acc>(grad_mass)[j] : acc(0);
        for (int64_t c = 0; c < value.channels; ++c)
          vectors[(c + 1) * kCandidates + k] = present ? data<acc>(grad_sums)[j * value.channels + c] : acc(0);
      }
      sums.clear();
      for_each_tile(grid, row, column, clusters.inside(b), tile, [&] {
        load_tile(view, b, candidates, tile);
        assign_tile(candidates, metric, tile);
        load_values<scalar_t, acc>(value, b, tile, planes);
        linear<acc>(vectors, values_width, planes, tile.padded, grad);
        std::fill_n(+grad_planes, value.channels * kLanes, acc(0));
        spread<acc>(tile.weight, vectors + kCandidates, value.channels, tile.padded, grad_planes);
        store_planes<scalar_t, acc>(out_value, b, tile, grad_planes);
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
      std::copy_n(sum, channels, grad_centers + (b * cells + j) * channels);
      std::copy_n(sum + channels, 2, grad_positions + (b * cells + j) * 2);
    });
  });
  for (size_t i = 0; i < coefficient.size(); ++i) grad_coefficients[i % 2] += coefficient[i];
}

std::tuple<Tensor, Tensor> soft_pool(const Tensor& features, const Tensor& values, const Tensor& centers,
                                     const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
                                     const std::optional<Tensor>& coefficients, int64_t cell, double compactness,
                                     double temperature) {
  const int64_t cells = check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  check(values, "values [B,Cv,H,W]", features.scalar_type(),
        {features.size(0), -1, features.size(2), features.size(3)});
  const ScalarType type = acc_type(features.scalar_type());
  Tensor sums = empty({features.size(0), cells, values.size(1)}, type, features);
  Tensor pooled = empty({features.size(0), cells}, type, features);
  dispatch_floating(features.scalar_type(), "soft_pool", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const Tensor centers_ = dense(centers), positions_ = dense(positions), mass_ = dense(mass);
    const auto mask_ = dense(mask);
    const Clusters<acc> clusters{data<acc>(centers_),
                                 data<acc>(positions_),
                                 data<acc>(mass_),
                                 data<bool>(mask_),
                                 cells,
                                 features.size(1),
                                 features.size(2) * features.size(3)};
    const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
    pool<scalar_t>(features, values, clusters, metric, cell, mutable_data<acc>(sums), mutable_data<acc>(pooled));
  });
  return {sums, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_pool_backward(
    const Tensor& grad_sums, const Tensor& grad_mass, const Tensor& features, const Tensor& values,
    const Tensor& centers, const Tensor& positions, const Tensor& mass, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& coefficients, int64_t cell, double compactness, double temperature) {
  const int64_t cells = check_clusters(features, centers, positions, mass, mask, coefficients, cell);
  check(values, "values [B,Cv,H,W]", features.scalar_type(),
        {features.size(0), -1, features.size(2), features.size(3)});
  const ScalarType type = acc_type(features.scalar_type());
  const int64_t batch = features.size(0);
  check(grad_sums, "grad_sums [B,L,Cv]", type, {batch, cells, values.size(1)});
  check(grad_mass, "grad_mass [B,L]", type, {batch, cells});
  Tensor grad_features = empty_image_like(features, features.scalar_type());
  Tensor grad_values = empty_image_like(values, values.scalar_type());
  Tensor grad_centers = empty({batch, cells, features.size(1)}, type, features);
  Tensor grad_positions = empty({batch, cells, 2}, type, features);
  Tensor grad_coefficients = zeros({2}, type, features);
  dispatch_floating(features.scalar_type(), "soft_pool_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const Tensor centers_ = dense(centers), positions_ = dense(positions), mass_ = dense(mass);
    const auto mask_ = dense(mask);
    const Clusters<acc> clusters{data<acc>(centers_),
                                 data<acc>(positions_),
                                 data<acc>(mass_),
                                 data<bool>(mask_),
                                 cells,
                                 features.size(1),
                                 features.size(2) * features.size(3)};
    const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
    pool_backward<scalar_t>(dense(grad_sums), dense(grad_mass), features, values, clusters, metric, cell, grad_features,
                            grad_values, mutable_data<acc>(grad_centers), mutable_data<acc>(grad_positions),
                            mutable_data<acc>(grad_coefficients));
  });
  return {grad_features, grad_values, grad_centers, grad_positions, grad_coefficients};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_pool", TORCH_BOX(&dhvt::soft_pool));
  m.impl("soft_pool_backward", TORCH_BOX(&dhvt::soft_pool_backward));
}
