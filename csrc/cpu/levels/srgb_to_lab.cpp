#include "cpu/levels/srgb_to_lab_kernels.h"

#include <algorithm>

#include "cpu/levels/rows.h"
#include "srgb_to_lab.h"

namespace dhvt::DHVT_LEVEL {
namespace {

// The loops always run over whole vectors: the pixels past the end of a row are computed and not stored.
template <typename acc>
struct Rows {
  acc channel[3][kLabPixels] = {};
};

template <typename scalar_t, typename acc>
void load(const ImageView<const scalar_t>& view, int64_t b, int64_t y, int64_t x, int64_t size, Rows<acc>& rows) {
  for (int c = 0; c < 3; ++c)
    load_row(view.pixel(b, y, x) + c * view.channel_stride, view.column_stride, size, rows.channel[c]);
  if (std::is_same_v<scalar_t, uint8_t>)
    for (auto& row : rows.channel)
      for (acc& value : row) value /= acc(255);
}

template <typename scalar_t, typename acc>
void store(const Rows<acc>& rows, const ImageView<scalar_t>& view, int64_t b, int64_t y, int64_t x, int64_t size) {
  for (int c = 0; c < 3; ++c)
    store_row(rows.channel[c], view.column_stride, size, view.pixel(b, y, x) + c * view.channel_stride);
}

}  // namespace

template <typename scalar_t>
void lab_row(const ImageView<const scalar_t>& images, const ImageView<acc_t<scalar_t>>& lab, int64_t b, int64_t y,
             int64_t x) {
  using acc = acc_t<scalar_t>;
  const int64_t size = std::min(images.width - x, kLabPixels), padded = (size + 15) / 16 * 16;
  Rows<acc> rows;
  load(images, b, y, x, size, rows);
  acc slope;
  // One short chain of dependent steps per loop, so that several vectors are under way at a time.
  for (auto& row : rows.channel)
    for (int64_t i = 0; i < padded; ++i) row[i] = linear_light(row[i], &slope);
  for (int64_t i = 0; i < padded; ++i) {
    const acc linear[3] = {rows.channel[0][i], rows.channel[1][i], rows.channel[2][i]};
    for (int c = 0; c < 3; ++c) rows.channel[c][i] = xyz_from_linear(linear, c);
  }
  for (auto& row : rows.channel)
    for (int64_t i = 0; i < padded; ++i) row[i] = lab_curve(row[i], &slope);
  for (int64_t i = 0; i < padded; ++i) {
    const acc curve[3] = {rows.channel[0][i], rows.channel[1][i], rows.channel[2][i]};
    acc out[3];
    lab_from_curve(curve, out);
    for (int c = 0; c < 3; ++c) rows.channel[c][i] = out[c];
  }
  store(rows, lab, b, y, x, size);
}

template <typename scalar_t>
void lab_row_backward(const ImageView<const scalar_t>& images, const ImageView<const acc_t<scalar_t>>& grad,
                      const ImageView<scalar_t>& grad_images, int64_t b, int64_t y, int64_t x) {
  using acc = acc_t<scalar_t>;
  const int64_t size = std::min(images.width - x, kLabPixels), padded = (size + 15) / 16 * 16;
  Rows<acc> rows, grads;
  load(images, b, y, x, size, rows);
  load(grad, b, y, x, size, grads);
  for (int64_t i = 0; i < padded; ++i) {
    const acc srgb[3] = {rows.channel[0][i], rows.channel[1][i], rows.channel[2][i]};
    acc g[3] = {grads.channel[0][i], grads.channel[1][i], grads.channel[2][i]};
    lab_from_srgb_backward(srgb, g);
    grads.channel[0][i] = g[0];
    grads.channel[1][i] = g[1];
    grads.channel[2][i] = g[2];
  }
  store(grads, grad_images, b, y, x, size);
}

#define INSTANTIATE(scalar_t)                                                                                  \
  template void lab_row(const ImageView<const scalar_t>&, const ImageView<acc_t<scalar_t>>&, int64_t, int64_t, \
                        int64_t);                                                                              \
  template void lab_row_backward(const ImageView<const scalar_t>&, const ImageView<const acc_t<scalar_t>>&,    \
                                 const ImageView<scalar_t>&, int64_t, int64_t, int64_t);
INSTANTIATE(uint8_t)
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace dhvt::DHVT_LEVEL
