// Contacts of segments: what is compiled per level.
#pragma once

#include <cstdint>

#include "cpu/level.h"

namespace dhvt {

// `length` neighbouring pixel pairs between segments u < v.
struct Contact {
  int32_t u, v, length;
};

// Contacts that still grow, each at the place of its hash: [kOpenContacts], of u = -1 where there is none.
constexpr int kOpenBits = 10, kOpenContacts = 1 << kOpenBits;

// The pairs of a row and of it with the row below, which may be null. Contacts that lose their place in `open` are
// written to `contacts`, at most 3 W; returns how many. starts: bits of the row where runs begin; those of the row
// below are written to below_starts.
DHVT_PER_LEVEL(int64_t collect_contacts(const int32_t* row, const int32_t* below, int32_t width, int64_t num_segments,
                                        const uint64_t* starts, uint64_t* below_starts, Contact* open,
                                        Contact* contacts);
               // starts [words] of a row.
               void find_starts(const int32_t* row, int32_t width, uint64_t* starts);)

}  // namespace dhvt
