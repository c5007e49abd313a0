// Connected components of a label map, with small or secondary components joined to a neighbour.
//
// Tiles of kStripRows rows are labelled in shared memory; their parts are joined to components of the image with
// union-find in global memory, where only roots matter; fragments join in one block per image; then each pixel gets its
// number. Three launches for components alone, six with everything, a few more for images of more than kSmallImage
// pixels. Nothing depends on the order of threads: roots are minima, sizes whole numbers, each choice the best of a
// total order, and sums have one order.
#include "connected_components_host.h"

#include "cuda/components_join.cuh"
#include "cuda/components_resolve.cuh"
#include "cuda/components_sums.cuh"
#include "cuda/components_tiles.cuh"

namespace dhvt {
namespace {

constexpr int64_t kSmallImage = int64_t(1) << 17;  // pixels of an image whose tiles one block joins

// One thread per pixel: 4 bytes in, 4 out, in the same place; what belongs to roots comes from the caches.
struct WriteNumbers {
  ComponentImages images;

  __device__ void operator()(int64_t b, int64_t, int64_t pixel) const {
    const ComponentImages image = images.of(b);
    const int32_t component = image.component_of(int32_t(pixel));
    const int32_t kept = component < 0 || !images.size ? component : image.leaf[component];
    image.tile_root[pixel] = kept < 0 ? -1 : image.number[kept];
  }
};

// Arrays one after the other, from multiples of 16 bytes on.
class Carver {
 public:
  explicit Carver(uint8_t* begin) : begin_(begin) {}

  template <typename T>
  T* take(int64_t count) {
    const int64_t at = size_;
    size_ += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
    return reinterpret_cast<T*>(begin_ + at);
  }
  int64_t size() const { return size_; }

 private:
  uint8_t* begin_;
  int64_t size_ = 0;
};

// The workspace of a batch: what it is for is in ComponentImages.
int64_t carve(uint8_t* workspace, int64_t batch, bool fragments, ComponentImages& images) {
  Carver carver(workspace);
  const int64_t pixels = batch * images.height * images.width, words = batch * images.height * images.words;
  images.strip_root = images.width > kTileColumns ? carver.take<int32_t>(pixels) : nullptr;
  images.component = carver.take<int32_t>(pixels);
  images.number = carver.take<int32_t>(pixels);
  images.tile_bits = carver.take<uint32_t>(words);
  images.bits = carver.take<uint32_t>(words);
  images.counters = carver.take<int32_t>(batch * kCounters);
  if (!fragments) return carver.size();
  images.size = images.number;
  images.leaf = carver.take<int32_t>(pixels);
  images.head = carver.take<int32_t>(pixels);
  images.next = carver.take<int32_t>(pixels);
  images.boundary = carver.take<int32_t>(pixels);
  images.queue = carver.take<int32_t>(pixels);
  images.low = carver.take<int32_t>(pixels);
  images.high = carver.take<int32_t>(pixels);
  images.kept = carver.take<uint32_t>(words);
  if (images.largest_only) images.table = carver.take<int32_t>(batch * images.table_size);
  if (images.channels == 0) return carver.size();
  images.starts = carver.take<uint32_t>(words);
  images.sums = carver.take<double>(pixels * images.channels);
  images.crossing = carver.take<uint64_t>(batch * images.most_crossing);
  return carver.size();
}

template <typename Step>
void run_step(const Launcher& launch, const ComponentImages& images, int64_t batch) {
  const int64_t items = Step::items(images);
  for_each(launch, batch * items, StepOfBatch<Step>{images, items});
}

void join_tiles(const Launcher& launch, const ComponentImages& images, int64_t batch) {
  constexpr size_t kScratch = 33 * sizeof(int32_t);
  if (int64_t(images.height) * images.width <= kSmallImage) {
    launch(join_image_kernel, blocks_for(batch), dim3(kJoinThreads), kScratch, images, batch);
    return;
  }
  run_step<JoinColumns>(launch, images, batch);
  run_step<JoinRows>(launch, images, batch);
  run_step<Flatten>(launch, images, batch);
  if (images.size == nullptr) {
    launch(number_kernel, blocks_for(batch), dim3(kJoinThreads), kScratch, images, batch);
    return;
  }
  if (images.largest_only) run_step<FindMain>(launch, images, batch);
  run_step<FindFragments>(launch, images, batch);
}

void label_components(const Launcher& launch, const Tensor& labels, const std::optional<Tensor>& features,
                      int64_t min_size, bool largest_only, const Tensor& components, const Tensor& counts) {
  const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2);
  const bool fragments = largest_only || min_size > 1;
  ComponentImages images{};
  images.height = int32_t(height);
  images.width = int32_t(width);
  images.words = int32_t((width + 31) / 32);
  images.min_size = min_size;
  images.largest_only = largest_only;
  if (fragments && features.has_value()) images.channels = int32_t(features->size(1));
  for (images.table_size = 1; images.table_size < height * width;) images.table_size *= 2;
  // A part that is not the first of its component has a pixel in the first or the last row of its strip.
  const int64_t strips = (height + kStripRows - 1) / kStripRows;
  images.most_crossing = std::min(2 * strips, height) * width;
  images.labels = data<int32_t>(labels);
  images.tile_root = mutable_data<int32_t>(components);
  images.counts = mutable_data<int32_t>(counts);
  const Tensor workspace = empty({carve(nullptr, batch, fragments, images)}, ScalarType::Byte, labels);
  carve(mutable_data<uint8_t>(workspace), batch, fragments, images);

  const int64_t tiles = batch * strips * ((width + kTileColumns - 1) / kTileColumns);
  launch(label_tiles_kernel, blocks_for(tiles), dim3(kThreads), (kTilePixels + 2 * kThreads) * sizeof(int32_t), images,
         batch);
  join_tiles(launch, images, batch);
  if (fragments) {
    for_each_pixel(launch, batch, 1, height * width, ListBoundary{images});
    if (images.channels > 0) {
      dispatch_floating(features->scalar_type(), "connected_components", [&](auto tag) {
        using scalar_t = typename decltype(tag)::type;
        launch(sum_strips_kernel<scalar_t>, blocks_for(batch * strips), dim3(kSumThreads), sizeof(SumScratch), images,
               image_view<scalar_t>(*features));
      });
    }
    launch(resolve_kernel, blocks_for(batch), dim3(kResolveThreads),
           kSortedInShared * sizeof(uint64_t) + 34 * sizeof(int32_t), images, batch);
  }
  for_each_pixel(launch, batch, 1, height * width, WriteNumbers{images});
}

std::tuple<Tensor, Tensor> connected_components(const Tensor& labels, const std::optional<Tensor>& features,
                                                int64_t min_size, bool largest_only) {
  const Launcher launch(labels);
  return connected_components_checked(
      labels, features, [&](const Tensor& labels, const Tensor& components, const Tensor& counts) {
        label_components(launch, labels, features, min_size, largest_only, components, counts);
      });
}

}  // namespace
}  // namespace dhvt

DHVT_CUDA_OPERATORS(m) { m.impl("connected_components", TORCH_BOX(&dhvt::connected_components)); }
