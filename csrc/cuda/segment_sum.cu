// Sum and maximum over segments.
#include "cuda/segment_sum.cuh"

#include "cuda/segment_reduce.cuh"
#include "segment_pool_host.h"

namespace dhvt {

template <typename scalar_t>
void sum_over_segments(const Launcher& launch, const ImageView<const scalar_t>& view, const Tensor& labels,
                       const acc_t<scalar_t>* weights, int64_t num_segments, acc_t<scalar_t>* sums,
                       acc_t<scalar_t>* mass) {
  reduce_segments(launch, SumOperator<scalar_t>{view, weights, {view.channels, sums, mass}}, labels, num_segments);
}

#define INSTANTIATE(scalar_t)                                                                       \
  template void sum_over_segments(const Launcher&, const ImageView<const scalar_t>&, const Tensor&, \
                                  const acc_t<scalar_t>*, int64_t, acc_t<scalar_t>*, acc_t<scalar_t>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

namespace {

std::tuple<Tensor, Tensor> segment_sum(const Tensor& features, const Tensor& labels,
                                       const std::optional<Tensor>& weights, int64_t num_segments) {
  const Launcher launch(features);
  return segment_sum_checked(features, labels, weights, num_segments,
                             [&](auto tag, const Tensor& features, const Tensor& labels,
                                 const std::optional<Tensor>& weights, const Tensor& sums, const Tensor& mass) {
                               using scalar_t = typename decltype(tag)::type;
                               using acc = acc_t<scalar_t>;
                               sum_over_segments(launch, image_view<scalar_t>(features), labels, data<acc>(weights),
                                                 num_segments, mutable_data<acc>(sums), mutable_data<acc>(mass));
                             });
}

std::tuple<Tensor, Tensor> segment_max(const Tensor& features, const Tensor& labels, int64_t num_segments) {
  const Launcher launch(features);
  return segment_max_checked(
      features, labels, num_segments,
      [&](auto tag, const Tensor& features, const Tensor& labels, const Tensor& values, const Tensor& index) {
        using scalar_t = typename decltype(tag)::type;
        const auto view = image_view<scalar_t>(features);
        const MaxOperator<scalar_t> op{view,
                                       {view.channels, mutable_data<scalar_t>(values), mutable_data<int32_t>(index)}};
        reduce_segments(launch, op, labels, num_segments);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) {
  m.impl("segment_sum", TORCH_BOX(&dhvt::segment_sum));
  m.impl("segment_max", TORCH_BOX(&dhvt::segment_max));
}
