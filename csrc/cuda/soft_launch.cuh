// Host side of the soft operators: jobs, workspaces and launches.
#pragma once

#include "cuda/soft_sums.cuh"
#include "soft_host.h"

namespace dhvt {

// Rows of a chunk, in eights: 3 as the rule, 1 in float64, whose numbers need twice the memory.
template <typename acc>
constexpr int kRowEights = std::is_same_v<acc, double> ? 1 : 3;

// body(integral_constant) with the least of these that is enough, for what is worth two kernels.
template <typename acc, typename Body>
void dispatch_rows(int rows, const Body& body) {
  if (rows <= kRowLanes)
    body(std::integral_constant<int, 1>{});
  else
    body(std::integral_constant<int, kRowEights<acc>>{});
}

// Tensors that a job points to, dense.
template <typename acc>
struct SoftTensors {
  std::optional<Tensor> mask, coefficients;
  SoftJob<acc> job;

  SoftTensors(const Tensor& features, const std::optional<Tensor>& mask_, const std::optional<Tensor>& coefficients_,
              int64_t cell, double compactness, double temperature)
      : mask(dense(mask_)),
        coefficients(dense(coefficients_)),
        job{Plan(features.size(0), features.size(2), features.size(3), cell),
            any_image<acc>(features),
            data<bool>(mask),
            data<acc>(coefficients),
            acc(compactness),
            acc(temperature),
            cell,
            int(features.size(1))} {}
};

// The arguments of an assignment as kernels read them.
template <typename acc>
struct AssignTensors : SoftTensors<acc> {
  Tensor centers, positions;
  std::optional<Tensor> mass;
  Clusters<acc> clusters;

  explicit AssignTensors(const SoftClusters& in)
      : SoftTensors<acc>(in.features, in.mask, in.coefficients, in.cell, in.compactness, in.temperature),
        centers(dense(in.centers)),
        positions(dense(in.positions)),
        mass(dense(in.mass)),
        clusters{data<acc>(centers), data<acc>(positions), data<acc>(mass)} {}
};

// Pieces of one allocation, each from a multiple of 16 bytes on: take() all of them, then allocate().
class Workspace {
 public:
  // Returns where the piece begins.
  template <typename T>
  int64_t take(int64_t size) {
    const int64_t begin = bytes_;
    bytes_ += round_up(size * int64_t(sizeof(T)), 16);
    return begin;
  }
  void allocate(const Tensor& like) { memory_ = empty({bytes_}, ScalarType::Byte, like); }
  template <typename T>
  T* at(int64_t begin) const {
    return reinterpret_cast<T*>(mutable_data<uint8_t>(*memory_) + begin);
  }

 private:
  int64_t bytes_ = 0;
  std::optional<Tensor> memory_;
};

// A grid with a block per tile and part, images along y.
inline dim3 tile_blocks(const Plan& plan) {
  return dim3(blocks_for(plan.tiles() * plan.parts).x, unsigned(std::min<int64_t>(plan.batch, 65535)));
}

template <typename Shared, typename... Parameters, typename... Arguments>
void launch_tiles(const Launcher& launch, const Plan& plan, void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch(kernel, tile_blocks(plan), dim3(kSoftThreads), block_bytes<Shared>(), std::forward<Arguments>(arguments)...);
}

}  // namespace dhvt
