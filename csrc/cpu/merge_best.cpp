// Merging of a region graph into a binary tree, the nearest pair of all first.
#include <bit>

#include "cpu/merge_graph.h"
#include "merge_tree_host.h"

namespace dhvt {
namespace {

constexpr uint32_t kEnded = ~uint32_t(0);

// Two vertices that touch.
struct Contact {
  int32_t u, v;
  uint32_t offer;  // the number of the latest, or kEnded
  int64_t length;

  int32_t other(int32_t of) const { return u ^ v ^ of; }
};

// The contact of two vertices: open addressing, at most half full.
class ContactTable {
 public:
  explicit ContactTable(const std::vector<Contact>& contacts)
      : contacts_(contacts), bits_(std::bit_width(2 * contacts.size() + 1)), slots_(size_t(1) << bits_, -1) {}

  // Where the contact is, or where it has to go: -1.
  int32_t& at(int32_t u, int32_t v) { return slots_[find(u, v)]; }

  void erase(int32_t u, int32_t v) {
    size_t hole = find(u, v);
    slots_[hole] = -1;
    // What lies behind is found from its home on, without a gap.
    for (size_t i = next(hole); slots_[i] >= 0; i = next(i)) {
      const Contact& contact = contacts_[slots_[i]];
      const size_t from = home(contact.u, contact.v);
      if (((i - from) & mask()) < ((i - hole) & mask())) continue;
      slots_[hole] = slots_[i];
      slots_[i] = -1;
      hole = i;
    }
  }

 private:
  size_t mask() const { return slots_.size() - 1; }
  size_t next(size_t i) const { return (i + 1) & mask(); }
  size_t home(int32_t u, int32_t v) const {
    const uint64_t key = uint64_t(std::min(u, v)) << 32 | uint64_t(std::max(u, v));
    return key * 0x9e3779b97f4a7c15u >> (64 - bits_);
  }
  size_t find(int32_t u, int32_t v) const {
    size_t i = home(u, v);
    for (; slots_[i] >= 0; i = next(i)) {
      const Contact& contact = contacts_[slots_[i]];
      if ((contact.u == u && contact.v == v) || (contact.u == v && contact.v == u)) break;
    }
    return i;
  }

  const std::vector<Contact>& contacts_;
  int bits_;
  std::vector<int32_t> slots_;
};

// The least of some numbers first: a heap with four children per node, of which the least is found without a branch.
template <typename Key>
class LeastFirst {
 public:
  bool empty() const { return size_ == 0; }

  void push(Key key) {
    size_t at = size_++;
    if (keys_.size() < size_ + 3) keys_.resize(2 * size_ + 3, ~Key(0));  // no child is missing, but those are last
    for (; at > 0 && key < keys_[(at - 1) / 4]; at = (at - 1) / 4) keys_[at] = keys_[(at - 1) / 4];
    keys_[at] = key;
  }

  Key pop() {
    const Key least = keys_[0], key = keys_[--size_];
    keys_[size_] = ~Key(0);
    size_t at = 0;
    for (size_t child; (child = 4 * at + 1) < size_; at = child) {
      const size_t a = child + (keys_[child + 1] < keys_[child]), b = child + 2 + (keys_[child + 3] < keys_[child + 2]);
      child = keys_[b] < keys_[a] ? b : a;
      if (key <= keys_[child]) break;
      keys_[at] = keys_[child];
    }
    if (size_ > 0) keys_[at] = key;
    return least;
  }

 private:
  size_t size_ = 0;
  std::vector<Key> keys_;
};

// One image's merges. A vertex begins as a leaf; a union takes the place of the one of its two regions that has more
// pixels, with its contacts as they are. The other's contacts move, so each moves at most as often as a region doubles.
template <typename T>
class BestFirst {
 public:
  explicit BestFirst(const Tree<T>& tree)
      : tree_(tree), node_(tree.leaves), contacts_(read(tree)), contacts_of_(tree.leaves), table_(contacts_) {
    for (int64_t u = 0; u < tree.leaves; ++u) node_[u] = static_cast<int32_t>(u);
    for (int32_t at = 0; at < static_cast<int32_t>(contacts_.size()); ++at) {
      const auto [u, v, latest, length] = contacts_[at];
      table_.at(u, v) = at;
      contacts_of_[u].push_back(at);
      contacts_of_[v].push_back(at);
      offer(at);
    }
  }

  // Returns the number of nodes.
  int64_t run() {
    int32_t round = 0;
    const auto leaves = static_cast<int32_t>(tree_.leaves);
    while (!offers_.empty() && round != tree_.max_rounds) {
      const Key key = offers_.pop();
      const auto number = static_cast<uint32_t>(key);
      const int32_t at = contact_of_[number];
      if (contacts_[at].offer != number) continue;
      if (distance(contacts_[at]) > static_cast<Bits>(key >> 32)) {
        offer(at);
      } else {
        ++round;
        merge(at, leaves + round - 1, round);
      }
    }
    return leaves + round;
  }

 private:
  using Bits = decltype(ordered_bits(T()));
  // The distance of an offer, then its number.
  using Key = std::conditional_t<sizeof(Bits) == 4, uint64_t, unsigned __int128>;

  // The edges, each pair of leaves once, in order.
  static std::vector<Contact> read(const Tree<T>& tree) {
    std::vector<Contact> contacts;
    for (int64_t e = 0; e < tree.num_edges; ++e) {
      if (!tree.is_edge(e)) continue;
      const int32_t u = tree.edges[2 * e], v = tree.edges[2 * e + 1];
      contacts.push_back({std::min(u, v), std::max(u, v), 0, tree.lengths[e]});
    }
    std::sort(contacts.begin(), contacts.end(),
              [](const Contact& a, const Contact& b) { return a.u != b.u ? a.u < b.u : a.v < b.v; });
    size_t end = 0;
    for (const Contact& contact : contacts) {
      if (end > 0 && contacts[end - 1].u == contact.u && contacts[end - 1].v == contact.v)
        contacts[end - 1].length += contact.length;
      else
        contacts[end++] = contact;
    }
    contacts.resize(end);
    return contacts;
  }

  Bits distance(const Contact& contact) const {
    return ordered_bits(tree_.distance(node_[contact.u], node_[contact.v], contact.length));
  }

  void offer(int32_t at) {
    contacts_[at].offer = static_cast<uint32_t>(contact_of_.size());
    contact_of_.push_back(at);
    offers_.push(Key(distance(contacts_[at])) << 32 | contacts_[at].offer);
  }

  void merge(int32_t at, int32_t node, int32_t round) {
    int32_t u = contacts_[at].u, v = contacts_[at].v;
    if (node_[u] > node_[v]) std::swap(u, v);
    Region<T> region = tree_.region(node_[v]);
    tree_.join(node, node_[u], tree_.region(node_[u]), node_[v], region, contacts_[at].length, round);
    if (tree_.node.count[node_[u]] < tree_.node.count[node_[v]]) std::swap(u, v);
    node_[u] = node;
    contacts_[at].offer = kEnded;
    table_.erase(u, v);
    auto& moving = contacts_of_[v];
    std::erase_if(moving, [&](int32_t i) { return contacts_[i].offer == kEnded; });
    std::sort(moving.begin(), moving.end(),
              [&](int32_t i, int32_t j) { return node_[contacts_[i].other(v)] < node_[contacts_[j].other(v)]; });
    for (int32_t i : moving) {
      const int32_t w = contacts_[i].other(v);
      table_.erase(v, w);
      int32_t& there = table_.at(u, w);
      if (there < 0) {
        contacts_[i].u = u;
        contacts_[i].v = w;
        contacts_of_[u].push_back(i);
        there = i;
      } else {
        contacts_[i].offer = kEnded;
        contacts_[there].length += contacts_[i].length;
      }
      offer(there);
    }
    contacts_of_[v] = {};
  }

  const Tree<T>& tree_;
  std::vector<int32_t> node_;  // of each vertex
  std::vector<Contact> contacts_;
  std::vector<std::vector<int32_t>> contacts_of_;  // each vertex, with some that have ended
  ContactTable table_;
  LeastFirst<Key> offers_;
  std::vector<int32_t> contact_of_;  // of each offer
};

template <typename T>
void merge_image(const MergeTask<T>& task) {
  const Tree<T> tree(task);
  tree.copy_leaves();
  for (int64_t v = BestFirst<T>(tree).run(); v < task.nodes; ++v) tree.clear(v);
}

// One task per image: the merges of an image depend on each other.
MergedTree merge_best(const Tensor& count, const Tensor& mean, const Tensor& m2, const Tensor& centroid,
                      const Tensor& box, const Tensor& boundary, const Tensor& edges, const Tensor& lengths,
                      std::string distance, double compactness, int64_t depth, double noise) {
  return merge_tree_checked(
      count, mean, m2, centroid, box, boundary, edges, lengths, distance, compactness, depth, noise,
      [](const auto& task, int64_t batch) { parallel(batch, [&](int64_t b) { merge_image(task.of_image(b)); }); });
}

}  // namespace
}  // namespace dhvt

STABLE_TORCH_LIBRARY_IMPL(dhvt_kernels, CPU, m) { m.impl("merge_best", TORCH_BOX(&dhvt::merge_best)); }
