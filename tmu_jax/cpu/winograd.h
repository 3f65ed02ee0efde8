// Winograd's algorithm forward, and, with the turned kernel, the input gradient: tiles of an image are transformed,
// multiplied with the transformed kernel point by point, and transformed into results (schemes.h).

#ifndef TMU_JAX_CPU_WINOGRAD_H_
#define TMU_JAX_CPU_WINOGRAD_H_

#include <algorithm>
#include <cstdint>

#include "schemes.h"

namespace tmu_jax {
namespace {

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

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_CPU_WINOGRAD_H_
