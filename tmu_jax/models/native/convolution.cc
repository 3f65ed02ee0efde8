// Convolutions on a CPU: forward, input gradient and weight gradient, called by XLA through its foreign function
// interface (https://docs.jax.dev/en/latest/ffi.html). `__init__.py` compiles this file for the machine it runs on.
//
// 3x3 kernels of stride 1 take Winograd's F(4x4, 3x3): 36 products of transformed tiles, four times fewer
// multiplications than the direct algorithm. All others, and few channels, take products of patches. A block of tiles
// or patches stays in one core's cache from its first transform to its last, which XLA's own operations cannot do.
//
// Images are [n, height, width, channels], kernels [window, window, channels, features], all float32 and row-major.
//
// References:
//   Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common.h"

namespace tmu_jax {
namespace {

// --- The geometry of a convolution.

struct Geometry {
  int64_t images, height, width, channels, out_height, out_width, features, window, stride, top, left;

  bool TakesWinograd() const {
    return window == 3 && stride == 1 && channels % kPanel == 0 && features % kPanel == 0;
  }
  // The convolution that maps gradients of outputs to gradients of inputs; of stride 1 only.
  Geometry Backwards() const {
    return {images, out_height, out_width, features, height, width, channels, window, 1, window - 1 - top, window - 1 - left};
  }
};

// Position of a pixel, or of a tile, counted row by row through all images.
struct Cursor {
  int64_t rows, columns, image, row, column;

  Cursor(int64_t rows, int64_t columns, int64_t start)
      : rows(rows), columns(columns), image(start / (rows * columns)), row(start / columns % rows), column(start % columns) {}
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

// --- Products.

// out[row, column] = sum over steps of a[row, step] * panel[step, column] for kRows rows and kPanel columns, added to
// what is there if kAdd. `a` has rows a_stride apart, or, if kColumns, steps a_stride apart and rows side by side.
template <bool kColumns, bool kAdd>
inline void Multiply(const float* a, int64_t a_stride, const float* panel, int64_t steps, float* out, int64_t out_stride) {
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
inline void Multiply(const float* a, int64_t a_stride, const float* panel, int64_t steps, float* out, int64_t out_stride, bool add) {
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

// --- Winograd's F(4x4, 3x3) by the points 0, +-a, +-b and infinity. a = 1/sqrt(2) and b = sqrt(2) keep the constants
// near 1: the error is then a few times the direct algorithm's, and not a hundred times, as with 1 and 2.

constexpr int kTile = 4, kInputs = 6, kPositions = 36;
constexpr float kA = 0.70710678f, kB = 1.41421356f;
constexpr float kA2 = 0.5f, kB2 = 2.0f, kA3 = kA2 * kA, kB3 = kB2 * kB;
constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));  // at 0: 1 / (a^2 b^2) = 1

// B^T, G, A^T of the paper's equation 12 and the transposes of the last two.
inline void TransformInput(const Vector d[6], Vector out[6]) {
  Vector even = d[4] - kB2 * d[2], odd = d[3] - kB2 * d[1];
  out[0] = d[0] - (kA2 + kB2) * d[2] + d[4];
  out[1] = even + kA * odd;
  out[2] = even - kA * odd;
  even = d[4] - kA2 * d[2], odd = d[3] - kA2 * d[1];
  out[3] = even + kB * odd;
  out[4] = even - kB * odd;
  out[5] = d[1] - (kA2 + kB2) * d[3] + d[5];
}

inline void TransformKernel(const Vector g[3], Vector out[6]) {
  Vector even = kScaleA * (g[0] + kA2 * g[2]), odd = (kScaleA * kA) * g[1];
  out[0] = g[0];
  out[1] = even + odd;
  out[2] = even - odd;
  even = kScaleB * (g[0] + kB2 * g[2]), odd = (kScaleB * kB) * g[1];
  out[3] = even + odd;
  out[4] = even - odd;
  out[5] = g[2];
}

inline void TransformKernelTransposed(const Vector u[6], Vector out[3]) {
  const Vector even_a = kScaleA * (u[1] + u[2]), even_b = kScaleB * (u[3] + u[4]);
  out[0] = u[0] + even_a + even_b;
  out[1] = (kScaleA * kA) * (u[1] - u[2]) + (kScaleB * kB) * (u[3] - u[4]);
  out[2] = kA2 * even_a + kB2 * even_b + u[5];
}

inline void TransformOutput(const Vector m[6], Vector out[4]) {
  const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + even_a + even_b;
  out[1] = kA * odd_a + kB * odd_b;
  out[2] = kA2 * even_a + kB2 * even_b;
  out[3] = kA3 * odd_a + kB3 * odd_b + m[5];
}

inline void TransformOutputTransposed(const Vector y[4], Vector out[6]) {
  Vector even = y[0] + kA2 * y[2], odd = y[1] + kA2 * y[3];
  out[0] = y[0];
  out[1] = even + kA * odd;
  out[2] = even - kA * odd;
  even = y[0] + kB2 * y[2], odd = y[1] + kB2 * y[3];
  out[3] = even + kB * odd;
  out[4] = even - kB * odd;
  out[5] = y[3];
}

// T x T^T of a square x of vectors, for the rows [first, first + kRowsOut) of the result.
template <int kFrom, int kTo, int kRowsOut = kTo, typename Transform, typename Source, typename Sink>
inline void TransformSquare(const Transform& transform, const Source& source, const Sink& sink, int first = 0) {
  Vector half[kRowsOut][kFrom];
  for (int column = 0; column < kFrom; ++column) {
    Vector line[kFrom], result[kTo];
    for (int row = 0; row < kFrom; ++row) line[row] = source(row, column);
    transform(line, result);
    for (int row = 0; row < kRowsOut; ++row) half[row][column] = result[first + row];
  }
  for (int row = 0; row < kRowsOut; ++row) {
    Vector result[kTo];
    transform(half[row], result);
    for (int column = 0; column < kTo; ++column) sink(row, column, result[column]);
  }
}

// Tiles of 4x4 outputs.
Cursor Tiles(const Geometry& g, int64_t start) { return {CeilDiv(g.out_height, kTile), CeilDiv(g.out_width, kTile), start}; }
int64_t NumTiles(const Geometry& g) { return g.images * CeilDiv(g.out_height, kTile) * CeilDiv(g.out_width, kTile); }

// Pointers to the pixels of a square, to `outside` where it leaves the image.
template <int kSide>
inline void Pixels(const float* image, int64_t height, int64_t width, int64_t channels, int64_t row, int64_t column,
                   const float* outside, const float* pixels[kSide][kSide]) {
  for (int i = 0; i < kSide; ++i)
    for (int j = 0; j < kSide; ++j) {
      const bool inside = row + i >= 0 && row + i < height && column + j >= 0 && column + j < width;
      pixels[i][j] = inside ? image + ((row + i) * width + column + j) * channels : outside;
    }
}

// Transforms a kernel into [position, panel, channel, kPanel]. A turned one is the kernel of `Backwards`: it lies in
// memory as [3, 3, features, channels], to be turned by half a circle.
void TransformKernels(ffi::ThreadPool& pool, int64_t channels, int64_t features, const float* kernel, bool turned, float* weights) {
  const int64_t panels = features / kPanel, blocks = channels / kLanes, plane = channels * features;
  ParallelFor(pool, panels * blocks, [&](int64_t task) {
    const int64_t panel = task / blocks, first = task % blocks * kLanes;
    float block[9][kLanes][kPanel];  // Of a turned kernel, with its axes as they should be.
    if (turned)
      for (int position = 0; position < 9; ++position)
        for (int64_t feature = 0; feature < kPanel; ++feature) {
          const float* from = kernel + (8 - position) * plane + (panel * kPanel + feature) * channels + first;
          for (int channel = 0; channel < kLanes; ++channel) block[position][channel][feature] = from[channel];
        }
    for (int channel = 0; channel < kLanes; ++channel)
      for (int lane = 0; lane < kPanel; lane += kLanes) {
        const float* from = turned ? &block[0][channel][lane] : kernel + (first + channel) * features + panel * kPanel + lane;
        const int64_t apart = turned ? kLanes * kPanel : plane;
        float* to = weights + (panel * channels + first + channel) * kPanel + lane;
        TransformSquare<3, 6>(
            TransformKernel, [&](int i, int j) { return Load(from + (i * 3 + j) * apart); },
            [&](int i, int j, Vector value) { StoreAround(to + (i * kInputs + j) * plane, value); });
      }
    Fence();
  });
}

// With `turned`, `kernel` is that of the convolution whose input gradient is computed; see TransformKernels.
void WinogradForward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, bool turned, float* out) {
  constexpr int64_t kTilesTogether = 32;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel;
  const Scratch kernel_scratch(kPositions * channels * features);
  float* weights = kernel_scratch.data();
  TransformKernels(pool, channels, features, kernel, turned, weights);

  const int64_t tiles = NumTiles(g);
  const int64_t share = RoundUp(CeilDiv(tiles, std::max<int64_t>(1, pool.num_threads())), kRows);
  const int64_t together = std::min(kTilesTogether, share);
  // One more vector in each plane: planes a power of two apart would fall on the same places of the cache.
  const int64_t in_plane = together * channels + kLanes, out_plane = together * kPanel + kLanes;
  ParallelFor(pool, CeilDiv(tiles, together), [&](int64_t block) {
    const Scratch scratch(kPositions * (in_plane + out_plane) + channels);
    float* inputs = scratch.data();                      // [position, tile, channel]
    float* products = inputs + kPositions * in_plane;    // [position, tile, kPanel]
    float* outside = products + kPositions * out_plane;  // [channel]
    std::fill(outside, outside + channels, 0.0f);
    const int64_t start = block * together, count = std::min(together, tiles - start), padded = RoundUp(count, kRows);

    Cursor tile = Tiles(g, start);
    for (int64_t t = 0; t < count; ++t, tile.Advance()) {
      const float* pixels[kInputs][kInputs];
      Pixels<kInputs>(images + tile.image * g.height * g.width * channels, g.height, g.width, channels,
                      tile.row * kTile - g.top, tile.column * kTile - g.left, outside, pixels);
      for (int64_t channel = 0; channel < channels; channel += kLanes) {
        float* to = inputs + t * channels + channel;
        TransformSquare<6, 6>(
            TransformInput, [&](int i, int j) { return Load(pixels[i][j] + channel); },
            [&](int i, int j, Vector value) { Store(to + (i * kInputs + j) * in_plane, value); });
      }
    }
    for (int position = 0; position < kPositions; ++position)
      std::fill(inputs + position * in_plane + count * channels, inputs + position * in_plane + padded * channels, 0.0f);

    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int position = 0; position < kPositions; ++position)
        for (int64_t t = 0; t < padded; t += kRows)
          Multiply<false, false>(inputs + position * in_plane + t * channels, channels,
                                 weights + (position * panels + panel) * channels * kPanel, channels,
                                 products + position * out_plane + t * kPanel, kPanel);
      tile = Tiles(g, start);
      for (int64_t t = 0; t < count; ++t, tile.Advance()) {
        const int64_t row = tile.row * kTile, column = tile.column * kTile;
        const int64_t rows = g.out_height - row, columns = g.out_width - column;  // Left of the image.
        for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
          const float* from = products + t * kPanel + lane;
          float* to = out + ((tile.image * g.out_height + row) * g.out_width + column) * features + panel * kPanel + lane;
          TransformSquare<6, 4>(
              TransformOutput, [&](int i, int j) { return Load(from + (i * kInputs + j) * out_plane); },
              [&](int i, int j, Vector value) {
                if (i < rows && j < columns) Store(to + (i * g.out_width + j) * features, value);
              });
        }
      }
    }
  });
}

// Adds up the products of tiles [first, last) for three of the six rows of positions, from `first_row` on: two threads
// share the transforms of a tile and need not add up their sums. total: [18 positions, panel, channel, kPanel].
void WinogradHalfWeightGradient(const Geometry& g, const float* images, const float* cotangent, int64_t first, int64_t last,
                                int first_row, float* total) {
  const int64_t most = g.channels * g.features <= 64 * 64 ? 32 : 64;  // So that what they become stays in a cache.
  constexpr int kHalf = kInputs / 2, kHalfPositions = kPositions / 2;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel;
  const int64_t together = std::min(most, last - first);
  const int64_t in_plane = together * channels + kLanes, out_plane = together * features + kLanes;
  const Scratch scratch(kHalfPositions * (in_plane + out_plane) + std::max(channels, features));
  float* inputs = scratch.data();                           // [position, panel of channels, tile, kPanel]
  float* outputs = inputs + kHalfPositions * in_plane;      // [position, panel of features, tile, kPanel]
  float* outside = outputs + kHalfPositions * out_plane;    // [channel or feature]
  std::fill(outside, outside + std::max(channels, features), 0.0f);

  Cursor tile = Tiles(g, first);
  for (int64_t start = first; start < last; start += together) {
    const int64_t count = std::min(together, last - start);
    for (int64_t t = 0; t < count; ++t, tile.Advance()) {
      const float* pixels[kInputs][kInputs];
      Pixels<kInputs>(images + tile.image * g.height * g.width * channels, g.height, g.width, channels,
                      tile.row * kTile - g.top, tile.column * kTile - g.left, outside, pixels);
      for (int64_t channel = 0; channel < channels; channel += kLanes) {
        float* to = inputs + (channel / kPanel * together + t) * kPanel + channel % kPanel;
        TransformSquare<6, 6, kHalf>(
            TransformInput, [&](int i, int j) { return Load(pixels[i][j] + channel); },
            [&](int i, int j, Vector value) { Store(to + (i * kInputs + j) * in_plane, value); }, first_row);
      }
      const float* results[kTile][kTile];
      Pixels<kTile>(cotangent + tile.image * g.out_height * g.out_width * features, g.out_height, g.out_width, features,
                    tile.row * kTile, tile.column * kTile, outside, results);
      for (int64_t feature = 0; feature < features; feature += kLanes) {
        float* to = outputs + (feature / kPanel * together + t) * kPanel + feature % kPanel;
        TransformSquare<4, 6, kHalf>(
            TransformOutputTransposed, [&](int i, int j) { return Load(results[i][j] + feature); },
            [&](int i, int j, Vector value) { Store(to + (i * kInputs + j) * out_plane, value); }, first_row);
      }
    }
    for (int position = 0; position < kHalfPositions; ++position)
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t channel = 0; channel < channels; channel += kRows)
          Multiply<true>(inputs + position * in_plane + channel / kPanel * together * kPanel + channel % kPanel, kPanel,
                         outputs + position * out_plane + panel * together * kPanel, count,
                         total + ((position * panels + panel) * channels + channel) * kPanel, kPanel, start != first);
  }
}

void WinogradWeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent, float* out) {
  constexpr int64_t kLeastTiles = 64;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel, tiles = NumTiles(g);
  const int64_t groups = std::clamp<int64_t>(CeilDiv(pool.num_threads(), 2), 1, std::max<int64_t>(1, tiles / kLeastTiles));
  const int64_t size = kPositions * channels * features;
  const Scratch scratch(groups * size);
  float* totals = scratch.data();
  ParallelFor(pool, 2 * groups, [&](int64_t i) {
    const int64_t group = i / 2, half = i % 2;
    WinogradHalfWeightGradient(g, images, cotangent, tiles * group / groups, tiles * (group + 1) / groups,
                               half * kInputs / 2, totals + group * size + half * size / 2);
  });
  const int64_t blocks = channels / kLanes;
  ParallelFor(pool, panels * blocks, [&](int64_t task) {
    const int64_t panel = task / blocks, first = task % blocks * kLanes;
    for (int64_t channel = first; channel < first + kLanes; ++channel)
      for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
        const float* from = totals + (panel * channels + channel) * kPanel + lane;
        float* to = out + channel * features + panel * kPanel + lane;
        TransformSquare<6, 3>(
            TransformKernelTransposed,
            [&](int i, int j) {
              const float* at = from + (i * kInputs + j) * channels * features;
              Vector sum = Load(at);
              for (int64_t group = 1; group < groups; ++group) sum += Load(at + group * size);
              return sum;
            },
            [&](int i, int j, Vector value) { Store(to + (i * 3 + j) * channels * features, value); });
      }
  });
}

// --- Products of patches.

// Which pixels of a source make up the patch of each pixel of a grid, and where that pixel lies in the result.
struct Patches {
  int64_t height, width, channels;                                        // Of the source.
  int64_t rows, columns;                                                  // Of the grid.
  int64_t stride, top, left, window_height, window_width;                 // Grid to source: a window of pixels.
  int64_t out_height, out_width, out_stride, first_row, first_column;     // Grid to result.

  int64_t Length() const { return window_height * window_width * channels; }
};

// Writes `count` patches, `apart` numbers from each other.
void Gather(const Patches& p, const float* source, Cursor pixel, int64_t count, float* patches, int64_t apart) {
  for (int64_t q = 0; q < count; ++q, pixel.Advance()) {
    const float* image = source + pixel.image * p.height * p.width * p.channels;
    const int64_t column = pixel.column * p.stride - p.left;
    const int64_t before = std::clamp<int64_t>(-column, 0, p.window_width);
    const int64_t after = std::clamp<int64_t>(column + p.window_width - p.width, 0, p.window_width - before);
    for (int64_t i = 0; i < p.window_height; ++i) {
      float* to = patches + q * apart + i * p.window_width * p.channels;
      const int64_t row = pixel.row * p.stride - p.top + i, length = p.window_width * p.channels;
      if (row < 0 || row >= p.height) {
        std::fill(to, to + length, 0.0f);
        continue;
      }
      std::fill(to, to + before * p.channels, 0.0f);
      Copy(to + before * p.channels, image + (row * p.width + column + before) * p.channels, length - (before + after) * p.channels);
      std::fill(to + length - after * p.channels, to + length, 0.0f);
    }
  }
}

// result[pixel] = patch of the pixel times weights [panel, length of a patch, kPanel].
void MultiplyPatches(ffi::ThreadPool& pool, const Patches& p, int64_t images, const float* source, const float* weights,
                     int64_t features, float* result) {
  constexpr int64_t kPixelsTogether = 64;
  const int64_t pixels = images * p.rows * p.columns, length = p.Length(), apart = length + kLanes;
  ParallelFor(pool, CeilDiv(pixels, kPixelsTogether), [&](int64_t block) {
    const Scratch scratch(kPixelsTogether * (apart + kPanel));
    float* patches = scratch.data();                        // [pixel, length], `apart`
    float* products = patches + kPixelsTogether * apart;    // [pixel, kPanel]
    const int64_t start = block * kPixelsTogether, count = std::min(kPixelsTogether, pixels - start);
    Gather(p, source, Cursor(p.rows, p.columns, start), count, patches, apart);
    for (int64_t feature = 0; feature < features; feature += kPanel) {
      // Rows past `count` are computed from whatever is there and not read.
      for (int64_t q = 0; q < count; q += kRows)
        Multiply<false, false>(patches + q * apart, apart, weights + feature * length, length, products + q * kPanel, kPanel);
      Cursor pixel(p.rows, p.columns, start);
      for (int64_t q = 0; q < count; ++q, pixel.Advance()) {
        const int64_t row = p.first_row + pixel.row * p.out_stride, column = p.first_column + pixel.column * p.out_stride;
        float* to = result + ((pixel.image * p.out_height + row) * p.out_width + column) * features + feature;
        Copy(to, products + q * kPanel, std::min<int64_t>(kPanel, features - feature));
      }
    }
  });
}

Patches ForwardPatches(const Geometry& g) {
  return {g.height, g.width, g.channels, g.out_height, g.out_width, g.stride, g.top, g.left, g.window, g.window,
          g.out_height, g.out_width, 1, 0, 0};
}

void PatchesForward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, float* out) {
  const Patches patches = ForwardPatches(g);
  const Scratch scratch(patches.Length() * RoundUp(g.features, kPanel));
  PackPanels(pool, kernel, patches.Length(), g.features, scratch.data());
  MultiplyPatches(pool, patches, g.images, images, scratch.data(), g.features, out);
}

// A kernel turned by half a circle, [window, window, features, channels].
void TurnKernel(ffi::ThreadPool& pool, const Geometry& g, const float* kernel, float* turned) {
  const int64_t positions = g.window * g.window;
  ParallelFor(pool, positions, [&](int64_t position) {
    const float* from = kernel + position * g.channels * g.features;
    float* to = turned + (positions - 1 - position) * g.channels * g.features;
    for (int64_t first = 0; first < g.features; first += kLanes)  // Blocks of columns that the first cache holds.
      for (int64_t channel = 0; channel < g.channels; ++channel)
        for (int64_t feature = first; feature < std::min(first + kLanes, g.features); ++feature)
          to[feature * g.channels + channel] = from[channel * g.features + feature];
  });
}

// The pixels whose row is a and whose column is b modulo the stride see every stride-th position of the kernel, as a
// convolution of stride 1 of the cotangent.
void PatchesInputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel, float* out) {
  const int64_t size = g.window * g.window * g.channels * g.features;
  const Scratch turned(size), part(size), packed(size / g.channels * RoundUp(g.channels, kPanel));
  TurnKernel(pool, g, kernel, turned.data());
  // Along one axis: the first position of the turned kernel, how many there are, and the offset of the first pixel.
  struct Axis {
    int64_t first, count, before;
  };
  const auto axis = [&](int64_t remainder, int64_t low) {
    // Pixel stride * i + remainder meets kernel position u at output (stride * i + remainder + low - u) / stride.
    const int64_t least = (remainder + low) % g.stride, count = CeilDiv(std::max<int64_t>(0, g.window - least), g.stride);
    const int64_t last = least + (count - 1) * g.stride;
    return Axis{g.window - 1 - last, count, (last - remainder - low) / g.stride};
  };
  for (int64_t a = 0; a < std::min(g.stride, g.height); ++a)
    for (int64_t b = 0; b < std::min(g.stride, g.width); ++b) {
      const Axis rows = axis(a, g.top), columns = axis(b, g.left);
      float* to = part.data();
      for (int64_t i = 0; i < rows.count; ++i)
        for (int64_t j = 0; j < columns.count; ++j, to += g.channels * g.features) {
          const int64_t position = (rows.first + i * g.stride) * g.window + columns.first + j * g.stride;
          std::memcpy(to, turned.data() + position * g.channels * g.features, g.channels * g.features * sizeof(float));
        }
      const Patches patches{g.out_height, g.out_width, g.features, CeilDiv(g.height - a, g.stride), CeilDiv(g.width - b, g.stride),
                            1, rows.before, columns.before, rows.count, columns.count, g.height, g.width, g.stride, a, b};
      PackPanels(pool, part.data(), patches.Length(), g.channels, packed.data());
      MultiplyPatches(pool, patches, g.images, cotangent, packed.data(), g.channels, out);
    }
}

// For images of up to four channels: products with all positions of the kernel, of which each pixel then adds up its
// own. (A panel of channels would be empty but for those few.)
void FewChannelsInputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel, float* out) {
  const int64_t length = g.window * g.window * g.channels, padded = RoundUp(length, kPanel);
  const int64_t pixels = g.out_height * g.out_width;
  const Scratch turned(length * g.features), packed(padded * g.features);
  for (int64_t feature = 0; feature < g.features; ++feature)
    for (int64_t i = 0; i < length; ++i) turned.data()[feature * length + i] = kernel[i * g.features + feature];
  PackPanels(pool, turned.data(), g.features, length, packed.data());
  ParallelFor(pool, g.images, [&](int64_t image) {
    const Scratch scratch(RoundUp(pixels, kRows) * padded + kRows * g.features + kLanes);
    float* products = scratch.data();                            // [pixel, padded]
    float* last = products + RoundUp(pixels, kRows) * padded;    // The last rows, where there are fewer than kRows.
    const float* from = cotangent + image * pixels * g.features;
    for (int64_t q = 0; q < pixels; q += kRows) {
      const float* rows = from + q * g.features;
      if (q + kRows > pixels) {
        std::memcpy(last, rows, (pixels - q) * g.features * sizeof(float));
        rows = last;
      }
      for (int64_t i = 0; i < padded; i += kPanel)
        Multiply<false, false>(rows, g.features, packed.data() + i * g.features, g.features, products + q * padded + i, padded);
    }
    for (int64_t row = 0; row < g.height; ++row)
      for (int64_t column = 0; column < g.width; ++column) {
        Short sum{};  // The lanes past the channels are not stored.
        for (int64_t i = 0; i < g.window; ++i) {
          const int64_t down = row + g.top - i, out_row = down / g.stride;
          if (down < 0 || down % g.stride != 0 || out_row >= g.out_height) continue;
          for (int64_t j = 0; j < g.window; ++j) {
            const int64_t right = column + g.left - j, out_column = right / g.stride;
            if (right < 0 || right % g.stride != 0 || out_column >= g.out_width) continue;
            sum += AsShort(products + (out_row * g.out_width + out_column) * padded + (i * g.window + j) * g.channels);
          }
        }
        float values[4];
        AsShort(values) = sum;
        std::copy(values, values + g.channels, out + ((image * g.height + row) * g.width + column) * g.channels);
      }
  });
}

void PatchesWeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent, float* out) {
  constexpr int64_t kPixelsTogether = 128, kLeastPixels = 256;
  const Patches p = ForwardPatches(g);
  const int64_t length = p.Length(), rows = RoundUp(length, kRows), apart = rows + kLanes;
  const int64_t features = g.features, panels = CeilDiv(features, kPanel), size = rows * panels * kPanel;
  const int64_t pixels = g.images * g.out_height * g.out_width;
  const int64_t groups = std::clamp<int64_t>(pool.num_threads(), 1, std::max<int64_t>(1, pixels / kLeastPixels));
  const Scratch totals(groups * size);  // [group, panel, row, kPanel]
  ParallelFor(pool, groups, [&](int64_t group) {
    const int64_t first = pixels * group / groups, last = pixels * (group + 1) / groups;
    const Scratch scratch(kPixelsTogether * (apart + panels * kPanel));
    float* patches = scratch.data();                         // [pixel, length], `apart`
    float* outputs = patches + kPixelsTogether * apart;      // [panel, pixel, kPanel]
    float* total = totals.data() + group * size;
    for (int64_t start = first; start < last; start += kPixelsTogether) {
      const int64_t count = std::min(kPixelsTogether, last - start);
      Gather(p, images, Cursor(p.rows, p.columns, start), count, patches, apart);
      for (int64_t q = 0; q < count; ++q)
        for (int64_t panel = 0; panel < panels; ++panel)
          Copy(outputs + (panel * kPixelsTogether + q) * kPanel, cotangent + (start + q) * features + panel * kPanel,
               std::min<int64_t>(kPanel, features - panel * kPanel));
      // Rows past `length` and columns past `features` are computed from whatever is there and not read.
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t row = 0; row < rows; row += kRows)
          Multiply<true>(patches + row, apart, outputs + panel * kPixelsTogether * kPanel, count,
                         total + (panel * rows + row) * kPanel, kPanel, start != first);
    }
  });
  ParallelFor(pool, panels, [&](int64_t panel) {
    const int64_t count = std::min<int64_t>(kPanel, features - panel * kPanel);
    for (int64_t row = 0; row < length; ++row) {
      float* sum = totals.data() + (panel * rows + row) * kPanel;
      for (int64_t group = 1; group < groups; ++group)
        for (int64_t i = 0; i < kPanel; ++i) sum[i] += sum[group * size + i];
      Copy(out + row * features + panel * kPanel, sum, count);
    }
  });
}

// --- What XLA calls.

void Forward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, float* out) {
  if (g.TakesWinograd()) {
    WinogradForward(pool, g, images, kernel, false, out);
  } else {
    PatchesForward(pool, g, images, kernel, out);
  }
}

void InputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel, float* out) {
  if (g.TakesWinograd()) {
    WinogradForward(pool, g.Backwards(), cotangent, kernel, true, out);
  } else {
    (g.channels <= 4 ? FewChannelsInputGradient : PatchesInputGradient)(pool, g, cotangent, kernel, out);
  }
}

void WeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent, float* out) {
  (g.TakesWinograd() ? WinogradWeightGradient : PatchesWeightGradient)(pool, g, images, cotangent, out);
}

using Array = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;
using Function = void (*)(ffi::ThreadPool&, const Geometry&, const float*, const float*, float*);

ffi::Error Call(Function function, ffi::ThreadPool& pool, const Array& images, const Array& kernel, const Array& outputs,
                const float* first, const float* second, float* result, int64_t stride, int64_t top, int64_t left) {
  const auto in = images.dimensions(), weights = kernel.dimensions(), out = outputs.dimensions();
  const Geometry g{in[0], in[1], in[2], in[3], out[1], out[2], out[3], weights[0], stride, top, left};
  function(pool, g, first, second, result);
  return ffi::Error::Success();
}

}  // namespace

#define TMU_JAX_BINDING                                                                            \
  ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<int64_t>("stride") \
      .Attr<int64_t>("top").Attr<int64_t>("left")

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_forward,
    [](ffi::ThreadPool pool, Array images, Array kernel, Result out, int64_t stride, int64_t top, int64_t left) {
      return Call(Forward, pool, images, kernel, *out, images.typed_data(), kernel.typed_data(), out->typed_data(), stride, top, left);
    },
    TMU_JAX_BINDING);

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_input_gradient,
    [](ffi::ThreadPool pool, Array cotangent, Array kernel, Result images, int64_t stride, int64_t top, int64_t left) {
      return Call(InputGradient, pool, *images, kernel, cotangent, cotangent.typed_data(), kernel.typed_data(), images->typed_data(), stride, top, left);
    },
    TMU_JAX_BINDING);

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_weight_gradient,
    [](ffi::ThreadPool pool, Array images, Array cotangent, Result kernel, int64_t stride, int64_t top, int64_t left) {
      return Call(WeightGradient, pool, images, *kernel, cotangent, images.typed_data(), cotangent.typed_data(), kernel->typed_data(), stride, top, left);
    },
    TMU_JAX_BINDING);

}  // namespace tmu_jax
