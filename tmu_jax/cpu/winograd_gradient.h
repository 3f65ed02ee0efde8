// Winograd's weight gradient: the transpose of what winograd.h does, by the same transforms.

#ifndef TMU_JAX_CPU_WINOGRAD_GRADIENT_H_
#define TMU_JAX_CPU_WINOGRAD_GRADIENT_H_

#include <algorithm>
#include <cstdint>

#include "winograd.h"

namespace tmu_jax {
namespace {

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

#endif  // TMU_JAX_CPU_WINOGRAD_GRADIENT_H_
