#include "cpu/levels/region_graph_kernels.h"

#include "cpu/levels/label_rows.h"

namespace dhvt::DHVT_LEVEL {

int64_t collect_contacts(const int32_t* row, const int32_t* below, int32_t width, int64_t num_segments,
                         const uint64_t* starts, uint64_t* below_starts, Contact* open, Contact* contacts) {
  int64_t count = 0;
  const auto is_segment = [&](int32_t label) { return label >= 0 && label < num_segments; };
  const auto add = [&](int32_t a, int32_t b, int32_t length) {
    if (!is_segment(a) || !is_segment(b)) return;
    const int32_t u = a < b ? a : b, v = a < b ? b : a;
    Contact& contact =
        open[(static_cast<uint32_t>(u) * 2654435769u + static_cast<uint32_t>(v) * 2246822519u) >> (32 - kOpenBits)];
    if (contact.u == u && contact.v == v) {
      contact.length += length;
    } else {
      contacts[count] = contact;
      count += contact.u >= 0;
      contact = {u, v, length};
    }
  };
  if (below) find_starts(below, width, below_starts);
  for (int32_t word = 0; word < row_words(width); ++word) {
    const int32_t x = 64 * word, size = word_size(width, word);
    for (uint64_t bits = word > 0 ? starts[word] : starts[word] & ~uint64_t(1); bits; bits &= bits - 1) {
      const int32_t at = x + lowest_bit(bits);
      add(row[at - 1], row[at], 1);
    }
    if (!below) continue;
    // Between these both rows keep their labels.
    const uint64_t breaks = starts[word] | below_starts[word] | 1;
    for (uint64_t bits = breaks & differ_bits(row + x, below + x, size); bits; bits &= bits - 1) {
      const uint64_t later = breaks & ~up_to_lowest(bits);
      const int32_t at = lowest_bit(bits), end = later ? lowest_bit(later) : size;
      add(row[x + at], below[x + at], end - at);
    }
  }
  return count;
}

void find_starts(const int32_t* row, int32_t width, uint64_t* starts) {
  RunStarts run_starts{row, width};
  for (int32_t word = 0; word < row_words(width); ++word) starts[word] = run_starts.next(word);
}

}  // namespace dhvt::DHVT_LEVEL
