// Merging of the pixels of an image into a binary tree.
#include "any_image.h"
#include "cuda/merge_contract.cuh"
#include "cuda/merge_grid.cuh"
#include "cuda/merge_join.cuh"
#include "cuda/merge_launch.cuh"
#include "merge_pixels_host.h"

namespace dhvt {
namespace {

// What wide rounds leave to a block.
template <typename T>
struct ContractedGraph {
  static constexpr bool kContracted = true;
  const WideState* state;
  const int32_t* nodes;  // of the vertices
  ListedNeighbours<T> listed;
  int64_t rounds;

  __device__ ContractedGraph of_image(int64_t b) const {
    return {state + b, nodes + b * (listed.leaves / 2), listed.of_image(b), rounds};
  }
};

// The wide rounds of a batch: how many there are follows from the shape alone.
template <typename T>
class WideRounds {
 public:
  using Round = WideRound<T>;

  WideRounds(const MergeTask<T>& task, int64_t batch) : task_(task), batch_(batch) {
    if (task.max_rounds == 0) return;
    const int64_t most = task.max_rounds < 0 ? std::numeric_limits<int64_t>::max() : task.max_rounds;
    rounds_ = 1;
    for (double left = double(task.leaves) / kReduction; left > kFewVertices && rounds_ < most; left /= kReduction)
      ++rounds_;
  }

  int64_t rounds() const { return rounds_; }

  // Of the graph that they leave: every round halves the vertices at least; it is planar.
  MergeSizes left() const { return {task_.leaves >> rounds_, rounds_ == 0 ? 0 : 3 * (task_.leaves >> rounds_)}; }

  size_t bytes() const {
    Arena arena(nullptr, 0, nullptr);
    layout(arena);
    return arena.global_bytes();
  }

  // Round r; the last one, as it were, is what comes after them.
  Round round(unsigned char* workspace, int64_t r) const {
    Arena arena(nullptr, 0, workspace);
    Round round = layout(arena);
    const int64_t vertices = task_.leaves >> r;  // of an image, at most
    round.tiles = (vertices + round.tile - 1) / round.tile;
    round.most_chains = task_.leaves >> (r + 1);
    round.state += r * batch_;
    round.next_state += r * batch_;
    if (r % 2) {
      std::swap(round.nodes, round.next_nodes);
      std::swap(round.lists, round.next_lists);
      std::swap(round.neighbours, round.next_neighbours);
    }
    return round;
  }

 private:
  static constexpr double kReduction = 3;  // of the vertices by a round, as a rule

  Round layout(Arena& arena) const {
    const int64_t leaves = task_.leaves, pixels = batch_ * leaves;
    Round round{};
    round.task = task_;
    // Many tiles where there are few pixels, few where every block of an image reads what all have counted.
    const int64_t tile = std::max<int64_t>({1, leaves / 1024, std::min<int64_t>(pixels / 4096, 1024)});
    round.tile = round_up(tile, kThreads);
    round.state = arena.take_global<WideState>((rounds_ + 1) * batch_);
    round.next_state = round.state + batch_;
    round.best = arena.take_global<typename Round::Bits>(pixels);
    round.neighbour = arena.take_global<int32_t>(pixels);
    round.up = arena.take_global<int32_t>(pixels);
    round.root = arena.take_global<int32_t>(pixels);
    round.place = arena.take_global<int32_t>(pixels);
    round.size = arena.take_global<int32_t>(pixels);
    round.begin = arena.take_global<int32_t>(batch_ * (leaves / 2 + 2));
    round.totals = arena.take_global<TileTotal>(batch_ * ((leaves + round.tile - 1) / round.tile));
    const int64_t chains = batch_ * (leaves / 2);
    round.nodes = arena.take_global<int32_t>(chains);
    round.next_nodes = arena.take_global<int32_t>(chains);
    round.lists = arena.take_global<NeighbourList>(chains);
    round.next_lists = arena.take_global<NeighbourList>(chains);
    round.neighbours = arena.take_global<Neighbour>(Round::most_neighbours(pixels));
    round.next_neighbours = arena.take_global<Neighbour>(Round::most_neighbours(pixels));
    return round;
  }

  MergeTask<T> task_;
  int64_t batch_, rounds_ = 0;
};

// From the picks on.
template <typename T, typename Graph>
void finish_round(const Launcher& launch, const WideRound<T>& round, const Graph& graph, int64_t r, int64_t batch) {
  const dim3 tiles = blocks_for(batch * round.tiles), threads(kThreads);
  launch(find_roots_kernel<T>, tiles, threads, 0, round, batch);
  launch(count_chains_kernel<T>, tiles, threads, kScanBytes, round, batch);
  launch(number_chains_kernel<T>, tiles, threads, kScanBytes, round, batch);
  launch(gather_members_kernel<T>, tiles, threads, 0, round, batch);
  launch(contract_kernel<T, Graph>, blocks_for(batch * round.blocks_of_chains(kThreads)), threads, kContractBytes,
         round, graph, batch);
  launch(join_kernel<T, Graph>, blocks_for(batch * round.blocks_of_chains(kChainsPerBlock)), threads, 0, round, graph,
         int32_t(r + 1), batch);
}

// The rounds of large graphs by many blocks per image, seven launches each; then one block per image does the rest.
MergedTree merge_pixels(const Tensor& features, const std::optional<Tensor>& mask, std::string distance,
                        double compactness, int64_t depth, double noise) {
  const Launcher launch(features);
  return merge_pixels_checked(
      features, mask, distance, compactness, depth, noise,
      [&]<typename T>(const bool* masks, const MergeTask<T>& task) {
        const int64_t batch = features.size(0), height = features.size(2), width = features.size(3);
        const WideRounds<T> wide(task, batch);
        const MergeSizes left = wide.left();
        const int64_t wide_bytes = int64_t(wide.bytes());
        const int64_t bytes = wide_bytes + batch * int64_t(MergeBytes<T>(launch, left).global);
        const Tensor memory = empty({bytes}, ScalarType::Byte, features);
        unsigned char* const workspace = mutable_data<unsigned char>(memory);

        const PixelGrid<T> grid{any_image<T>(features), masks, int32_t(height), int32_t(width)};
        launch(pick_pixels_kernel<T>, blocks_for(batch * grid.tiles()), dim3(kThreads), kGridBytes<T>,
               wide.round(workspace, 0), grid, batch);
        for (int64_t r = 0; r < wide.rounds(); ++r) {
          const WideRound<T> round = wide.round(workspace, r);
          if (r == 0) {
            finish_round(launch, round, grid, r, batch);
            continue;
          }
          launch(pick_vertices_kernel<T>, blocks_for(batch * round.tiles), dim3(kThreads), 0, round, batch);
          finish_round(launch, round, ListedNeighbours<T>{round.lists, round.neighbours, task.leaves}, r, batch);
        }
        const WideRound<T> rest = wide.round(workspace, wide.rounds());
        const ListedNeighbours<T> listed{rest.lists, rest.neighbours, task.leaves};
        merge_batch(launch, task, ContractedGraph<T>{rest.state, rest.nodes, listed, wide.rounds()}, left, batch,
                    workspace + wide_bytes);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("merge_pixels", TORCH_BOX(&dhvt::merge_pixels)); }
