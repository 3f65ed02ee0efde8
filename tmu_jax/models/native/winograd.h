// Winograd's F(4x4, 3x3): 36 products of transformed tiles, four times fewer multiplications than the direct algorithm.
//
// References:
//   Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.

#ifndef TMU_JAX_MODELS_NATIVE_WINOGRAD_H_
#define TMU_JAX_MODELS_NATIVE_WINOGRAD_H_

#include <algorithm>
#include <cstdint>

#include "products.h"

namespace tmu_jax {
namespace {

// By the points 0, +-a, +-b and infinity. a = 1/sqrt(2) and b = sqrt(2) keep the constants near 1: the error is then a
// few times the direct algorithm's.
constexpr int kTile = 4, kInputs = 6, kPositions = 36;
constexpr float kA = 0.70710678f, kB = 1.41421356f;
constexpr float kA2 = 0.5f, kB2 = 2.0f, kA3 = kA2 * kA, kB3 = kB2 * kB;
constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)),
                kScaleB = 1 / (2 * kB2 * (kB2 - kA2));  // at 0: 1 / (a^2 b^2) = 1

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
Cursor Tiles(const Geometry& g, int64_t start) {
  return {CeilDiv(g.out_height, kTile), CeilDiv(g.out_width, kTile), start};
}
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
void TransformKernels(ffi::ThreadPool& pool, int64_t channels, int64_t features, const float* kernel, bool turned,
                      float* weights) {
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
        const float* from =
            turned ? &block[0][channel][lane] : kernel + (first + channel) * features + panel * kPanel + lane;
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
void WinogradForward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, bool turned,
                     float* out) {
  constexpr int64_t kTilesTogether = 32;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel;
  const Scratch kernel_scratch(kPositions * channels * features);
  float* weights = kernel_scratch.data();
  TransformKernels(pool, channels, features, kernel, turned, weights);

  const int64_t tiles = NumTiles(g);
  const int64_t share = RoundUp(CeilDiv(tiles, std::max<int64_t>(1, pool.num_threads())), kRows);
  const int64_t together = std::max<int64_t>(1, std::min(kTilesTogether, share));
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
      std::fill(inputs + position * in_plane + count * channels, inputs + position * in_plane + padded * channels,
                0.0f);

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
          float* to =
              out + ((tile.image * g.out_height + row) * g.out_width + column) * features + panel * kPanel + lane;
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
void WinogradHalfWeightGradient(const Geometry& g, const float* images, const float* cotangent, int64_t first,
                                int64_t last, int first_row, float* total) {
  const int64_t most = g.channels * g.features <= 64 * 64 ? 32 : 64;  // So that what they become stays in a cache.
  constexpr int kHalf = kInputs / 2, kHalfPositions = kPositions / 2;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel;
  const int64_t together = std::min(most, last - first);
  const int64_t in_plane = together * channels + kLanes, out_plane = together * features + kLanes;
  const Scratch scratch(kHalfPositions * (in_plane + out_plane) + std::max(channels, features));
  float* inputs = scratch.data();                         // [position, panel of channels, tile, kPanel]
  float* outputs = inputs + kHalfPositions * in_plane;    // [position, panel of features, tile, kPanel]
  float* outside = outputs + kHalfPositions * out_plane;  // [channel or feature]
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

void WinogradWeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent,
                            float* out) {
  constexpr int64_t kLeastTiles = 64;
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel, tiles = NumTiles(g);
  const int64_t groups =
      std::clamp<int64_t>(CeilDiv(pool.num_threads(), 2), 1, std::max<int64_t>(1, tiles / kLeastTiles));
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

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_MODELS_NATIVE_WINOGRAD_H_
