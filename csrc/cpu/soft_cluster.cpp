// Soft clustering: iterations of assignment and update, from the cells' means. Saved for the backward: centres,
// positions and masses of every iteration, nothing of the size of the image.
#include "soft_tile.h"

namespace dhvt {
namespace {

// States of all iterations.
template <typename acc>
struct States {
  acc* centers;    // [I+1,B,L,C]
  acc* positions;  // [I+1,B,L,2]
  acc* mass;       // [I+1,B,L]
  int64_t batch, cells, channels;

  States at(int64_t iteration, int64_t b) const {
    const int64_t i = (iteration * batch + b) * cells;
    return {centers + i * channels, positions + i * 2, mass + i, 1, cells, channels};
  }
  CenterView<acc> view(int64_t iteration, int64_t b) const {
    const States own = at(iteration, b);
    return {own.centers, own.positions, own.mass, channels};
  }
};

// One task per row of cells: mean and number of the pixels of each cell that take part. A cell without any has mass 0,
// features 0 and its middle as position.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void initialize(const ImageView<const scalar_t>& view, const bool* mask, const CellGrid& grid,
                const States<acc>& states) {
  const int64_t channels = view.channels, pixels = view.height * view.width;
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const auto state = states.at(0, b);
    Candidates<acc> origin(channels);  // shift 0: plain features
    const int64_t dims = origin.dims;
    Tile<acc> tile(dims);
    const Scratch<acc> sums(dims);
    for (int64_t column = 0; column < grid.columns; ++column) {
      std::fill_n(+sums, dims, acc(0));
      origin.set_origin(grid, row, column);
      for_each_tile(grid, row, column, mask ? mask + b * pixels : nullptr, tile, [&] {
        load_tile(view, b, origin, tile);
        add_planes<acc>(tile.planes, dims, tile.padded, sums);
      });
      const int64_t j = row * grid.columns + column;
      const acc scale = sums[0] > 0 ? acc(1) / sums[0] : acc(0);
      state.mass[j] = sums[0];
      for (int64_t c = 0; c < channels; ++c) state.centers[j * channels + c] = sums[c + 1] * scale;
      state.positions[2 * j] = origin.origin_y + sums[dims - 2] * scale;
      state.positions[2 * j + 1] = origin.origin_x + sums[dims - 1] * scale;
    }
  });
}

// One update: one task per row of cells for the partial sums [L,9,1+C+2], one per row of centres to gather them. Reads
// the features once.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void update(const ImageView<const scalar_t>& view, const bool* mask, const CellGrid& grid, const Metric<acc>& metric,
            const States<acc>& states, int64_t iteration, acc* partial) {
  const int64_t channels = view.channels, cells = grid.cells(), pixels = view.height * view.width;
  const int64_t width = channels + 3;
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const auto center = states.view(iteration, b);
    Candidates<acc> candidates(channels);
    Tile<acc> tile(width);
    CellSums<acc> cell_sums(width);
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(center, grid, row, column, metric);
      cell_sums.clear();
      for_each_tile(grid, row, column, mask ? mask + b * pixels : nullptr, tile, [&] {
        load_tile(view, b, candidates, tile);
        assign_tile(candidates, metric, tile);
        cell_sums.add(tile.weight, tile.planes, tile.padded);
      });
      acc* sums = partial + (b * cells + row * grid.columns + column) * kCandidates * width;
      cell_sums.total(sums);
      // From sums relative to this cell to sums relative to each candidate's own cell, so that far positions stay
      // exact.
      for (int k = 0; k < kCandidates; ++k) {
        if (candidates.index[k] < 0) continue;
        acc* sum = sums + k * width;
        for (int64_t c = 0; c < channels; ++c)
          sum[c + 1] -= candidates.coefficient[(c + 1) * kCandidates + k] / 2 * sum[0];
        sum[width - 2] += (candidates.origin_y - grid.middle_y<acc>(row + k / 3 - 1)) * sum[0];
        sum[width - 1] += (candidates.origin_x - grid.middle_x<acc>(column + k % 3 - 1)) * sum[0];
      }
    }
  });
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const auto before = states.at(iteration, b), after = states.at(iteration + 1, b);
    gather_centers(grid, partial + b * cells * kCandidates * width, width, row, [&](int64_t j, const acc* sum) {
      acc* center = after.centers + j * channels;
      acc* position = after.positions + j * 2;
      after.mass[j] = sum[0];
      if (!(sum[0] > 0)) {
        std::copy_n(before.centers + j * channels, channels, center);
        std::copy_n(before.positions + j * 2, 2, position);
        return;
      }
      for (int64_t c = 0; c < channels; ++c) center[c] = before.centers[j * channels + c] + sum[c + 1] / sum[0];
      position[0] = grid.middle_y<acc>(row) + sum[width - 2] / sum[0];
      position[1] = grid.middle_x<acc>(j % grid.columns) + sum[width - 1] / sum[0];
    });
  });
}

// One task per row of cells: the hard labels at the last centres.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void label(const ImageView<const scalar_t>& view, const bool* mask, const CellGrid& grid, const Metric<acc>& metric,
           const States<acc>& states, int64_t iteration, int32_t* labels) {
  const int64_t channels = view.channels, pixels = view.height * view.width;
  parallel(view.batch * grid.rows, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    Candidates<acc> candidates(channels);
    Tile<acc> tile(candidates.dims);
    for (int64_t column = 0; column < grid.columns; ++column) {
      candidates.prepare(states.view(iteration, b), grid, row, column, metric);
      for_each_tile(grid, row, column, mask ? mask + b * pixels : nullptr, tile, [&] {
        load_tile(view, b, candidates, tile);
        score_tile(candidates, tile);
        label_tile(candidates, grid, row * grid.columns + column, tile, labels + b * pixels);
      });
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cluster(const Tensor& features, const std::optional<Tensor>& mask,
                                                        const std::optional<Tensor>& coefficients, int64_t cell,
                                                        double compactness, double temperature, int64_t iterations) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0 && iterations >= 0, "soft_cluster: expected features [B,C,H,W]");
  const int64_t batch = features.size(0), channels = features.size(1), height = features.size(2),
                width = features.size(3);
  const ScalarType type = acc_type(features.scalar_type());
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  const CellGrid grid(height, width, cell);
  const int64_t cells = grid.cells();
  Tensor centers = empty({iterations + 1, batch, cells, channels}, type, features);
  Tensor positions = empty({iterations + 1, batch, cells, 2}, type, features);
  Tensor mass = empty({iterations + 1, batch, cells}, type, features);
  Tensor labels = empty({batch, height, width}, ScalarType::Int, features);
  dispatch_floating(features.scalar_type(), "soft_cluster", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const auto view = image_view<scalar_t>(features);
    const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
    const auto mask_ = dense(mask);
    const bool* inside = data<bool>(mask_);
    const States<acc> states{
        mutable_data<acc>(centers), mutable_data<acc>(positions), mutable_data<acc>(mass), batch, cells, channels};
    initialize<scalar_t>(view, inside, grid, states);
    const Scratch<acc> partial(iterations > 0 ? batch * cells * kCandidates * (channels + 3) : 0);
    for (int64_t i = 0; i < iterations; ++i) update<scalar_t, acc>(view, inside, grid, metric, states, i, partial);
    label<scalar_t>(view, inside, grid, metric, states, iterations, mutable_data<int32_t>(labels));
  });
  return {centers, positions, mass, labels};
}

// vectors [1+C+2,9] with d loss / d a_ij = vectors_j . x_i, from the gradients of the centres that an update gave.
template <typename acc>
void update_gradient(const Candidates<acc>& candidates, const States<acc>& after, const acc* grad_centers,
                     const acc* grad_positions, const acc* grad_mass, acc* vectors) {
  const int64_t dims = candidates.dims, channels = dims - 3;
  for (int k = 0; k < kCandidates; ++k) {
    const int64_t j = candidates.index[k];
    acc* vector = vectors + k;
    for (int64_t d = 0; d < dims; ++d) vector[d * kCandidates] = 0;
    if (j < 0 || !(after.mass[j] > 0)) continue;
    // mean = sum a g / sum a, so d mean / d a_i = (g_i - mean) / mass; x is g relative to the cell.
    const acc scale = acc(1) / after.mass[j];
    acc constant = grad_mass[j];
    for (int64_t c = 0; c < channels; ++c) {
      const acc grad = grad_centers[j * channels + c] * scale;
      vector[(c + 1) * kCandidates] = grad;
      constant += grad * (candidates.shift[c] - after.centers[j * channels + c]);
    }
    const acc grad_y = grad_positions[2 * j] * scale, grad_x = grad_positions[2 * j + 1] * scale;
    vector[(dims - 2) * kCandidates] = grad_y;
    vector[(dims - 1) * kCandidates] = grad_x;
    vector[0] = constant + grad_y * (candidates.origin_y - after.positions[2 * j]) +
                grad_x * (candidates.origin_x - after.positions[2 * j + 1]);
  }
}

// Walks the iterations backwards. Per iteration one task per row of cells recomputes the assignment and adds to the
// pixels' gradient, and one per row of centres gathers the gradient of the centres before it.
template <typename scalar_t, typename acc = acc_t<scalar_t>>
void cluster_backward(const Tensor& features, const bool* mask, const Metric<acc>& metric, const CellGrid& grid,
                      const States<acc>& states, int64_t iterations, bool last_only, std::vector<acc>& grad_centers,
                      std::vector<acc>& grad_positions, std::vector<acc>& grad_mass, const Tensor& grad_features,
                      acc* grad_coefficients) {
  const auto view = image_view<scalar_t>(features);
  const auto out = mutable_image_view<acc>(grad_features);
  const auto sofar = image_view<acc>(grad_features);
  const int64_t channels = view.channels, cells = grid.cells(), pixels = view.height * view.width;
  const int64_t width = channels + 2, tasks = view.batch * grid.rows;
  const Scratch<acc> partial(view.batch * cells * kCandidates * width);
  std::vector<acc> coefficient(tasks * 2);
  const int64_t first = last_only ? std::max<int64_t>(iterations - 1, 0) : 0;
  for (int64_t i = iterations - 1; i >= first; --i) {
    parallel(tasks, [&](int64_t task) {
      const int64_t b = task / grid.rows, row = task % grid.rows;
      const auto before = states.view(i, b);
      const auto after = states.at(i + 1, b);
      Candidates<acc> candidates(channels);
      const int64_t dims = candidates.dims;
      Tile<acc> tile(dims);
      CellSums<acc> sums(dims);
      const Scratch<acc> grad_planes(channels * kLanes), vectors(dims * kCandidates), totals(kCandidates * dims);
      alignas(64) Rows<acc> grad;
      for (int64_t column = 0; column < grid.columns; ++column) {
        candidates.prepare(before, grid, row, column, metric);
        update_gradient<acc>(candidates, after, grad_centers.data() + b * cells * channels,
                             grad_positions.data() + b * cells * 2, grad_mass.data() + b * cells, vectors);
        sums.clear();
        for_each_tile(grid, row, column, mask ? mask + b * pixels : nullptr, tile, [&] {
          load_tile(view, b, candidates, tile);
          assign_tile(candidates, metric, tile);
          linear<acc>(vectors, dims, tile.planes, tile.padded, grad);
          load_planes<acc, acc>(sofar, b, tile, grad_planes);
          spread<acc>(tile.weight, vectors + kCandidates, channels, tile.padded, grad_planes);
          assign_backward<acc>(candidates, metric, tile, grad, grad_planes, sums);
          store_planes<acc, acc>(out, b, tile, grad_planes);
        });
        const int64_t own = b * cells + row * grid.columns + column;
        center_gradient<acc>(candidates, metric, sums, totals, partial + own * kCandidates * width,
                             &coefficient[task * 2]);
      }
    });
    parallel(tasks, [&](int64_t task) {
      const int64_t b = task / grid.rows;
      const acc* mass = states.at(i + 1, b).mass;
      const acc* own = partial + b * cells * kCandidates * width;
      gather_centers(grid, own, width, task % grid.rows, [&](int64_t j, const acc* sum) {
        const int64_t at = b * cells + j;
        const bool keep = !(mass[j] > 0);  // a centre without mass was copied
        for (int64_t c = 0; c < channels; ++c)
          grad_centers[at * channels + c] = (keep ? grad_centers[at * channels + c] : acc(0)) + sum[c];
        for (int64_t c = 0; c < 2; ++c)
          grad_positions[at * 2 + c] = (keep ? grad_positions[at * 2 + c] : acc(0)) + sum[channels + c];
        grad_mass[at] = 0;  // the mass before only decides who is a candidate
      });
    });
  }
  for (size_t i = 0; i < coefficient.size(); ++i) grad_coefficients[i % 2] += coefficient[i];
  if (last_only && iterations > 0) return;
  // The cells' means.
  parallel(tasks, [&](int64_t task) {
    const int64_t b = task / grid.rows, row = task % grid.rows;
    const acc* mass = states.at(0, b).mass;
    const Candidates<acc> origin(channels);
    Tile<acc> tile(origin.dims);
    const Scratch<acc> grad_planes(channels * kLanes);
    for (int64_t column = 0; column < grid.columns; ++column) {
      const int64_t j = row * grid.columns + column;
      if (!(mass[j] > 0)) continue;
      for_each_tile(grid, row, column, mask ? mask + b * pixels : nullptr, tile, [&] {
        load_tile(view, b, origin, tile);
        load_planes<acc, acc>(sofar, b, tile, grad_planes);
        for (int64_t c = 0; c < channels; ++c) {
          const acc share = grad_centers[(b * cells + j) * channels + c] / mass[j];
          for (int n = 0; n < tile.count; ++n) grad_planes[c * kLanes + n] += share * tile.planes[n];
        }
        store_planes<acc, acc>(out, b, tile, grad_planes);
      });
    }
  });
}

template <typename acc>
std::vector<acc> copied(const Tensor& tensor) {
  const Tensor source = dense(tensor);
  return {data<acc>(source), data<acc>(source) + source.numel()};
}

std::tuple<Tensor, Tensor> soft_cluster_backward(const Tensor& grad_centers, const Tensor& grad_positions,
                                                 const Tensor& grad_mass, const Tensor& features,
                                                 const std::optional<Tensor>& mask,
                                                 const std::optional<Tensor>& coefficients, const Tensor& centers,
                                                 const Tensor& positions, const Tensor& mass, int64_t cell,
                                                 double compactness, double temperature, bool last_only) {
  STD_TORCH_CHECK(features.dim() == 4 && cell > 0, "soft_cluster_backward: expected features [B,C,H,W]");
  const int64_t batch = features.size(0), channels = features.size(1), height = features.size(2),
                width = features.size(3);
  const CellGrid grid(height, width, cell);
  const int64_t cells = grid.cells(), saved = centers.size(0);
  const ScalarType type = acc_type(features.scalar_type());
  check(grad_centers, "grad_centers [B,L,C]", type, {batch, cells, channels});
  check(grad_positions, "grad_positions [B,L,2]", type, {batch, cells, 2});
  check(grad_mass, "grad_mass [B,L]", type, {batch, cells});
  check(centers, "centers [I+1,B,L,C]", type, {saved, batch, cells, channels});
  check(positions, "positions [I+1,B,L,2]", type, {saved, batch, cells, 2});
  check(mass, "mass [I+1,B,L]", type, {saved, batch, cells});
  check(mask, "mask [B,H,W]", ScalarType::Bool, {batch, height, width});
  check(coefficients, "coefficients [2]", type, {2});
  // Summed over the iterations, hence in the accumulation type; one cast at the end.
  Tensor grad_features = empty_image_like(features, type);
  torch::stable::zero_(grad_features);
  Tensor grad_coefficients = zeros({2}, type, features);
  dispatch_floating(features.scalar_type(), "soft_cluster_backward", [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
    const auto mask_ = dense(mask);
    const Tensor centers_ = dense(centers), positions_ = dense(positions), mass_ = dense(mass);
    const States<acc> states{const_cast<acc*>(data<acc>(centers_)),
                             const_cast<acc*>(data<acc>(positions_)),
                             const_cast<acc*>(data<acc>(mass_)),
                             batch,
                             cells,
                             channels};
    auto grad_centers_ = copied<acc>(grad_centers), grad_positions_ = copied<acc>(grad_positions),
         grad_mass_ = copied<acc>(grad_mass);
    cluster_backward<scalar_t>(features, data<bool>(mask_), metric, grid, states, saved - 1, last_only, grad_centers_,
                               grad_positions_, grad_mass_, grad_features, mutable_data<acc>(grad_coefficients));
  });
  return {torch::stable::to(grad_features, features.scalar_type()), grad_coefficients};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_cluster", TORCH_BOX(&dhvt::soft_cluster));
  m.impl("soft_cluster_backward", TORCH_BOX(&dhvt::soft_cluster_backward));
}
