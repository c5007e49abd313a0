// Runs a kernel's grid on one CPU thread: every CUDA thread is a fiber, which runs until it waits for others.
//
// A block's fibers are resumed in turn, in an order that changes from launch to launch (first to last, last to first,
// shuffled), so that a missing barrier shows as another result. Shared memory is as large as was asked for, and filled
// with 0xff (NaN, -1) before each block. A barrier that some thread never reaches is reported.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "fiber.h"

namespace emulation {

struct Index {
  unsigned x, y, z;
};

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s\n", what);
  std::abort();
}

// Threads of one warp that exchange values under one mask. Two sets of values, since a fast thread may bring the next
// before a slow one has read the last.
struct Exchange {
  uint64_t round = 0;
  unsigned arrived = 0;
  alignas(16) unsigned char values[2][32][16];
};

struct Grid;

struct Block {
  const Grid* grid = nullptr;
  Index index{};
  int live = 0, arrived = 0, votes = 0, result = 0;
  uint64_t round = 0;  // barriers passed
  std::vector<std::map<unsigned, Exchange>> warps;
  std::unique_ptr<unsigned char[]> shared;
};

struct Grid {
  Index blocks, threads;
  size_t shared_bytes = 0;
  std::function<void()> kernel;
  int live = 0, arrived = 0;
  uint64_t round = 0, progress = 0;  // events that let somebody go on
};

struct Thread {
  Index thread{};
  Block* block = nullptr;
  Grid* grid = nullptr;
  unsigned flat = 0;
  bool done = false;
};

inline Thread*& current() {
  static Thread* thread = nullptr;
  return thread;
}
inline Thread& self() { return *current(); }
inline int lane() { return int(self().flat % 32); }

// Lets others run until `ready`.
template <typename Ready>
void wait(const Ready& ready) {
  while (!ready()) Fiber::yield();
}

inline void pass_block(Block& block, Grid& grid) {
  block.result = block.votes;
  block.arrived = block.votes = 0;
  ++block.round;
  ++grid.progress;
}

inline int vote_block(int vote) {
  Thread& me = self();
  Block& block = *me.block;
  const uint64_t round = block.round;
  block.votes += vote;
  if (++block.arrived == block.live)
    pass_block(block, *me.grid);
  else
    wait([&] { return block.round != round; });
  return block.result;
}
inline void sync_block() { vote_block(0); }

inline void sync_grid() {
  Grid& grid = *self().grid;
  const uint64_t round = grid.round;
  if (++grid.arrived == grid.live) {
    grid.arrived = 0;
    ++grid.round;
    ++grid.progress;
  } else {
    wait([&] { return grid.round != round; });
  }
}

// The values that the lanes of a mask brought.
template <typename T>
struct Values {
  unsigned mask;
  T value[32];

  // CUDA leaves the value of a lane outside the mask undefined: a mistake of the kernel.
  T from(int lane, const T&) const {
    if (lane < 0 || lane >= 32 || !(mask >> lane & 1)) fail("a shuffle reads a lane outside its mask");
    return value[lane];
  }
};

template <typename T>
Values<T> exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= 16);
  Thread& me = self();
  const unsigned threads = unsigned(me.grid->threads.x * me.grid->threads.y * me.grid->threads.z), warp = me.flat / 32;
  const unsigned last = threads - warp * 32;
  const unsigned all = last >= 32 ? ~0u : (1u << last) - 1;
  if (mask == ~0u) mask = all;  // the lanes that a block of another size does not have
  if (!(mask >> lane() & 1)) fail("a thread is not in its own mask");
  Exchange& here = me.block->warps[warp][mask];
  const uint64_t round = here.round;
  std::memcpy(here.values[round % 2][lane()], &value, sizeof(T));
  here.arrived |= 1u << lane();
  if (here.arrived == mask) {
    here.arrived = 0;
    ++here.round;
    ++me.grid->progress;
  } else {
    wait([&] { return here.round != round; });
  }
  Values<T> out{mask, {}};
  for (int l = 0; l < 32; ++l) std::memcpy(&out.value[l], here.values[round % 2][l], sizeof(T));
  return out;
}

inline void* shared_bytes() { return self().block->shared.get(); }

// Runs the blocks [first, last) side by side, each thread a fiber of the pool.
class Runner {
 public:
  void run(Grid& grid, uint64_t first, uint64_t last, unsigned order) {
    const unsigned size = grid.threads.x * grid.threads.y * grid.threads.z;
    std::vector<Block> blocks(last - first);
    std::vector<Thread> threads(blocks.size() * size);
    while (fibers_.size() < threads.size()) fibers_.push_back(std::make_unique<Fiber>());
    for (uint64_t b = 0; b < blocks.size(); ++b) {
      Block& block = blocks[b];
      const uint64_t flat = first + b;
      block.grid = &grid;
      block.index = {unsigned(flat % grid.blocks.x), unsigned(flat / grid.blocks.x % grid.blocks.y),
                     unsigned(flat / grid.blocks.x / grid.blocks.y)};
      block.live = int(size);
      block.warps.resize((size + 31) / 32);
      block.shared.reset(new unsigned char[grid.shared_bytes]);
      std::memset(block.shared.get(), 0xff, grid.shared_bytes);
      for (unsigned t = 0; t < size; ++t) {
        Thread& thread = threads[b * size + t];
        thread = {{t % grid.threads.x, t / grid.threads.x % grid.threads.y, t / grid.threads.x / grid.threads.y},
                  &block,
                  &grid,
                  t,
                  false};
        fibers_[b * size + t]->start([&grid, &thread] {
          grid.kernel();
          leave(thread);
        });
      }
    }
    grid.live = int(threads.size());
    std::vector<uint32_t> turn(threads.size());
    for (uint32_t i = 0; i < turn.size(); ++i) turn[i] = order % 3 == 1 ? uint32_t(turn.size()) - 1 - i : i;
    for (size_t live = turn.size(); live > 0;) {
      if (order % 3 == 2)
        for (size_t i = live; i > 1; --i) std::swap(turn[i - 1], turn[random() % i]);
      const uint64_t before = grid.progress;
      size_t kept = 0;
      for (size_t i = 0; i < live; ++i) {
        current() = &threads[turn[i]];
        fibers_[turn[i]]->resume();
        if (!threads[turn[i]].done) turn[kept++] = turn[i];
      }
      live = kept;
      if (live > 0 && grid.progress == before) fail("threads wait for others that never come");
    }
    current() = nullptr;
  }

 private:
  // A thread that has returned counts as arrived, as on the device.
  static void leave(Thread& thread) {
    Grid& grid = *thread.grid;
    Block& block = *thread.block;
    thread.done = true;
    --block.live;
    --grid.live;
    ++grid.progress;
    if (block.live > 0 && block.arrived == block.live) pass_block(block, grid);
  }

  uint64_t random() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }

  uint64_t state_ = 0x9e3779b97f4a7c15;
  std::vector<std::unique_ptr<Fiber>> fibers_;
};

// Launches of this process, for tests that count them.
inline unsigned& launches() {
  static unsigned count = 0;
  return count;
}

// Blocks that a cooperative launch may have: few, so that tests reach what larger problems take instead.
constexpr int kResidentBlocks = 8;

// cooperative: all blocks at once, for grid barriers; else one block after the other.
inline void launch(Index blocks, Index threads, size_t shared_bytes, bool cooperative, std::function<void()> kernel) {
  static Runner runner;
  const unsigned order = launches()++;
  const uint64_t count = uint64_t(blocks.x) * blocks.y * blocks.z, size = uint64_t(threads.x) * threads.y * threads.z;
  if (count == 0 || size == 0 || size > 1024 || threads.z > 64 || blocks.x > 0x7fffffffu || blocks.y > 65535 ||
      blocks.z > 65535 || shared_bytes > 227 * 1024)
    fail("a launch that no device takes");
  Grid grid;
  grid.blocks = blocks;
  grid.threads = threads;
  grid.shared_bytes = shared_bytes;
  grid.kernel = std::move(kernel);
  if (cooperative) {
    if (count > kResidentBlocks) fail("a cooperative launch with more blocks than run side by side");
    runner.run(grid, 0, count, order);
    return;
  }
  // Blocks, too, run in either direction: none may wait for another.
  for (uint64_t b = 0; b < count; ++b) {
    const uint64_t block = order % 2 ? count - 1 - b : b;
    runner.run(grid, block, block + 1, order);
  }
}

}  // namespace emulation
