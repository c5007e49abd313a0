// Connected components of a label map, with small or secondary components joined to a neighbour.
//
// Everything works on runs (maximal stretches of one label in a row), so most pixels are read once and written once.
// Strips of kStripRows rows are labelled independently (one task each); their components are called parts. Then each
// image joins its parts across strip borders. Only fragments get neighbours and means, and each is looked at once, when
// the first of its neighbours is resolved. About 8 bytes per pixel, plus bC where there are features and fragments.
#include "connected_components.h"

#include <algorithm>
#include <memory>

#include "connected_components_host.h"
#include "cpu/levels/connected_components_kernels.h"

namespace dhvt {
namespace {

template <typename T>
std::unique_ptr<T[]> scratch(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);  // not cleared
}

struct StripData : Strip {
  std::unique_ptr<uint64_t[]> bits;
  std::unique_ptr<int32_t[]> numbers;
  std::vector<FragmentEdge> edges;  // in components of the image
};

struct Image {
  std::vector<int32_t> component;    // [parts]; in the end, the result's id
  std::vector<int32_t> label, size;  // [components], in raster order of the first pixel
  std::vector<int32_t> main;         // [components] main component of the label
  std::vector<int32_t> leaf;         // [components] kept component that it belongs to; negative = not known yet
  std::vector<uint8_t> is_fragment;  // [components]
  std::vector<int32_t> node;         // [parts] component * 2 + is_fragment
  std::vector<int64_t> edge_begin;   // [components + 1] into neighbors
  std::vector<int32_t> neighbors;
  std::vector<int32_t> part_slot;  // [parts] row of `sums`, -1 = no mean needed
  std::vector<int32_t> slot;       // [components] row of `sums` that ends up as the mean
  std::vector<double> sums;        // [slots,C]
  bool has_fragments = false;
};

constexpr int32_t kUnresolved = -1, kQueued = -2;

// Runs and parts of one strip, in memory of their size: what they may need at most is many times as much. labels
// [rows,W].
void build_strip(const int32_t* labels, int64_t rows, int32_t width, StripData& strip) {
  const int64_t words = (width + 63) / 64, max_runs = rows * (width + 1) + kRunPadding, max_parts = rows * width + 2;
  strip.bits = scratch<uint64_t>(rows * words);
  strip.starts = strip.bits.get();
  const auto large = scratch<int32_t>(rows + 1 + 2 * max_runs + 2 * max_parts);
  strip.row_begin = large.get();
  strip.begin = strip.row_begin + rows + 1;
  strip.part = strip.begin + max_runs;
  strip.first = strip.part + max_runs;
  strip.size = strip.first + max_parts + 1;
  DHVT_AT_LEVEL(label_strip)(labels, rows, width, strip);
  const int64_t runs = strip.row_begin[rows];
  strip.numbers = scratch<int32_t>(rows + 1 + 2 * (runs + strip.num_parts));
  int32_t* next = strip.numbers.get();
  const auto keep = [&](int32_t*& values, int64_t size) {
    std::copy_n(values, size, next);
    values = next;
    next += size;
  };
  keep(strip.row_begin, rows + 1);
  keep(strip.begin, runs);
  keep(strip.part, runs);
  keep(strip.first, strip.num_parts);
  keep(strip.size, strip.num_parts);
}

// Joins the parts of an image's strips into components. labels [H,W].
void join_parts(const int32_t* labels, StripData* strips, int64_t num_strips, int32_t width, Image& image) {
  int32_t num_parts = 0;
  for (int64_t s = 0; s < num_strips; ++s) {
    strips[s].first_part = num_parts;
    num_parts += strips[s].num_parts;
  }
  std::vector<int32_t>& parent = image.component;
  parent.resize(num_parts);
  for (int32_t i = 0; i < num_parts; ++i) parent[i] = i;
  for (int64_t s = 1; s < num_strips; ++s)
    DHVT_AT_LEVEL(join_strips)(labels + s * kStripRows * width, width, strips[s - 1], kStripRows, strips[s],
                               parent.data());
  image.label.resize(num_parts);
  image.size.assign(num_parts, 0);
  int32_t count = 0;
  for (int64_t s = 0, i = 0; s < num_strips; ++s) {
    const int32_t* strip_labels = labels + s * kStripRows * width;
    for (int32_t part = 0; part < strips[s].num_parts; ++part, ++i) {
      const bool is_root = parent[i] == i;
      parent[i] = is_root ? count : parent[parent[i]];
      count += is_root;
      if (is_root) image.label[parent[i]] = strip_labels[strips[s].first[part]];
      image.size[parent[i]] += strips[s].size[part];
    }
  }
  image.label.resize(count);
  image.size.resize(count);
}

// The largest component of each label, the first among equals. Labels have no bound: large ones are hashed.
void find_main(Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  uint32_t capacity = 16;
  while (capacity < 2u * static_cast<uint32_t>(count)) capacity *= 2;
  std::vector<int32_t> table(capacity, -1);  // component
  std::vector<uint32_t> entry(count);
  const bool direct = std::all_of(image.label.begin(), image.label.end(),
                                  [&](int32_t k) { return static_cast<uint32_t>(k) < capacity; });
  for (int32_t i = 0; i < count; ++i) {
    uint32_t place = static_cast<uint32_t>(image.label[i]) * 2654435769u;
    place = direct ? image.label[i] : (place ^ (place >> 15)) & (capacity - 1);
    while (table[place] >= 0 && image.label[table[place]] != image.label[i]) place = (place + 1) & (capacity - 1);
    if (table[place] < 0 || image.size[i] > image.size[table[place]]) table[place] = i;
    entry[i] = place;
  }
  for (int32_t i = 0; i < count; ++i) image.main[i] = table[entry[i]];
}

// Which components stay and which are fragments.
void find_fragments(int64_t min_size, bool largest_only, Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  image.main.resize(count);
  image.leaf.resize(count);
  image.is_fragment.resize(count);
  for (int32_t i = 0; i < count; ++i) image.main[i] = i;
  if (largest_only) find_main(image);
  for (int32_t i = 0; i < count; ++i) {
    const bool kept = (image.main[i] == i) & (image.size[i] >= min_size);
    image.leaf[i] = kept ? i : kUnresolved;
    image.is_fragment[i] = !kept;
    image.has_fragments |= !kept;
  }
  if (!image.has_fragments) return;
  image.node.resize(image.component.size() + 1);
  for (size_t i = 0; i < image.component.size(); ++i)
    image.node[i] = 2 * image.component[i] + image.is_fragment[image.component[i]];
}

// Fragments' neighbours within a strip and to the row above it. One task per strip.
void collect_edges(const StripData* previous, StripData& strip, int64_t rows, int32_t width, const Image& image) {
  const int64_t words = (width + 63) / 64;
  const auto values = scratch<int32_t>(width + kRunPadding);
  const auto nodes = scratch<int32_t>(2 * static_cast<int64_t>(width));
  const auto edges = scratch<FragmentEdge>(6 * static_cast<int64_t>(width) + 1);
  std::vector<uint64_t> seen(size_t(1) << kSeenBits, ~uint64_t(0));
  int32_t *row = nodes.get(), *above = row + width;
  const auto find = DHVT_AT_LEVEL(find_edges);
  const auto find_row = [&](const StripData& of, int64_t y, const uint64_t* above_starts) {
    return find(image.node.data(), of, y, width, above_starts, values.get(), above_starts ? above : nullptr, row,
                seen.data(), edges.get());
  };
  const uint64_t* above_starts = nullptr;
  if (previous) {
    find_row(*previous, kStripRows - 1, nullptr);  // only for its nodes
    std::swap(row, above);
    above_starts = previous->starts + (kStripRows - 1) * words;
    std::fill(seen.begin(), seen.end(), ~uint64_t(0));
  }
  for (int64_t y = 0; y < rows; ++y) {
    const int64_t count = find_row(strip, y, above_starts);
    strip.edges.insert(strip.edges.end(), edges.get(), edges.get() + count);
    std::swap(row, above);
    above_starts = strip.starts + y * words;
  }
}

// Edges by fragment, and a row of sums for every part of a component whose mean will be asked for.
void gather_edges(StripData* strips, int64_t num_strips, int64_t channels, Image& image) {
  const size_t count = image.size.size();
  std::vector<int64_t>& begin = image.edge_begin;
  begin.assign(count + 2, 0);  // shifted by one while it counts, so that filling leaves it in place
  for (int64_t s = 0; s < num_strips; ++s)
    for (const FragmentEdge& edge : strips[s].edges) ++begin[edge.fragment + 2];
  for (size_t i = 2; i < begin.size(); ++i) begin[i] += begin[i - 1];
  image.neighbors.resize(begin.back());
  for (int64_t s = 0; s < num_strips; ++s) {
    for (const FragmentEdge& edge : strips[s].edges) image.neighbors[begin[edge.fragment + 1]++] = edge.neighbor;
    std::vector<FragmentEdge>().swap(strips[s].edges);
  }
  if (channels == 0) return;
  std::vector<uint8_t> needed(count, 0);
  for (size_t i = 0; i < count; ++i) needed[i] = begin[i + 1] > begin[i];
  for (int32_t neighbor : image.neighbors) needed[neighbor] = 1;
  image.part_slot.resize(image.component.size());
  image.slot.assign(count, -1);
  int32_t slots = 0;
  for (size_t i = 0; i < image.component.size(); ++i) {
    const int32_t component = image.component[i];
    image.part_slot[i] = needed[component] ? slots++ : -1;
    if (image.slot[component] < 0) image.slot[component] = image.part_slot[i];
  }
  image.sums.assign(static_cast<size_t>(slots) * channels, 0);
}

// Parts' sums, top to bottom, to components' means, in the row of the first part.
void finish_means(int64_t channels, Image& image) {
  for (size_t i = 0; i < image.component.size(); ++i) {
    const int64_t from = image.part_slot[i], to = image.slot[image.component[i]];
    if (from == to) continue;  // also where neither has a row
    for (int64_t c = 0; c < channels; ++c) image.sums[to * channels + c] += image.sums[from * channels + c];
  }
  for (size_t i = 0; i < image.slot.size(); ++i)
    if (image.slot[i] >= 0)
      for (int64_t c = 0; c < channels; ++c) image.sums[image.slot[i] * channels + c] /= image.size[i];
}

// The leaf that a fragment joins: the best among those of its resolved neighbours.
int32_t choose_leaf(int32_t fragment, int64_t channels, const Image& image) {
  const auto mean = [&](int32_t i) { return &image.sums[image.slot[i] * channels]; };
  Candidate best{0, 0, kUnresolved};
  for (int64_t e = image.edge_begin[fragment]; e < image.edge_begin[fragment + 1]; ++e) {
    const int32_t leaf = image.leaf[image.neighbors[e]];
    if (leaf < 0 || leaf == best.index) continue;
    const double distance = channels > 0 ? mean_distance(mean(fragment), mean(leaf), channels) : 0;
    const Candidate candidate{distance, image.size[leaf], leaf};
    if (best.index < 0 || is_better(candidate, best)) best = candidate;
  }
  return best.index;
}

// Queues the unresolved neighbours of component i, all of them fragments, for the next wave.
void queue_neighbors(int32_t i, Image& image, std::vector<int32_t>& wave) {
  for (int64_t e = image.edge_begin[i]; e < image.edge_begin[i + 1]; ++e) {
    const int32_t neighbor = image.neighbors[e];
    if (image.leaf[neighbor] != kUnresolved) continue;
    image.leaf[neighbor] = kQueued;
    wave.push_back(neighbor);
  }
}

// A wave reads only what earlier waves resolved, so its order is free. Negative where nothing touches a fragment yet.
void choose_leaves(int64_t channels, const std::vector<int32_t>& wave, std::vector<int32_t>& chosen,
                   const Image& image) {
  chosen.resize(wave.size());
  parallel(
      static_cast<int64_t>(wave.size()), [&](int64_t i) { chosen[i] = choose_leaf(wave[i], channels, image); }, 512);
}

// Waves from what `wave` has resolved outwards.
void run_waves(int64_t channels, std::vector<int32_t>& wave, Image& image) {
  std::vector<int32_t> next, chosen;
  while (!wave.empty()) {
    next.clear();
    for (int32_t i : wave) queue_neighbors(i, image, next);
    choose_leaves(channels, next, chosen, image);
    for (size_t i = 0; i < next.size(); ++i) image.leaf[next[i]] = chosen[i];
    wave.swap(next);
  }
}

// One wave of those in `rest` that touch something resolved: they go to `wave`.
void take_wave(int64_t channels, std::vector<int32_t>& rest, std::vector<int32_t>& wave, Image& image) {
  std::vector<int32_t> chosen;
  choose_leaves(channels, rest, chosen, image);
  wave.clear();
  size_t left = 0;
  for (size_t i = 0; i < rest.size(); ++i) {
    if (chosen[i] < 0) {
      rest[left++] = rest[i];
    } else {
      image.leaf[rest[i]] = chosen[i];
      wave.push_back(rest[i]);
    }
  }
  rest.resize(left);
}

// Waves from the kept components outwards; then, where a connected piece of the image has no kept component, from the
// largest main component of the piece, which is kept in spite of its size.
void resolve_fragments(int64_t channels, Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  std::vector<int32_t> wave, rest;
  for (int32_t i = 0; i < count; ++i)
    if (image.is_fragment[i]) rest.push_back(i);
  // The first wave holds most fragments: the second looks for its members among what is left, not around the first.
  take_wave(channels, rest, wave, image);
  take_wave(channels, rest, wave, image);
  run_waves(channels, wave, image);
  if (std::find(image.leaf.begin(), image.leaf.end(), kUnresolved) == image.leaf.end()) return;
  std::vector<int32_t> piece(count), anchor(count, -1);
  for (int32_t i = 0; i < count; ++i) piece[i] = i;
  for (int32_t i = 0; i < count; ++i)
    if (image.leaf[i] == kUnresolved)
      for (int64_t e = image.edge_begin[i]; e < image.edge_begin[i + 1]; ++e)
        unite(piece.data(), i, image.neighbors[e]);
  for (int32_t i = 0; i < count; ++i) {
    if (image.leaf[i] != kUnresolved || image.main[i] != i) continue;
    int32_t& best = anchor[find_root(piece.data(), i)];
    if (best < 0 || image.size[i] > image.size[best]) best = i;
  }
  for (int32_t i : anchor)
    if (i >= 0) image.leaf[i] = i;
  wave.clear();
  for (int32_t i : anchor)
    if (i >= 0) wave.push_back(i);
  run_waves(channels, wave, image);
}

// Dense ids in raster order of the leaves, for every part; returns how many there are.
int32_t number_leaves(Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  for (int32_t i = 0; i < count; ++i)
    if (image.leaf[i] < 0) image.leaf[i] = image.leaf[image.main[i]];  // a piece of secondary components only
  std::vector<int32_t> id(count);
  int32_t leaves = 0;
  for (int32_t i = 0; i < count; ++i)
    if (image.leaf[i] == i) id[i] = leaves++;
  for (int32_t& component : image.component) component = id[image.leaf[component]];
  return leaves;
}

void label_components(const Tensor& labels, const std::optional<Tensor>& features, int64_t min_size, bool largest_only,
                      const Tensor& components, const Tensor& counts) {
  const int64_t batch = labels.size(0), height = labels.size(1);
  const auto width = static_cast<int32_t>(labels.size(2));
  const int32_t* label = data<int32_t>(labels);
  int32_t *out = mutable_data<int32_t>(components), *num_leaves = mutable_data<int32_t>(counts);
  const int64_t num_strips = (height + kStripRows - 1) / kStripRows;
  const int64_t channels = features.has_value() ? features->size(1) : 0;
  std::vector<StripData> strips(batch * num_strips);
  std::vector<Image> images(batch);
  const auto rows_of = [&](int64_t task) { return std::min(kStripRows, height - task % num_strips * kStripRows); };
  const auto first_pixel = [&](int64_t task) {
    return (task / num_strips * height + task % num_strips * kStripRows) * width;
  };

  parallel(batch * num_strips,
           [&](int64_t task) { build_strip(label + first_pixel(task), rows_of(task), width, strips[task]); });
  parallel(batch, [&](int64_t b) {
    join_parts(label + b * height * width, &strips[b * num_strips], num_strips, width, images[b]);
    find_fragments(min_size, largest_only, images[b]);
  });
  if (std::any_of(images.begin(), images.end(), [](const Image& image) { return image.has_fragments; })) {
    parallel(batch * num_strips, [&](int64_t task) {
      const Image& image = images[task / num_strips];
      const StripData* previous = task % num_strips ? &strips[task - 1] : nullptr;
      if (image.has_fragments) collect_edges(previous, strips[task], rows_of(task), width, image);
    });
    parallel(batch, [&](int64_t b) {
      if (images[b].has_fragments) gather_edges(&strips[b * num_strips], num_strips, channels, images[b]);
    });
    if (channels > 0) {
      dispatch_floating(features->scalar_type(), "connected_components", [&](auto tag) {
        using scalar_t = typename decltype(tag)::type;
        const auto view = image_view<scalar_t>(*features);
        parallel(batch * num_strips, [&](int64_t task) {
          Image& image = images[task / num_strips];
          if (!image.has_fragments) return;
          const auto runs = scratch<int32_t>(width);
          DHVT_AT_LEVEL(sum_strip<scalar_t>)
          (view, task / num_strips, task % num_strips * kStripRows, rows_of(task), strips[task], image.part_slot.data(),
           runs.get(), image.sums.data());
        });
      });
    }
    // Not nested in threads where there is one image: then the waves themselves use them.
    parallel(batch, [&](int64_t b) {
      if (!images[b].has_fragments) return;
      if (channels > 0) finish_means(channels, images[b]);
      resolve_fragments(channels, images[b]);
    });
  }
  parallel(batch, [&](int64_t b) { num_leaves[b] = number_leaves(images[b]); });
  parallel(batch * num_strips, [&](int64_t task) {
    const auto values = scratch<int32_t>(width + kRunPadding);
    DHVT_AT_LEVEL(write_strip)
    (strips[task], rows_of(task), width, images[task / num_strips].component.data(), values.get(),
     out + first_pixel(task));
  });
}

std::tuple<Tensor, Tensor> connected_components(const Tensor& labels, const std::optional<Tensor>& features,
                                                int64_t min_size, bool largest_only) {
  return connected_components_checked(labels, features,
                                      [&](const Tensor& labels, const Tensor& components, const Tensor& counts) {
                                        label_components(labels, features, min_size, largest_only, components, counts);
                                      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("connected_components", TORCH_BOX(&dhvt::connected_components));
}
