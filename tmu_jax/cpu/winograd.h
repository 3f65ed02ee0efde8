// Winograd's F(4x4, 3x3) for strides 1 and 2: products of transformed tiles, with fewer multiplications than the direct
// algorithm has: 36 for 144 with stride 1, 81 with stride 2.
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

// What a scheme does along one axis, in the terms of the paper's equation 12: `Input` is B^T, `Kernel` G, `Output` A^T.
// Tiles take kInputs pixels, kStep apart, to kPoints points and those to kOutputs results. `Weight` is the point of the
// transformed kernel, one of kWeights, that a tile's point is multiplied with.
constexpr int kWeights = 6;

// What the points +-a and +-b give to the results of F(4, .), and its transpose.
template <typename Scheme>
inline void OutputOfPairs(const Vector m[4], Vector out[4]) {
  constexpr float kA = Scheme::kA, kB = Scheme::kB, kA2 = Scheme::kA2, kB2 = Scheme::kB2;
  const Vector even_a = m[0] + m[1], odd_a = m[0] - m[1], even_b = m[2] + m[3], odd_b = m[2] - m[3];
  out[0] = even_a + even_b;
  out[1] = kA * odd_a + kB * odd_b;
  out[2] = kA2 * even_a + kB2 * even_b;
  out[3] = (kA2 * kA) * odd_a + (kB2 * kB) * odd_b;
}

template <typename Scheme>
inline void PairsOfOutput(const Vector y[4], Vector out[4]) {
  constexpr float kA = Scheme::kA, kB = Scheme::kB, kA2 = Scheme::kA2, kB2 = Scheme::kB2;
  Vector even = y[0] + kA2 * y[2], odd = y[1] + kA2 * y[3];
  out[0] = even + kA * odd;
  out[1] = even - kA * odd;
  even = y[0] + kB2 * y[2], odd = y[1] + kB2 * y[3];
  out[2] = even + kB * odd;
  out[3] = even - kB * odd;
}

// By the points 0, +-a, +-b and infinity. a = 1/sqrt(2) and b = sqrt(2) keep the constants near 1: the error is then a
// few times the direct algorithm's.
struct Stride1 {
  static constexpr int kInputs = 6, kStep = 4, kPoints = 6, kOutputs = 4;
  static constexpr float kA = 0.70710678f, kB = 1.41421356f, kA2 = 0.5f, kB2 = 2.0f;
  static constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)),
                         kScaleB = 1 / (2 * kB2 * (kB2 - kA2));  // At 0: 1 / (a^2 b^2) = 1.

  static int Weight(int point) { return point; }

  static void Input(const Vector d[6], Vector out[6]) {
    Vector even = d[4] - kB2 * d[2], odd = d[3] - kB2 * d[1];
    out[0] = d[0] - (kA2 + kB2) * d[2] + d[4];
    out[1] = even + kA * odd;
    out[2] = even - kA * odd;
    even = d[4] - kA2 * d[2], odd = d[3] - kA2 * d[1];
    out[3] = even + kB * odd;
    out[4] = even - kB * odd;
    out[5] = d[1] - (kA2 + kB2) * d[3] + d[5];
  }

  static void Kernel(const Vector g[3], Vector out[6]) {
    Vector even = kScaleA * (g[0] + kA2 * g[2]), odd = (kScaleA * kA) * g[1];
    out[0] = g[0];
    out[1] = even + odd;
    out[2] = even - odd;
    even = kScaleB * (g[0] + kB2 * g[2]), odd = (kScaleB * kB) * g[1];
    out[3] = even + odd;
    out[4] = even - odd;
    out[5] = g[2];
  }

  static void KernelTransposed(const Vector u[6], Vector out[3]) {
    const Vector even_a = kScaleA * (u[1] + u[2]), even_b = kScaleB * (u[3] + u[4]);
    out[0] = u[0] + even_a + even_b;
    out[1] = (kScaleA * kA) * (u[1] - u[2]) + (kScaleB * kB) * (u[3] - u[4]);
    out[2] = kA2 * even_a + kB2 * even_b + u[5];
  }

  static void Output(const Vector m[6], Vector out[4]) {
    OutputOfPairs<Stride1>(m + 1, out);
    out[0] += m[0];
    out[3] += m[5];
  }

  static void OutputTransposed(const Vector y[4], Vector out[6]) {
    PairsOfOutput<Stride1>(y, out + 1);
    out[0] = y[0];
    out[5] = y[3];
  }
};

// Of stride 2 a result is w0 x[2i] + w2 x[2i + 2], a convolution of stride 1 of every other pixel, plus w1 x[2i + 1].
// The first, F(4, 2), takes the points +-a, +-b and infinity; the second stays as it is: four points that are
// multiplied with the same weight.
struct Stride2 {
  static constexpr int kInputs = 9, kStep = 8, kPoints = 9, kOutputs = 4;
  static constexpr float kA = 0.5f, kB = 1.22474487f, kA2 = 0.25f, kB2 = 1.5f;
  static constexpr float kScaleA = 1 / (2 * kA * (kA2 - kB2)), kScaleB = 1 / (2 * kB * (kB2 - kA2));

  static int Weight(int point) { return std::min(point, 5); }

  // F(4, 2) alone, of pixels `kApart` apart.
  template <int kApart>
  static void InputOfPairs(const Vector* d, Vector out[5]) {
    Vector even = d[3 * kApart] - kB2 * d[kApart], odd = d[2 * kApart] - kB2 * d[0];
    out[0] = even + kA * odd;
    out[1] = even - kA * odd;
    even = d[3 * kApart] - kA2 * d[kApart], odd = d[2 * kApart] - kA2 * d[0];
    out[2] = even + kB * odd;
    out[3] = even - kB * odd;
    out[4] = d[4 * kApart] - (kA2 + kB2) * d[2 * kApart] + (kA2 * kB2) * d[0];
  }

  static void Input(const Vector d[9], Vector out[9]) {
    InputOfPairs<2>(d, out);
    for (int i = 0; i < 4; ++i) out[5 + i] = d[2 * i + 1];
  }

  static void Kernel(const Vector g[3], Vector out[6]) {
    Vector even = (kScaleA * kA) * g[2], odd = kScaleA * g[0];
    out[0] = even + odd;
    out[1] = even - odd;
    even = (kScaleB * kB) * g[2], odd = kScaleB * g[0];
    out[2] = even + odd;
    out[3] = even - odd;
    out[4] = g[2];
    out[5] = g[1];
  }

  static void KernelTransposed(const Vector u[6], Vector out[3]) {
    out[0] = kScaleA * (u[0] - u[1]) + kScaleB * (u[2] - u[3]);
    out[1] = u[5];
    out[2] = (kScaleA * kA) * (u[0] + u[1]) + (kScaleB * kB) * (u[2] + u[3]) + u[4];
  }

  static void Output(const Vector m[9], Vector out[4]) {
    OutputOfPairs<Stride2>(m, out);
    out[3] += m[4];
    for (int i = 0; i < 4; ++i) out[i] += m[5 + i];
  }

  static void OutputTransposed(const Vector y[4], Vector out[9]) {
    PairsOfOutput<Stride2>(y, out);
    out[4] = y[3];
    for (int i = 0; i < 4; ++i) out[5 + i] = y[i];
  }
};

// The input gradient of stride 2, by the turned kernel: of the pixels of an image, every other one has two terms, the
// rest have one. With kOdd, an odd number of zeros before the image, those of one term come first.
template <bool kOdd>
struct Stride2Gradient {
  static constexpr int kInputs = 5, kStep = 4, kPoints = 9, kOutputs = 8;

  static int Weight(int point) { return Stride2::Weight(point); }

  static void Input(const Vector d[5], Vector out[9]) {
    Stride2::InputOfPairs<1>(d, out);
    for (int i = 0; i < 4; ++i) out[5 + i] = d[i + !kOdd];
  }

  static void Kernel(const Vector g[3], Vector out[6]) { Stride2::Kernel(g, out); }

  static void Output(const Vector m[9], Vector out[8]) {
    Vector two[4];
    OutputOfPairs<Stride2>(m, two);
    two[3] += m[4];
    for (int i = 0; i < 4; ++i) {
      out[2 * i + kOdd] = two[i];
      out[2 * i + !kOdd] = m[5 + i];
    }
  }
};

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

template <typename Scheme>
Cursor Tiles(const Geometry& g, int64_t start) {
  return {CeilDiv(g.out_height, Scheme::kOutputs), CeilDiv(g.out_width, Scheme::kOutputs), start};
}
template <typename Scheme>
int64_t NumTiles(const Geometry& g) {
  return g.images * CeilDiv(g.out_height, Scheme::kOutputs) * CeilDiv(g.out_width, Scheme::kOutputs);
}

// Where that is fewer multiplications, and channels fill vectors.
bool TakesWinograd(const Geometry& g) {
  if (g.window != 3 || g.channels % kPanel != 0 || g.features % kPanel != 0) return false;
  const int64_t direct = g.images * g.out_height * g.out_width * 9;
  if (g.stride == 1) return NumTiles<Stride1>(g) * Stride1::kPoints * Stride1::kPoints <= direct;
  return g.stride == 2 && (g.top - g.left) % 2 == 0 &&
         NumTiles<Stride2>(g) * Stride2::kPoints * Stride2::kPoints <= direct;
}

// Whether each core takes some panels of features with all tiles: where few tiles meet a large kernel, whose transform
// would else be written to memory and read from there. With more tiles it is their transforms that would be.
bool TakesPanels(const ffi::ThreadPool& pool, const Geometry& g, int64_t tiles) {
  return tiles <= 128 && g.channels * g.features >= 64 * 256 && g.features / kPanel >= 2 * pool.num_threads();
}

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

// Transforms kLanes channels of a kernel, from `first` on, for a panel of features: weights[weight * apart] is
// [channel, kPanel], written past the caches if kAround (call Fence() then). A turned kernel is the kernel of
// `Backwards`: it lies in memory as [3, 3, features, channels], to be turned by half a circle.
template <typename Scheme, bool kAround>
void TransformKernel(int64_t channels, int64_t features, const float* kernel, bool turned, int64_t panel, int64_t first,
                     float* weights, int64_t apart) {
  const int64_t plane = channels * features;
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
      const int64_t from_apart = turned ? kLanes * kPanel : plane;
      float* to = weights + (first + channel) * kPanel + lane;
      TransformSquare<3, kWeights>(
          Scheme::Kernel, [&](int i, int j) { return Load(from + (i * 3 + j) * from_apart); },
          [&](int i, int j, Vector value) {
            float* at = to + (i * kWeights + j) * apart;
            if (kAround) {
              StoreAround(at, value);
            } else {
              Store(at, value);
            }
          });
    }
}

// Where the point of a transformed tile lies: position * plane + tile * tile_apart + panel of channels * panel_apart.
struct Layout {
  int64_t plane, tile_apart, panel_apart;
};

// Transforms `count` tiles of images, from `start` on, for `kRowsOut` rows of positions, from `first_row` on.
template <typename Scheme, int kRowsOut>
TMU_JAX_INLINE void TransformTiles(const Geometry& g, const float* images, const float* outside, int first_row,
                                   int64_t start, int64_t count, float* inputs, const Layout& layout) {
  constexpr int kInputs = Scheme::kInputs, kPoints = Scheme::kPoints;
  const int64_t channels = g.channels;
  Cursor tile = Tiles<Scheme>(g, start);
  for (int64_t t = 0; t < count; ++t, tile.Advance()) {
    const float* pixels[kInputs][kInputs];
    Pixels<kInputs>(images + tile.image * g.height * g.width * channels, g.height, g.width, channels,
                    tile.row * Scheme::kStep - g.top, tile.column * Scheme::kStep - g.left, outside, pixels);
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      float* to = inputs + t * layout.tile_apart + channel / kPanel * layout.panel_apart + channel % kPanel;
      TransformSquare<kInputs, kPoints, kRowsOut>(
          Scheme::Input, [&](int i, int j) { return Load(pixels[i][j] + channel); },
          [&](int i, int j, Vector value) { Store(to + (i * kPoints + j) * layout.plane, value); }, first_row);
    }
  }
}

// Writes the results of a panel of features, by its weights, of `count` transformed tiles, from `start` on. products,
// for what lies between: [tile, position, kPanel], tiles `out_tile` apart.
template <typename Scheme>
void MultiplyTiles(const Geometry& g, const float* inputs, int64_t in_tile, const float* weights, int64_t apart,
                   float* products, int64_t out_tile, int64_t start, int64_t count, int64_t panel, float* out) {
  constexpr int kPoints = Scheme::kPoints, kOutputs = Scheme::kOutputs;
  const int64_t channels = g.channels, features = g.features;
  for (int position = 0; position < kPoints * kPoints; ++position) {
    const int weight = Scheme::Weight(position / kPoints) * kWeights + Scheme::Weight(position % kPoints);
    for (int64_t t = 0; t < count; t += kRows)  // Tiles past `count`: from whatever is there, and not read.
      Multiply<false, false>(inputs + t * in_tile + position * channels, in_tile, weights + weight * apart, channels,
                             products + t * out_tile + position * kPanel, out_tile);
  }
  Cursor tile = Tiles<Scheme>(g, start);
  for (int64_t t = 0; t < count; ++t, tile.Advance()) {
    const int64_t row = tile.row * kOutputs, column = tile.column * kOutputs;
    const int64_t rows = g.out_height - row, columns = g.out_width - column;  // Left of the image.
    for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const float* from = products + t * out_tile + lane;
      float* to = out + ((tile.image * g.out_height + row) * g.out_width + column) * features + panel * kPanel + lane;
      TransformSquare<kPoints, kOutputs>(
          Scheme::Output, [&](int i, int j) { return Load(from + (i * kPoints + j) * kPanel); },
          [&](int i, int j, Vector value) {
            if (i < rows && j < columns) Store(to + (i * g.out_width + j) * features, value);
          });
    }
  }
}

// One more vector for each tile: tiles a power of two apart would fall on the same places of the cache.
template <typename Scheme>
constexpr int64_t TileApart(int64_t channels) {
  return Scheme::kPoints * Scheme::kPoints * channels + kLanes;
}

// Tiles of one task, where tasks do nothing but transform them.
constexpr int64_t kTilesInTask = 4;

// Each core takes panels of features with all tiles, and transforms the kernel for them itself.
template <typename Scheme>
void ForwardOfFewTiles(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, bool turned,
                       float* out) {
  constexpr int64_t kTogether = 64;  // Tiles, a multiple of kRows: their products stay in a core's cache.
  const int64_t channels = g.channels, tiles = NumTiles<Scheme>(g), apart = channels * kPanel;
  const int64_t in_tile = TileApart<Scheme>(channels), out_tile = TileApart<Scheme>(kPanel);
  const Scratch tile_scratch(RoundUp(tiles, kRows) * in_tile + channels);
  float* inputs = tile_scratch.data();                        // [tile, position, channel]
  float* outside = inputs + RoundUp(tiles, kRows) * in_tile;  // [channel]
  std::fill(outside, outside + channels, 0.0f);
  ParallelFor(pool, CeilDiv(tiles, kTilesInTask), [&](int64_t task) {
    const int64_t start = task * kTilesInTask, count = std::min(kTilesInTask, tiles - start);
    TransformTiles<Scheme, Scheme::kPoints>(g, images, outside, 0, start, count, inputs + start * in_tile,
                                            {channels, in_tile, kPanel});
  });
  ParallelFor(pool, g.features / kPanel, [&](int64_t panel) {
    const Scratch scratch(kWeights * kWeights * apart + kTogether * out_tile);
    float* weights = scratch.data();                          // [weight, channel, kPanel]
    float* products = weights + kWeights * kWeights * apart;  // [tile, position, kPanel]
    for (int64_t first = 0; first < channels; first += kLanes)
      TransformKernel<Scheme, false>(channels, g.features, kernel, turned, panel, first, weights, apart);
    for (int64_t start = 0; start < tiles; start += kTogether)
      MultiplyTiles<Scheme>(g, inputs + start * in_tile, in_tile, weights, apart, products, out_tile, start,
                            std::min(kTogether, tiles - start), panel, out);
  });
}

// With `turned`, `kernel` is that of the convolution whose input gradient is computed; see TransformKernel.
template <typename Scheme>
void WinogradForward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, bool turned,
                     float* out) {
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel, blocks = channels / kLanes;
  const int64_t tiles = NumTiles<Scheme>(g);
  if (TakesPanels(pool, g, tiles)) return ForwardOfFewTiles<Scheme>(pool, g, images, kernel, turned, out);
  const int64_t most = channels < 256 ? 16 : 32;
  const Scratch kernel_scratch(kWeights * kWeights * channels * features);
  float* weights = kernel_scratch.data();  // [weight, panel, channel, kPanel]
  ParallelFor(pool, panels * blocks, [&](int64_t task) {
    const int64_t panel = task / blocks;
    TransformKernel<Scheme, true>(channels, features, kernel, turned, panel, task % blocks * kLanes,
                                  weights + panel * channels * kPanel, channels * features);
    Fence();
  });
  const int64_t share = RoundUp(CeilDiv(tiles, std::max<int64_t>(1, pool.num_threads())), kRows);
  const int64_t together = std::max<int64_t>(1, std::min(most, share));
  const int64_t in_tile = TileApart<Scheme>(channels), out_tile = TileApart<Scheme>(kPanel);
  ParallelFor(pool, CeilDiv(tiles, together), [&](int64_t block) {
    const Scratch scratch(RoundUp(together, kRows) * (in_tile + out_tile) + channels);
    float* inputs = scratch.data();                                   // [tile, position, channel]
    float* products = inputs + RoundUp(together, kRows) * in_tile;    // [tile, position, kPanel]
    float* outside = products + RoundUp(together, kRows) * out_tile;  // [channel]
    std::fill(outside, outside + channels, 0.0f);
    const int64_t start = block * together, count = std::min(together, tiles - start);
    TransformTiles<Scheme, Scheme::kPoints>(g, images, outside, 0, start, count, inputs, {channels, in_tile, kPanel});
    for (int64_t panel = 0; panel < panels; ++panel)
      MultiplyTiles<Scheme>(g, inputs, in_tile, weights + panel * channels * kPanel, channels * features, products,
                            out_tile, start, count, panel, out);
  });
}

// Transforms `count` tiles of a cotangent likewise, for `panels` of features from `first_panel` on, which is the first
// in `outputs` too.
template <typename Scheme, int kRowsOut>
TMU_JAX_INLINE void TransformResults(const Geometry& g, const float* cotangent, const float* outside, int first_row,
                                     int64_t start, int64_t count, int64_t first_panel, int64_t panels, float* outputs,
                                     const Layout& layout) {
  constexpr int kOutputs = Scheme::kOutputs, kPoints = Scheme::kPoints;
  const int64_t features = g.features;
  Cursor tile = Tiles<Scheme>(g, start);
  for (int64_t t = 0; t < count; ++t, tile.Advance()) {
    const float* results[kOutputs][kOutputs];
    Pixels<kOutputs>(cotangent + tile.image * g.out_height * g.out_width * features, g.out_height, g.out_width,
                     features, tile.row * kOutputs, tile.column * kOutputs, outside, results);
    for (int64_t feature = 0; feature < panels * kPanel; feature += kLanes) {
      float* to = outputs + t * layout.tile_apart + feature / kPanel * layout.panel_apart + feature % kPanel;
      TransformSquare<kOutputs, kPoints, kRowsOut>(
          Scheme::OutputTransposed, [&](int i, int j) { return Load(results[i][j] + first_panel * kPanel + feature); },
          [&](int i, int j, Vector value) { Store(to + (i * kPoints + j) * layout.plane, value); }, first_row);
    }
  }
}

// Adds up the products of tiles [first, last) for `kRowsOut` rows of positions, from `first_row` on.
// total: [weight (of these rows), panel, channel, kPanel].
template <typename Scheme, int kRowsOut>
void WinogradPartOfWeightGradient(const Geometry& g, const float* images, const float* cotangent, int64_t first,
                                  int64_t last, int first_row, float* total) {
  constexpr int kPoints = Scheme::kPoints, kPositions = kRowsOut * kPoints;
  const int64_t most = g.channels * g.features <= 256 * 256 ? 16 : 32;  // So that what they become stays in a cache.
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel;
  const int64_t together = std::min(most, last - first);
  const int64_t in_plane = together * channels + kLanes, out_plane = together * features + kLanes;
  const Scratch scratch(kPositions * (in_plane + out_plane) + std::max(channels, features));
  float* inputs = scratch.data();                     // [position, panel of channels, tile, kPanel]
  float* outputs = inputs + kPositions * in_plane;    // [position, panel of features, tile, kPanel]
  float* outside = outputs + kPositions * out_plane;  // [channel or feature]
  std::fill(outside, outside + std::max(channels, features), 0.0f);

  for (int64_t start = first; start < last; start += together) {
    const int64_t count = std::min(together, last - start);
    TransformTiles<Scheme, kRowsOut>(g, images, outside, first_row, start, count, inputs,
                                     {in_plane, kPanel, together * kPanel});
    TransformResults<Scheme, kRowsOut>(g, cotangent, outside, first_row, start, count, 0, panels, outputs,
                                       {out_plane, kPanel, together * kPanel});
    for (int position = 0; position < kPositions; ++position) {
      const int row = first_row + position / kPoints, column = position % kPoints;
      const int row_weight = Scheme::Weight(row), column_weight = Scheme::Weight(column);
      const int weight = (row_weight - Scheme::Weight(first_row)) * kWeights + column_weight;
      // Of the points that share a weight, the first has its own number.
      const bool add = start != first || row != row_weight || column != column_weight;
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t channel = 0; channel < channels; channel += kRows)
          Multiply<true>(inputs + position * in_plane + channel / kPanel * together * kPanel + channel % kPanel, kPanel,
                         outputs + position * out_plane + panel * together * kPanel, count,
                         total + ((weight * panels + panel) * channels + channel) * kPanel, kPanel, add);
    }
  }
}

// Writes the weight gradient of a panel of features and of kLanes channels, from `first` on, from the sums of products:
// totals[weight * apart] is [channel, kPanel], and there are `groups` of them, `size` apart, to be added up.
template <typename Scheme>
void TransformTotals(const Geometry& g, const float* totals, int64_t apart, int64_t groups, int64_t size, int64_t panel,
                     int64_t first, float* out) {
  for (int64_t channel = first; channel < first + kLanes; ++channel)
    for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const float* from = totals + channel * kPanel + lane;
      float* to = out + channel * g.features + panel * kPanel + lane;
      TransformSquare<kWeights, 3>(
          Scheme::KernelTransposed,
          [&](int i, int j) {
            const float* at = from + (i * kWeights + j) * apart;
            Vector sum = Load(at);
            for (int64_t group = 1; group < groups; ++group) sum += Load(at + group * size);
            return sum;
          },
          [&](int i, int j, Vector value) { Store(to + (i * 3 + j) * g.channels * g.features, value); });
    }
}

// Each core takes panels of features with all tiles: their sums need not be added up, nor kept until all are there.
template <typename Scheme>
void WeightGradientOfFewTiles(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent,
                              float* out) {
  constexpr int kPoints = Scheme::kPoints, kPositions = kPoints * kPoints;
  const int64_t channels = g.channels, features = g.features, tiles = NumTiles<Scheme>(g);
  const int64_t in_plane = tiles * channels + kLanes, out_plane = tiles * kPanel + kLanes, apart = channels * kPanel;
  const Scratch tile_scratch(kPositions * in_plane + std::max(channels, features));
  float* inputs = tile_scratch.data();              // [position, panel of channels, tile, kPanel]
  float* outside = inputs + kPositions * in_plane;  // [channel or feature]
  std::fill(outside, outside + std::max(channels, features), 0.0f);
  ParallelFor(pool, CeilDiv(tiles, kTilesInTask), [&](int64_t task) {
    const int64_t start = task * kTilesInTask, count = std::min(kTilesInTask, tiles - start);
    TransformTiles<Scheme, kPoints>(g, images, outside, 0, start, count, inputs + start * kPanel,
                                    {in_plane, kPanel, tiles * kPanel});
  });
  ParallelFor(pool, features / kPanel, [&](int64_t panel) {
    const Scratch scratch(kPositions * out_plane + kWeights * kWeights * apart);
    float *outputs = scratch.data(), *totals = outputs + kPositions * out_plane;
    TransformResults<Scheme, kPoints>(g, cotangent, outside, 0, 0, tiles, panel, 1, outputs,
                                      {out_plane, kPanel, tiles * kPanel});
    for (int position = 0; position < kPositions; ++position) {
      const int row = position / kPoints, column = position % kPoints;
      const int row_weight = Scheme::Weight(row), column_weight = Scheme::Weight(column);
      for (int64_t channel = 0; channel < channels; channel += kRows)
        Multiply<true>(inputs + position * in_plane + channel / kPanel * tiles * kPanel + channel % kPanel, kPanel,
                       outputs + position * out_plane, tiles,
                       totals + (row_weight * kWeights + column_weight) * apart + channel * kPanel, kPanel,
                       row != row_weight || column != column_weight);
    }
    for (int64_t first = 0; first < channels; first += kLanes)
      TransformTotals<Scheme>(g, totals, apart, 1, 0, panel, first, out);
  });
}

// The positions are cut into kParts, one thread for each: they share the transforms of a tile and need not add up their
// sums.
template <typename Scheme, int kParts>
void WinogradWeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent,
                            float* out) {
  const int64_t channels = g.channels, features = g.features, panels = features / kPanel, tiles = NumTiles<Scheme>(g);
  if (TakesPanels(pool, g, tiles)) return WeightGradientOfFewTiles<Scheme>(pool, g, images, cotangent, out);
  constexpr int64_t kLeastTiles = 64;
  constexpr int kRowsOut = Scheme::kPoints / kParts;
  const int64_t groups =
      std::clamp<int64_t>(CeilDiv(pool.num_threads(), kParts), 1, std::max<int64_t>(1, tiles / kLeastTiles));
  const int64_t size = kWeights * kWeights * channels * features;
  const Scratch scratch(groups * size);
  float* totals = scratch.data();
  ParallelFor(pool, kParts * groups, [&](int64_t i) {
    const int64_t group = i / kParts, part = i % kParts;
    WinogradPartOfWeightGradient<Scheme, kRowsOut>(g, images, cotangent, tiles * group / groups,
                                                   tiles * (group + 1) / groups, part * kRowsOut,
                                                   totals + group * size + part * size / kParts);
  });
  const int64_t blocks = channels / kLanes;
  ParallelFor(pool, panels * blocks, [&](int64_t task) {
    const int64_t panel = task / blocks;
    TransformTotals<Scheme>(g, totals + panel * channels * kPanel, channels * features, groups, size, panel,
                            task % blocks * kLanes, out);
  });
}

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_MODELS_NATIVE_WINOGRAD_H_
