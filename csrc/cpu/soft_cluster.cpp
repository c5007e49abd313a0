// Soft clustering: iterations of assignment and update, from the cells' means. Saved for the backward: centres,
// positions and masses of every iteration, nothing of the size of the image. While the operator runs it holds the image
// once more, cell by cell, so that every iteration reads it in order.
#include "cpu/levels/soft_cluster_kernels.h"
#include "cpu/soft_checks.h"

namespace dhvt {
namespace {

// Whole vectors are read where a cell ends within one.
constexpr int64_t kLongestVector = 16;

// A copy of an image in cell-major order, with what it takes to fill it.
template <typename acc>
struct CellMajorImage {
  AnyImage<acc> view;
  int64_t batch, channels;
  std::optional<Tensor> mask;
  Buffer<acc> features;
  Buffer<uint8_t> codes;
  Buffer<bool> whole;

  CellMajorImage(const Tensor& image, const std::optional<Tensor>& mask_, const CellGrid& grid)
      : view(any_image<acc>(image)),
        batch(image.size(0)),
        channels(image.size(1)),
        mask(dense(mask_)),
        features(image.numel() + kLongestVector),
        codes(image.size(0) * grid.height * grid.width),
        whole(image.size(0) * grid.cells()) {
    std::fill_n(features + image.numel(), kLongestVector, acc(0));
  }

  ClusterJob<acc> job(const CellGrid& grid, const Metric<acc>& metric, const States<acc>& states) const {
    return {grid, metric, batch, channels, features, codes, whole, states};
  }

  void load(const ClusterJob<acc>& job, bool means) const {
    const auto load = DHVT_AT_LEVEL(cluster_load<acc>);
    parallel_chunks(job.tasks(),
                    [&](int64_t begin, int64_t end) { load(view, data<bool>(mask), job, means, begin, end); });
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cluster(const Tensor& features, const std::optional<Tensor>& mask,
                                                        const std::optional<Tensor>& coefficients, int64_t cell,
                                                        double compactness, double temperature, int64_t iterations) {
  return soft_cluster_checked(
      features, mask, coefficients, cell, iterations,
      [&](auto tag, const Tensor& centers, const Tensor& positions, const Tensor& mass, const Tensor& labels) {
        using acc = typename decltype(tag)::type;
        const CellGrid grid(features.size(2), features.size(3), cell);
        const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
        const States<acc> states{mutable_data<acc>(centers), mutable_data<acc>(positions), mutable_data<acc>(mass)};
        const CellMajorImage<acc> image(features, mask, grid);
        const auto job = image.job(grid, metric, states);
        image.load(job, true);
        const int64_t sums = job.tasks() * job.row_sums();
        const Buffer<acc> partial(iterations > 0 ? 2 * sums : 0);
        const auto update = DHVT_AT_LEVEL(cluster_update<acc>);
        for (int64_t i = 0; i < iterations; ++i)
          parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) {
            update(job, i, partial + (i + 1) % 2 * sums, partial + i % 2 * sums, begin, end);
          });
        const auto label = DHVT_AT_LEVEL(cluster_label<acc>);
        parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) {
          label(job, iterations, partial + (iterations + 1) % 2 * sums, mutable_data<int32_t>(labels), begin, end);
        });
      });
}

// Walks the iterations backwards; each recomputes its assignment from the saved states.
std::tuple<Tensor, Tensor> soft_cluster_backward(const Tensor& grad_centers, const Tensor& grad_positions,
                                                 const Tensor& grad_mass, const Tensor& features,
                                                 const std::optional<Tensor>& mask,
                                                 const std::optional<Tensor>& coefficients, const Tensor& centers,
                                                 const Tensor& positions, const Tensor& mass, int64_t cell,
                                                 double compactness, double temperature, bool last_only) {
  const ClusterStates given{grad_centers, grad_positions, grad_mass, centers, positions, mass};
  return soft_cluster_backward_checked(
      given, features, mask, coefficients, cell,
      [&](auto tag, const ClusterStates& in, const Tensor& grad_features, const Tensor& grad_coefficients) {
        using acc = typename decltype(tag)::type;
        const CellGrid grid(features.size(2), features.size(3), cell);
        const int64_t batch = features.size(0), cells = grid.cells(), iterations = in.centers.size(0) - 1;
        const auto metric = read_metric<acc>(coefficients, compactness, temperature, cell);
        const States<acc> states{const_cast<acc*>(data<acc>(in.centers)), const_cast<acc*>(data<acc>(in.positions)),
                                 const_cast<acc*>(data<acc>(in.mass))};
        const CellMajorImage<acc> image(features, mask, grid);
        const auto job = image.job(grid, metric, states);
        image.load(job, false);
        // Summed over the iterations in the accumulation type and in cell-major order, in the output itself if it can.
        const bool in_place =
            features.scalar_type() == acc_type(features.scalar_type()) && grad_features.is_contiguous();
        const Buffer<acc> sums(in_place ? 0 : features.numel());
        const int64_t record = job.record(), states_size = batch * cells * record;
        const int64_t partial_size = job.tasks() * job.row_sums();
        const Buffer<acc> of_state(2 * states_size), partial(iterations > 0 ? 2 * partial_size : 0);
        const Buffer<acc> coefficient(job.tasks() * 2);
        std::fill_n(+coefficient, job.tasks() * 2, acc(0));
        const ClusterGradient<acc> gradient{data<acc>(in.grad_centers),
                                            data<acc>(in.grad_positions),
                                            data<acc>(in.grad_mass),
                                            {of_state, of_state + states_size},
                                            {partial, partial + partial_size},
                                            in_place ? mutable_data<acc>(grad_features) : sums,
                                            coefficient};
        const int64_t first = last_only ? std::max<int64_t>(iterations - 1, 0) : 0;
        const auto update = DHVT_AT_LEVEL(cluster_update_backward<acc>);
        for (int64_t i = iterations - 1; i >= first; --i)
          parallel_chunks(job.tasks(),
                          [&](int64_t begin, int64_t end) { update(job, iterations, i, gradient, begin, end); });
        const auto finish = DHVT_AT_LEVEL(cluster_load_backward<acc>);
        const auto out = any_image<acc>(grad_features);
        parallel_chunks(job.tasks(), [&](int64_t begin, int64_t end) {
          finish(job, iterations, last_only, gradient, out, begin, end);
        });
        add_pairs<acc>(coefficient, job.tasks(), grad_coefficients);
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("soft_cluster", TORCH_BOX(&dhvt::soft_cluster));
  m.impl("soft_cluster_backward", TORCH_BOX(&dhvt::soft_cluster_backward));
}
