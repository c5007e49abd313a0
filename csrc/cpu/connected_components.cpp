// Connected components of a label map, with small or secondary components joined to a neighbour.
//
// Everything works on runs (maximal stretches of one label in a row), so most pixels are read once and written once.
// Strips of kStripRows rows are labelled independently (one task each); their components are called parts. Then each
// image joins its parts across strip borders. Only fragments get neighbours and means, and each is looked at once, when
// the first of its neighbours is resolved. About 8 bytes per pixel, plus bC where there are features and fragments.
#include "connected_components.h"

#include <algorithm>
#include <limits>

#include "common.h"

namespace dhvt {
namespace {

struct Run {
  int32_t begin, label;
};

struct Edge {
  int32_t fragment, neighbor;
};

// One strip of an image. Each row's runs end with a sentinel {width, -1}, so a run ends where the next one begins.
struct Strip {
  std::vector<Run> runs;
  std::vector<int32_t> row_begin;    // [rows + 1] into runs
  std::vector<int32_t> part;         // [runs] part of this strip, -1 = no segment
  std::vector<int32_t> label, size;  // [parts]
  std::vector<Edge> edges;           // of fragments, in components of the image
  int32_t first_part = 0;            // of the image
};

struct Image {
  std::vector<int32_t> component;    // [parts]; in the end, the result's id
  std::vector<int32_t> label, size;  // [components], in raster order of the first pixel
  std::vector<int32_t> main;         // [components] main component of the label
  std::vector<int32_t> leaf;         // [components] kept component that it belongs to; negative = not known yet
  std::vector<uint8_t> is_fragment;  // [components]
  std::vector<int64_t> edge_begin;   // [components + 1] into neighbors
  std::vector<int32_t> neighbors;
  std::vector<int32_t> part_slot;  // [parts] row of `sums`, -1 = no mean needed
  std::vector<int32_t> slot;       // [components] row of `sums` that ends up as the mean
  std::vector<double> sums;        // [slots,C]
  std::vector<int32_t> id;         // [components] the result
  bool has_fragments = false;
};

constexpr int32_t kUnresolved = -1, kQueued = -2;

// Calls body(a, b) for every pair of runs of two neighbouring rows that share a column. Rows end with a sentinel. Where
// borders fall is unpredictable, so the pointers advance without branches, here and below.
template <typename Body>
void for_overlaps(const Run* above, const Run* below, int32_t width, const Body& body) {
  int32_t a = 0, b = 0, end;
  do {
    body(a, b);
    const int32_t above_end = above[a + 1].begin, below_end = below[b + 1].begin;
    a += above_end <= below_end;
    b += below_end <= above_end;
    end = std::min(above_end, below_end);
  } while (end < width);
}

// Writes the runs of one row to `runs` [W+1]; returns how many there are with the sentinel.
int32_t find_runs(const int32_t* row, int32_t width, Run* runs) {
  int32_t count = 1, previous = row[0];
  runs[0] = {0, previous};
  for (int32_t x = 1; x < width; ++x) {
    const int32_t label = row[x];
    runs[count] = {x, label};
    count += label != previous;
    previous = label;
  }
  runs[count] = {width, -1};
  return count + 1;
}

// Runs and parts of one strip. labels [rows,W].
void label_strip(const int32_t* labels, int64_t rows, int32_t width, Strip& strip) {
  std::vector<Run> row_runs(width + 1);
  std::vector<int32_t> parents;
  strip.row_begin.assign(1, 0);
  for (int64_t y = 0; y < rows; ++y) {
    const int32_t first = strip.row_begin.back(), count = find_runs(labels + y * width, width, row_runs.data());
    strip.runs.insert(strip.runs.end(), row_runs.begin(), row_runs.begin() + count);
    strip.row_begin.push_back(first + count);
    parents.resize(first + count);
    int32_t* parent = parents.data();
    for (int32_t i = first; i < first + count; ++i) parent[i] = i;
    if (y == 0) continue;
    const int32_t above = strip.row_begin[y - 1];
    const Run *upper = &strip.runs[above], *lower = &strip.runs[first];
    for_overlaps(upper, lower, width, [&](int32_t a, int32_t b) {
      // A run's first match only takes over the parent; a second one with another parent is rare.
      const bool match = (upper[a].label == lower[b].label) & (lower[b].label >= 0);
      const int32_t from = parent[above + a], to = parent[first + b];
      const bool fresh = to == first + b;
      parent[first + b] = match & fresh ? from : to;
      if (match & !fresh & (from != to)) unite(parent, from, to);
    });
  }
  // Parents come first, so one pass turns them into dense part numbers.
  const auto num_runs = static_cast<int32_t>(strip.runs.size());
  strip.part = std::move(parents);
  int32_t* part = strip.part.data();
  int32_t num_parts = 0;
  for (int32_t i = 0; i < num_runs; ++i) num_parts += (part[i] == i) & (strip.runs[i].label >= 0);
  strip.label.resize(num_parts + 1);  // the last one takes what is written for runs without a segment
  strip.size.assign(num_parts + 1, 0);
  int32_t next = 0;
  for (int32_t i = 0; i + 1 < num_runs; ++i) {
    const Run run = strip.runs[i];
    const bool is_root = part[i] == i;
    const int32_t number = run.label < 0 ? -1 : is_root ? next : part[part[i]];
    const int32_t entry = run.label < 0 ? num_parts : number;
    part[i] = number;
    strip.label[entry] = run.label;
    strip.size[entry] += strip.runs[i + 1].begin - run.begin;
    next += is_root & (run.label >= 0);
  }
  strip.label.pop_back();
  strip.size.pop_back();
}

// Joins the parts of an image's strips into components.
void join_strips(Strip* strips, int64_t num_strips, int32_t width, Image& image) {
  int32_t num_parts = 0;
  for (int64_t s = 0; s < num_strips; ++s) {
    strips[s].first_part = num_parts;
    num_parts += static_cast<int32_t>(strips[s].size.size());
  }
  std::vector<int32_t>& parent = image.component;
  parent.resize(num_parts);
  for (int32_t i = 0; i < num_parts; ++i) parent[i] = i;
  for (int64_t s = 1; s < num_strips; ++s) {
    const Strip &upper = strips[s - 1], &lower = strips[s];
    const int32_t above = upper.row_begin[upper.row_begin.size() - 2];
    for_overlaps(&upper.runs[above], lower.runs.data(), width, [&](int32_t a, int32_t b) {
      if (upper.runs[above + a].label == lower.runs[b].label && lower.runs[b].label >= 0)
        unite(parent.data(), upper.first_part + upper.part[above + a], lower.first_part + lower.part[b]);
    });
  }
  for (int64_t s = 0, i = 0; s < num_strips; ++s) {
    for (size_t part = 0; part < strips[s].size.size(); ++part, ++i) {
      if (parent[i] == i) {
        parent[i] = static_cast<int32_t>(image.size.size());
        image.label.push_back(strips[s].label[part]);
        image.size.push_back(0);
      } else {
        parent[i] = parent[parent[i]];
      }
      image.size[parent[i]] += strips[s].size[part];
    }
  }
}

// The largest component of each label, the first among equals. Labels have no bound, so they are hashed.
void find_main(Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  uint32_t capacity = 16;
  while (capacity < 2u * static_cast<uint32_t>(count)) capacity *= 2;
  std::vector<int32_t> table(capacity, -1);  // component
  std::vector<uint32_t> entry(count);
  for (int32_t i = 0; i < count; ++i) {
    uint32_t place = static_cast<uint32_t>(image.label[i]) * 2654435769u;
    place = (place ^ (place >> 15)) & (capacity - 1);
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
    const bool kept = image.main[i] == i && image.size[i] >= min_size;
    image.leaf[i] = kept ? i : kUnresolved;
    image.is_fragment[i] = !kept;
    image.has_fragments |= !kept;
  }
}

// Fragments' neighbours within a strip and to the row above it. One task per strip.
void find_edges(const Strip* previous, Strip& strip, int32_t width, const Image& image) {
  // The component of each run of a row, times two, plus one for a fragment; -1 without segment.
  const auto read_row = [&](const Strip& of, size_t y, std::vector<int32_t>& nodes) {
    const int32_t first = of.row_begin[y], count = of.row_begin[y + 1] - 1 - first;
    nodes.resize(count);
    int32_t any = 0;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t part = of.part[first + i];
      const int32_t component = part < 0 ? -1 : image.component[of.first_part + part];
      nodes[i] = part < 0 ? -1 : 2 * component + image.is_fragment[component];
      any |= part < 0 ? 0 : nodes[i];
    }
    return (any & 1) != 0;
  };
  // At most three pairs per column, two edges each; kept by moving the end, not by a branch.
  std::vector<Edge> edges(6 * static_cast<size_t>(width) + 2);
  size_t count = 0;
  const auto add = [&](int32_t a, int32_t b) {
    const bool differ = ((a | b) >= 0) & (a != b);
    edges[count] = {a / 2, b / 2};
    count += differ & (a & 1);
    edges[count] = {b / 2, a / 2};
    count += differ & (b & 1);
  };
  std::vector<int32_t> upper, lower;
  const Run* upper_runs = nullptr;
  bool upper_any = false;
  if (previous) {
    const size_t y = previous->row_begin.size() - 2;
    upper_runs = &previous->runs[previous->row_begin[y]];
    upper_any = read_row(*previous, y, upper);
  }
  for (size_t y = 0; y + 1 < strip.row_begin.size(); ++y) {
    const Run* lower_runs = &strip.runs[strip.row_begin[y]];
    const bool lower_any = read_row(strip, y, lower);
    if (lower_any)
      for (size_t i = 1; i < lower.size(); ++i) add(lower[i - 1], lower[i]);
    if (upper_runs && (upper_any || lower_any))
      for_overlaps(upper_runs, lower_runs, width, [&](int32_t a, int32_t b) { add(upper[a], lower[b]); });
    strip.edges.insert(strip.edges.end(), edges.begin(), edges.begin() + count);
    count = 0;
    upper.swap(lower);
    upper_runs = lower_runs;
    upper_any = lower_any;
  }
}

// Edges by fragment, and a row of sums for every part of a component whose mean will be asked for.
void gather_edges(Strip* strips, int64_t num_strips, int64_t channels, Image& image) {
  const size_t count = image.size.size();
  std::vector<int64_t>& begin = image.edge_begin;
  begin.assign(count + 2, 0);  // shifted by one while it counts, so that filling leaves it in place
  for (int64_t s = 0; s < num_strips; ++s)
    for (const Edge& edge : strips[s].edges) ++begin[edge.fragment + 2];
  for (size_t i = 2; i < begin.size(); ++i) begin[i] += begin[i - 1];
  image.neighbors.resize(begin.back());
  for (int64_t s = 0; s < num_strips; ++s) {
    for (const Edge& edge : strips[s].edges) image.neighbors[begin[edge.fragment + 1]++] = edge.neighbor;
    std::vector<Edge>().swap(strips[s].edges);
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

// Feature sums of the parts of one strip: each run from its own zero, runs in raster order. features [B,C,H,W].
template <typename scalar_t>
void sum_strip(const ImageView<const scalar_t>& features, int64_t b, int64_t top, const Strip& strip, Image& image) {
  constexpr int64_t kBlock = 4;  // channels at a time
  const int64_t channels = features.channels, step = features.column_stride;
  std::vector<int32_t> runs;  // of this row whose sum is needed
  for (size_t y = 0; y + 1 < strip.row_begin.size(); ++y) {
    const scalar_t* row = features.pixel(b, top + static_cast<int64_t>(y), 0);
    runs.clear();
    for (int32_t i = strip.row_begin[y]; i < strip.row_begin[y + 1] - 1; ++i)
      if (strip.part[i] >= 0 && image.part_slot[strip.first_part + strip.part[i]] >= 0) runs.push_back(i);
    for (int64_t c0 = 0; c0 < channels; c0 += kBlock) {
      const int64_t block = std::min(kBlock, channels - c0);
      const scalar_t* plane[kBlock];
      for (int64_t c = 0; c < kBlock; ++c) plane[c] = row + std::min(c0 + c, channels - 1) * features.channel_stride;
      for (int32_t i : runs) {
        double sum[kBlock] = {};
        for (int64_t x = strip.runs[i].begin; x < strip.runs[i + 1].begin; ++x)
          for (int64_t c = 0; c < kBlock; ++c) sum[c] += acc_t<scalar_t>(plane[c][x * step]);
        double* out = &image.sums[image.part_slot[strip.first_part + strip.part[i]] * channels + c0];
        for (int64_t c = 0; c < block; ++c) out[c] += sum[c];
      }
    }
  }
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

// A wave reads only what earlier waves resolved, so its order is free.
void run_waves(int64_t channels, std::vector<int32_t>& wave, Image& image) {
  std::vector<int32_t> next, chosen;
  while (!wave.empty()) {
    chosen.resize(wave.size());
    parallel(
        static_cast<int64_t>(wave.size()), [&](int64_t i) { chosen[i] = choose_leaf(wave[i], channels, image); }, 1024);
    for (size_t i = 0; i < wave.size(); ++i) image.leaf[wave[i]] = chosen[i];
    next.clear();
    for (int32_t i : wave) queue_neighbors(i, image, next);
    wave.swap(next);
  }
}

// Waves from the kept components outwards; then, where a connected piece of the image has no kept component, from the
// largest main component of the piece, which is kept in spite of its size.
void resolve_fragments(int64_t channels, Image& image) {
  const auto count = static_cast<int32_t>(image.size.size());
  std::vector<int32_t> wave;
  for (int32_t i = 0; i < count; ++i) {
    const auto touches_kept = [&](int64_t e) { return !image.is_fragment[image.neighbors[e]]; };
    for (int64_t e = image.edge_begin[i]; e < image.edge_begin[i + 1]; ++e) {
      if (!touches_kept(e)) continue;
      image.leaf[i] = kQueued;
      wave.push_back(i);
      break;
    }
  }
  run_waves(channels, wave, image);
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
  for (int32_t i : anchor)
    if (i >= 0) queue_neighbors(i, image, wave);
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

// out [rows,W]. Eight pixels at a time: what goes past a run is overwritten by the next one of the row.
void write_strip(const Strip& strip, int32_t width, const Image& image, int32_t* out) {
  for (size_t y = 0; y + 1 < strip.row_begin.size(); ++y, out += width) {
    for (int32_t i = strip.row_begin[y]; i < strip.row_begin[y + 1] - 1; ++i) {
      const int32_t begin = strip.runs[i].begin, end = strip.runs[i + 1].begin;
      const int32_t value = strip.part[i] < 0 ? -1 : image.component[strip.first_part + strip.part[i]];
      int32_t x = begin;
      for (; x < end && x + 8 <= width; x += 8)
        for (int32_t k = 0; k < 8; ++k) out[x + k] = value;
      for (; x < end; ++x) out[x] = value;
    }
  }
}

std::tuple<Tensor, Tensor> connected_components(const Tensor& labels, const std::optional<Tensor>& features,
                                                int64_t min_size, bool largest_only) {
  check(labels, "labels [B,H,W]", ScalarType::Int, {-1, -1, -1});
  const int64_t batch = labels.size(0), height = labels.size(1), width64 = labels.size(2);
  if (features.has_value())
    check(*features, "features [B,C,H,W]", features->scalar_type(), {batch, -1, height, width64});
  STD_TORCH_CHECK(height == 0 || width64 < std::numeric_limits<int32_t>::max() / 2 / height,
                  "labels [B,H,W]: expected at most 2^30 pixels per image");
  Tensor components = empty({batch, height, width64}, ScalarType::Int, labels);
  if (batch * height * width64 == 0) return {components, zeros({batch}, ScalarType::Int, labels)};
  Tensor counts = empty({batch}, ScalarType::Int, labels);

  const Tensor source = dense(labels);
  const int32_t* label = data<int32_t>(source);
  int32_t *out = mutable_data<int32_t>(components), *num_leaves = mutable_data<int32_t>(counts);
  const auto width = static_cast<int32_t>(width64);
  const int64_t num_strips = (height + kStripRows - 1) / kStripRows;
  const int64_t channels = features.has_value() ? features->size(1) : 0;
  std::vector<Strip> strips(batch * num_strips);
  std::vector<Image> images(batch);

  parallel(batch * num_strips, [&](int64_t task) {
    const int64_t b = task / num_strips, top = task % num_strips * kStripRows;
    label_strip(label + (b * height + top) * width, std::min(kStripRows, height - top), width, strips[task]);
  });
  parallel(batch, [&](int64_t b) {
    join_strips(&strips[b * num_strips], num_strips, width, images[b]);
    find_fragments(min_size, largest_only, images[b]);
  });
  if (std::any_of(images.begin(), images.end(), [](const Image& image) { return image.has_fragments; })) {
    parallel(batch * num_strips, [&](int64_t task) {
      const Image& image = images[task / num_strips];
      const Strip* previous = task % num_strips ? &strips[task - 1] : nullptr;
      if (image.has_fragments) find_edges(previous, strips[task], width, image);
    });
    parallel(batch, [&](int64_t b) {
      if (images[b].has_fragments) gather_edges(&strips[b * num_strips], num_strips, channels, images[b]);
    });
    if (channels > 0) {
      dispatch_floating(features->scalar_type(), "connected_components", [&](auto tag) {
        const auto view = image_view<typename decltype(tag)::type>(*features);
        parallel(batch * num_strips, [&](int64_t task) {
          Image& image = images[task / num_strips];
          if (image.has_fragments)
            sum_strip(view, task / num_strips, task % num_strips * kStripRows, strips[task], image);
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
    const int64_t b = task / num_strips, top = task % num_strips * kStripRows;
    write_strip(strips[task], width, images[b], out + (b * height + top) * width);
  });
  return {components, counts};
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) {
  m.impl("connected_components", TORCH_BOX(&dhvt::connected_components));
}
