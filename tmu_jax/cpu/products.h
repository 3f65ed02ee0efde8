// The geometry of a convolution, and the matrix product that all of them are made of.

#ifndef TMU_JAX_CPU_PRODUCTS_H_
#define TMU_JAX_CPU_PRODUCTS_H_

#include <algorithm>
#include <cstdint>

#include "common.h"

namespace tmu_jax {
namespace {

struct Geometry {
  int64_t images, height, width, channels, out_height, out_width, features, window, stride, top, left;

  // What maps gradients of outputs to gradients of inputs, with these rows and columns of zeros before them.
  Geometry Backwards(int64_t top, int64_t left) const {
    return {images, out_height, out_width, features, height, width, channels, window, 1, top, left};
  }
};

// Position of a pixel, or of a tile, counted row by row through all images.
struct Cursor {
  int64_t rows, columns, image, row, column;

  Cursor(int64_t rows, int64_t columns, int64_t start)
      : rows(rows),
        columns(columns),
        image(start / (rows * columns)),
        row(start / columns % rows),
        column(start % columns) {}
  void Advance() {
    if (++column == columns) {
      column = 0;
      if (++row == rows) {
        row = 0;
        ++image;
      }
    }
  }
};

// out[row, column] = sum over steps of a[row, step] * panel[step, column] for kRows rows and kPanel columns, added to
// what is there if kAdd. `a` has rows a_stride apart, or, if kColumns, steps a_stride apart and rows side by side.
template <bool kColumns, bool kAdd>
inline void Multiply(const float* a, int64_t a_stride, const float* panel, int64_t steps, float* out,
                     int64_t out_stride) {
  Vector sums[kRows][2];
  for (int row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = Vector{};
  for (int64_t step = 0; step < steps; ++step) {
    const Vector left = Load(panel + step * kPanel), right = Load(panel + step * kPanel + kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const float value = kColumns ? a[step * a_stride + row] : a[row * a_stride + step];
      sums[row][0] += value * left;
      sums[row][1] += value * right;
    }
  }
  for (int row = 0; row < kRows; ++row)
    for (int half = 0; half < 2; ++half) {
      float* to = out + row * out_stride + half * kLanes;
      Store(to, kAdd ? Load(to) + sums[row][half] : sums[row][half]);
    }
}

template <bool kColumns>
inline void Multiply(const float* a, int64_t a_stride, const float* panel, int64_t steps, float* out,
                     int64_t out_stride, bool add) {
  if (add) {
    Multiply<kColumns, true>(a, a_stride, panel, steps, out, out_stride);
  } else {
    Multiply<kColumns, false>(a, a_stride, panel, steps, out, out_stride);
  }
}

// Cuts matrices [rows, columns] into panels [panel, row, kPanel], filled up with zeros.
void PackPanels(ffi::ThreadPool& pool, const float* matrix, int64_t rows, int64_t columns, float* panels) {
  ParallelFor(pool, CeilDiv(columns, kPanel), [&](int64_t panel) {
    const int64_t count = std::min<int64_t>(kPanel, columns - panel * kPanel);
    for (int64_t row = 0; row < rows; ++row) {
      float* to = panels + (panel * rows + row) * kPanel;
      Copy(to, matrix + row * columns + panel * kPanel, count);
      std::fill(to + count, to + kPanel, 0.0f);
    }
  });
}

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_CPU_PRODUCTS_H_
