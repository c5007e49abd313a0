// Which segments touch, and along how many pixel pairs.
#include "region_graph_host.h"

#include <algorithm>

#include "cpu/levels/region_graph_kernels.h"

namespace dhvt {
namespace {

constexpr int64_t kStripPixels = 8192;  // a task's share of an image: 32 KiB of labels

struct Neighbour {
  int32_t v, length;
};

// The pairs of the rows [begin, end), each row's own and those with the row below. label [H,W]
void collect_strip(const int32_t* label, int64_t height, int32_t width, int64_t num_segments, int64_t begin,
                   int64_t end, std::vector<Contact>& contacts) {
  const int64_t words = (width + 63) / 64;
  std::vector<uint64_t> bits(2 * words);
  std::vector<Contact> open(kOpenContacts, Contact{-1, -1, 0}), of_row(3 * static_cast<size_t>(width));
  uint64_t *starts = bits.data(), *below_starts = starts + words;
  const auto collect = DHVT_AT_LEVEL(collect_contacts);
  DHVT_AT_LEVEL(find_starts)(label + begin * width, width, starts);
  for (int64_t y = begin; y < end; ++y) {
    const int32_t* row = label + y * width;
    const int64_t count = collect(row, y + 1 < height ? row + width : nullptr, width, num_segments, starts,
                                  below_starts, open.data(), of_row.data());
    contacts.insert(contacts.end(), of_row.begin(), of_row.begin() + count);
    std::swap(starts, below_starts);
  }
  for (const Contact& contact : open)
    if (contact.u >= 0) contacts.push_back(contact);
}

// One image. Counting sort of the contacts by u; then u's neighbours lose their duplicates with the help of a marker
// per segment, and only what is left, a handful, is sorted. edges [E,2], lengths [E]; returns the number of edges.
int64_t build_edges(const std::vector<Contact>* strips, int64_t num_strips, int64_t num_segments, int64_t capacity,
                    int32_t* edges, int32_t* lengths) {
  std::vector<int64_t> end(num_segments + 1, 0);  // end of u's neighbours, once they are filled in
  for (int64_t s = 0; s < num_strips; ++s)
    for (const Contact& contact : strips[s]) ++end[contact.u + 1];
  for (int64_t u = 0; u < num_segments; ++u) end[u + 1] += end[u];
  std::vector<Neighbour> neighbours(end[num_segments]);
  for (int64_t s = 0; s < num_strips; ++s)
    for (const Contact& contact : strips[s]) neighbours[end[contact.u]++] = {contact.v, contact.length};

  std::vector<int64_t> marker(num_segments, -1);  // where in `neighbours` a segment was last kept
  int64_t count = 0;
  for (int64_t u = 0; u < num_segments; ++u) {
    const int64_t begin = u > 0 ? end[u - 1] : 0;
    int64_t kept = begin;
    for (int64_t i = begin; i < end[u]; ++i) {
      const Neighbour neighbour = neighbours[i];
      if (marker[neighbour.v] >= begin) {
        neighbours[marker[neighbour.v]].length += neighbour.length;
      } else {
        marker[neighbour.v] = kept;
        neighbours[kept++] = neighbour;
      }
    }
    std::sort(neighbours.begin() + begin, neighbours.begin() + kept,
              [](const Neighbour& a, const Neighbour& b) { return a.v < b.v; });
    for (int64_t i = begin; i < kept; ++i, ++count) {
      if (count >= capacity) continue;
      edges[2 * count] = static_cast<int32_t>(u);
      edges[2 * count + 1] = neighbours[i].v;
      lengths[count] = neighbours[i].length;
    }
  }
  for (int64_t i = count; i < capacity; ++i) {
    edges[2 * i] = edges[2 * i + 1] = -1;
    lengths[i] = 0;
  }
  return count;
}

// First one task per strip of rows, which reads each label twice (8 bytes per pixel) and keeps the pairs of different
// segments; then one task per image, which sees only those. All numbers are whole, so no order can change a result.
void build_graphs(const Tensor& labels, int64_t num_segments, const Tensor& edges, const Tensor& lengths,
                  const Tensor& counts) {
  const int64_t capacity = edges.size(1);
  const int64_t batch = labels.size(0), height = labels.size(1), width = labels.size(2);
  const int32_t* label = data<int32_t>(labels);
  int32_t* out_edges = mutable_data<int32_t>(edges);      // [B,E,2]
  int32_t* out_lengths = mutable_data<int32_t>(lengths);  // [B,E]
  int32_t* out_counts = mutable_data<int32_t>(counts);    // [B]

  const int64_t strip_rows = std::max<int64_t>(kStripPixels / std::max<int64_t>(width, 1), 1);
  const int64_t num_strips = (height + strip_rows - 1) / strip_rows;
  std::vector<std::vector<Contact>> contacts(batch * num_strips);
  parallel(batch * num_strips, [&](int64_t task) {
    const int64_t b = task / num_strips, begin = task % num_strips * strip_rows;
    if (width == 0) return;
    collect_strip(label + b * height * width, height, static_cast<int32_t>(width), num_segments, begin,
                  std::min(begin + strip_rows, height), contacts[task]);
  });
  parallel(batch, [&](int64_t b) {
    out_counts[b] =
        static_cast<int32_t>(build_edges(contacts.data() + b * num_strips, num_strips, num_segments, capacity,
                                         out_edges + b * capacity * 2, out_lengths + b * capacity));
  });
}

std::tuple<Tensor, Tensor, Tensor> region_graph(const Tensor& labels, int64_t num_segments, int64_t capacity) {
  return region_graph_checked(
      labels, num_segments, capacity,
      [&](const Tensor& labels, const Tensor& edges, const Tensor& lengths, const Tensor& counts) {
        build_graphs(labels, num_segments, edges, lengths, counts);
      });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("region_graph", TORCH_BOX(&dhvt::region_graph)); }
