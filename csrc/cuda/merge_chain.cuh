// The new nodes of a chain of merges: the first one joins two nodes, each later one adds a single node.
//
// A chain tells of merge i, from 0 on: single(i), the node that it adds; inner(i), the length of the boundary that it
// makes an inner one; more(i), whether another one follows. other() is the node that the first merge adds to, and
// merged(i) = merged(0) + i the node that it makes. kLeaves: these nodes are leaves.
#pragma once

#include "merge_tree.h"
#include "segment_moments.h"

namespace dhvt {

// Mean and m2 for one channel. What a merge adds is read while the one before computes.
template <typename T, typename Chain>
__device__ void join_channel(const MergeTask<T>& task, const Chain& chain, int64_t c) {
  const auto& node = task.node;
  const int64_t channels = task.channels;
  struct Part {
    int32_t n;
    T mean, m2;
  };
  const auto part = [&](int64_t v) {
    const int64_t i = v * channels + c;
    if constexpr (Chain::kLeaves) return Part{1, node.mean[i], T(0)};
    return Part{node.count[v], node.mean[i], node.m2[i]};
  };
  Part a = part(chain.single(0)), b = part(chain.other());
  for (int32_t i = 0;; ++i) {
    const bool more = chain.more(i);
    Part added{0, T(0), T(0)};
    if (more) added = part(chain.single(i + 1));
    chan_merge(T(a.n), a.mean, a.m2, T(b.n), b.mean, b.m2);
    const int64_t out = (chain.merged(0) + i) * channels + c;
    node.mean[out] = a.mean;
    node.m2[out] = a.m2;
    if (!more) return;
    b = {int32_t(uint32_t(a.n) + uint32_t(b.n)), a.mean, a.m2};
    a = added;
  }
}

// Everything else about them; the last one is nobody's child yet.
template <typename T, typename Chain>
__device__ void join_rest(const MergeTask<T>& task, const Chain& chain, int32_t round) {
  const auto& node = task.node;
  struct Part {
    uint32_t n, boundary;
    T centroid[2];
    int32_t box[4];
  };
  const auto part = [&](int64_t v) {
    Part out{uint32_t(node.count[v]), uint32_t(node.boundary[v]), {}, {}};
    for (int d = 0; d < 2; ++d) out.centroid[d] = node.centroid[2 * v + d];
    for (int d = 0; d < 4; ++d) out.box[d] = node.box[4 * v + d];
    return out;
  };
  int64_t v = chain.other();
  Part a = part(chain.single(0)), b = part(v);
  for (int32_t i = 0;; ++i) {
    const int64_t merged = chain.merged(0) + i;
    const bool more = chain.more(i);
    Part added{};
    if (more) added = part(chain.single(i + 1));
    task.parent[chain.single(i)] = task.parent[v] = int32_t(merged);
    const T n_a = T(int32_t(a.n)), n_b = T(int32_t(b.n));
    for (int d = 0; d < 2; ++d) {
      b.centroid[d] = merge_centroid(n_a, a.centroid[d], n_b, b.centroid[d]);
      b.box[d] = a.box[d] < b.box[d] ? a.box[d] : b.box[d];
      b.box[d + 2] = a.box[d + 2] > b.box[d + 2] ? a.box[d + 2] : b.box[d + 2];
    }
    b.n += a.n;
    b.boundary += a.boundary - 2 * chain.inner(i);
    node.count[merged] = int32_t(b.n);
    node.boundary[merged] = int32_t(b.boundary);
    for (int d = 0; d < 2; ++d) node.centroid[2 * merged + d] = b.centroid[d];
    for (int d = 0; d < 4; ++d) node.box[4 * merged + d] = b.box[d];
    task.round[merged] = round;
    v = merged;
    if (!more) break;
    a = added;
  }
  task.parent[v] = -1;
}

}  // namespace dhvt
