// Soft clustering: iterations of assignment and update, from the cells' means.
#include "cuda/grid.cuh"
#include "cuda/soft_launch.cuh"

namespace dhvt {
namespace {

template <typename acc>
struct ClusterJob {
  SoftJob<acc> soft;
  acc* centers;       // [I+1,B,L,C]
  acc* positions;     // [I+1,B,L,2]
  acc* mass;          // [I+1,B,L]
  acc* sums;          // workspace of the plan
  int32_t* counters;  // [B,tiles]
  int32_t* labels;    // [B,H,W]
  int iterations;

  // A state begins at its number times the cells of the batch.
  __device__ __forceinline__ Clusters<acc> state(int i) const {
    const int64_t at = i * soft.plan.batch * soft.plan.cells();
    return {centers + at * soft.channels, positions + at * 2, mass + at};
  }

  // Sets number r of a centre of state i from the sums: its mass, then relative to the centre before; in state 0 to 0
  // and the middle of the cell.
  __device__ __forceinline__ void set(int i, const Place& place, int r, acc sum, acc own_mass) const {
    const int channels = soft.channels;
    const int64_t states = soft.plan.batch * soft.plan.cells(), at = i * states + place.cell(soft.plan);
    const acc moved = own_mass > 0 ? sum * (acc(1) / own_mass) : acc(0);
    if (r == 0) {
      mass[at] = own_mass;
    } else if (r <= channels) {
      centers[at * channels + r - 1] = moved + (i > 0 ? centers[(at - states) * channels + r - 1] : acc(0));
    } else {
      const int axis = r - 1 - channels;
      positions[at * 2 + axis] =
          moved + (i > 0 ? positions[(at - states) * 2 + axis]
                         : soft.plan.template middle<acc>(axis, axis == 0 ? place.row : place.column));
    }
  }
};

// Step 0 gives the cells' means, step i state i from the state before, and the one after the last iteration the labels.
// A warp per patch (soft_plan.cuh). Each step reads the features, b C bytes per pixel, and 9 centres per patch; an
// iteration also writes the sums of 4 centres per cell of a tile of four (more where cells are larger) and reads them
// once: they stay in the L2 cache, as the states do. All steps of as many images as fit the L2 cache are one
// cooperative launch, with a barrier of the grid between two of them: so the features come from the device's memory
// once, not in every step.
template <typename acc, int m>
__global__ void __launch_bounds__(kSoftThreads) cluster_kernel(ClusterJob<acc> job, Images images) {
  auto* warps = shared_memory<CellShared<acc, m>>();
  CellWarp<acc, m> warp(job.soft, warps[threadIdx.x / 32]);
  const Plan& plan = job.soft.plan;
#pragma unroll 1
  for (int step = 0; step <= job.iterations + 1; ++step) {
    if (step > 0) sync_grid();
    const bool label = step > job.iterations;
    const Clusters<acc> before = job.state(step - 1), *clusters = step > 0 ? &before : nullptr;
    for_each_patch(plan, images, [&](const Place& place, int round) {
      const bool active = warp.go(place, round);
      if (active) {
        typename CellWarp<acc, m>::Scores share;
        warp.score(clusters, share);
        if (label) {
          for (int j = 0; j < kPerLane; ++j)
            if (warp.exists[j]) job.labels[warp.pixel(j)] = warp.label(share[j], j);
        } else if (step == 0) {
          warp.put_used();
        } else {
          warp.normalize(share);
          warp.put_weights(share);
        }
      }
      if (label) return;
      add_to_centers(warp, active, clusters, place, round, warps, job.sums);
      if (round + 1 < plan.rounds) return;
      if (step == 0 && plan.parts == 1 && threadIdx.x == 0) job.counters[place.tile(plan)] = 0;
      complete_tiles(plan, place, step == 0, job.counters, tile_shared(warps), job.sums, job.soft.rows(),
                     [&](const Place& of, int r, acc sum, acc mass) { job.set(step, of, r, sum, mass); });
    });
  }
}

// Images in groups whose features take three quarters of the cache at most, or one image.
std::vector<Images> groups(const Plan& plan, int64_t cache, int64_t image_bytes) {
  const int64_t size = std::max<int64_t>(1, cache * 3 / 4 / std::max<int64_t>(image_bytes, 1));
  std::vector<Images> out;
  for (int64_t b = 0; b < plan.batch; b += size) out.push_back({b, std::min(b + size, plan.batch)});
  return out;
}

// As many blocks as run side by side, if there are so many.
dim3 group_blocks(const Plan& plan, const Images& images, int64_t resident) {
  const int64_t down = std::min(images.end - images.begin, std::min<int64_t>(resident, 65535));
  return dim3(unsigned(std::min(plan.tiles() * plan.parts, resident / down)), unsigned(down));
}

struct SetToZero {
  int32_t* counters;
  __device__ void operator()(int64_t i) const { counters[i] = 0; }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_cluster(const Tensor& features, const std::optional<Tensor>& mask,
                                                        const std::optional<Tensor>& coefficients, int64_t cell,
                                                        double compactness, double temperature, int64_t iterations) {
  const Launcher launch(features);
  return soft_cluster_checked(
      features, mask, coefficients, cell, iterations,
      [&](auto tag, const Tensor& centers, const Tensor& positions, const Tensor& mass, const Tensor& labels) {
        using acc = typename decltype(tag)::type;
        const SoftTensors<acc> tensors(features, mask, coefficients, cell, compactness, temperature);
        const SoftJob<acc>& soft = tensors.job;
        const Plan& plan = soft.plan;
        const int64_t tiles = plan.batch * plan.tiles();
        Workspace workspace;
        const int64_t sums = workspace.take<acc>(plan.sums(soft.rows())), counters = workspace.take<int32_t>(tiles);
        workspace.allocate(features);
        const ClusterJob<acc> job{soft,
                                  mutable_data<acc>(centers),
                                  mutable_data<acc>(positions),
                                  mutable_data<acc>(mass),
                                  workspace.at<acc>(sums),
                                  workspace.at<int32_t>(counters),
                                  mutable_data<int32_t>(labels),
                                  int(iterations)};
        const int64_t pixels = features.size(2) * features.size(3);
        const int64_t image_bytes = pixels * soft.channels * int64_t(features.element_size());
        if (plan.parts > 1) for_each(launch, tiles, SetToZero{job.counters});
        dispatch_rows<acc>(soft.rows(), [&](auto m) {
          using Shared = CellShared<acc, m>;
          const auto kernel = cluster_kernel<acc, m>;
          const int64_t resident = launch.resident(kernel, kSoftThreads, block_bytes<Shared>());
          for (const Images& images : groups(plan, launch.cache(), image_bytes))
            launch.cooperative(kernel, group_blocks(plan, images, resident), dim3(kSoftThreads), block_bytes<Shared>(),
                               job, images);
        });
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("soft_cluster", TORCH_BOX(&dhvt::soft_cluster)); }
