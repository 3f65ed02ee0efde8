// Convolutions of any square window and stride as products of patches: windows of pixels, written side by side.

#ifndef TMU_JAX_CPU_PATCHES_H_
#define TMU_JAX_CPU_PATCHES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "products.h"

namespace tmu_jax {
namespace {

// Which pixels of a source make up the patch of each pixel of a grid, and where that pixel lies in the result.
struct Patches {
  int64_t height, width, channels;                                     // Of the source.
  int64_t rows, columns;                                               // Of the grid.
  int64_t stride, top, left, window_height, window_width;              // Grid to source: a window of pixels.
  int64_t out_height, out_width, out_stride, first_row, first_column;  // Grid to result.

  int64_t Length() const { return window_height * window_width * channels; }
  // Whether the grid is the result, pixel by pixel.
  bool IsWhole() const { return rows == out_height && columns == out_width; }
};

// Writes `count` patches, `apart` numbers from each other, at least their length and a vector's: up to a vector behind
// each is written over.
void Gather(const Patches& p, int64_t images, const float* source, Cursor pixel, int64_t count, float* patches,
            int64_t apart) {
  const float* end = source + images * p.height * p.width * p.channels;
  for (int64_t q = 0; q < count; ++q, pixel.Advance()) {
    const float* image = source + pixel.image * p.height * p.width * p.channels;
    const int64_t column = pixel.column * p.stride - p.left;
    const int64_t before = std::clamp<int64_t>(-column, 0, p.window_width);
    const int64_t after = std::clamp<int64_t>(column + p.window_width - p.width, 0, p.window_width - before);
    // Rows of a window that a vector holds are copied with what follows them; the next row is then written over that.
    const bool is_short = before + after == 0 && p.window_width * p.channels <= kLanes;
    for (int64_t i = 0; i < p.window_height; ++i) {
      float* to = patches + q * apart + i * p.window_width * p.channels;
      const int64_t row = pixel.row * p.stride - p.top + i, length = p.window_width * p.channels;
      if (row < 0 || row >= p.height) {
        std::fill(to, to + length, 0.0f);
        continue;
      }
      const float* from = image + (row * p.width + column + before) * p.channels;
      if (is_short && end - from >= kLanes) {
        Store(to, Load(from));
        continue;
      }
      std::fill(to, to + before * p.channels, 0.0f);
      Copy(to + before * p.channels, from, length - (before + after) * p.channels);
      std::fill(to + length - after * p.channels, to + length, 0.0f);
    }
  }
}

// How many patches lie in memory together: 64 KiB of them, within bounds.
int64_t PixelsTogether(int64_t apart, int64_t least) {
  return std::clamp<int64_t>((1 << 14) / apart / kRows * kRows, least, 256);
}

// result[pixel] = patch of the pixel times weights [panel, length of a patch, kPanel].
void MultiplyPatches(ffi::ThreadPool& pool, const Patches& p, int64_t images, const float* source, const float* weights,
                     int64_t features, float* result) {
  const int64_t pixels = images * p.rows * p.columns, length = p.Length(), apart = length + kLanes;
  const int64_t share = RoundUp(CeilDiv(pixels, std::max<int64_t>(1, pool.num_threads())), kRows);
  const int64_t together = std::clamp<int64_t>(share, 1, PixelsTogether(apart, 64));
  ParallelFor(pool, CeilDiv(pixels, together), [&](int64_t block) {
    const Scratch scratch(together * (apart + kPanel));
    float* patches = scratch.data();               // [pixel, length], `apart`
    float* products = patches + together * apart;  // [pixel, kPanel]
    const int64_t start = block * together, count = std::min(together, pixels - start);
    Gather(p, images, source, Cursor(p.rows, p.columns, start), count, patches, apart);
    for (int64_t feature = 0; feature < features; feature += kPanel) {
      if (p.IsWhole() && count % kRows == 0 && feature + kPanel <= features) {
        for (int64_t q = 0; q < count; q += kRows)
          Multiply<false, false>(patches + q * apart, apart, weights + feature * length, length,
                                 result + (start + q) * features + feature, features);
        continue;
      }
      // Rows past `count` are computed from whatever is there and not read.
      for (int64_t q = 0; q < count; q += kRows)
        Multiply<false, false>(patches + q * apart, apart, weights + feature * length, length, products + q * kPanel,
                               kPanel);
      Cursor pixel(p.rows, p.columns, start);
      for (int64_t q = 0; q < count; ++q, pixel.Advance()) {
        const int64_t row = p.first_row + pixel.row * p.out_stride,
                      column = p.first_column + pixel.column * p.out_stride;
        float* to = result + ((pixel.image * p.out_height + row) * p.out_width + column) * features + feature;
        Copy(to, products + q * kPanel, std::min<int64_t>(kPanel, features - feature));
      }
    }
  });
}

Patches ForwardPatches(const Geometry& g) {
  return {g.height, g.width,  g.channels,   g.out_height, g.out_width, g.stride, g.top, g.left,
          g.window, g.window, g.out_height, g.out_width,  1,           0,        0};
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
void PatchesInputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel,
                          float* out) {
  const int64_t size = g.window * g.window * g.channels * g.features;
  const Scratch turned(size), part(size), packed(size / g.channels * RoundUp(g.channels, kPanel));
  TurnKernel(pool, g, kernel, turned.data());
  // Along one axis: the first position of the turned kernel, how many there are, and the offset of the first pixel.
  struct Axis {
    int64_t first, count, before;
  };
  const auto axis = [&](int64_t remainder, int64_t low) {
    // Pixel stride * i + remainder meets kernel position u at output (stride * i + remainder + low - u) / stride.
    const int64_t least = (remainder + low) % g.stride,
                  count = CeilDiv(std::max<int64_t>(0, g.window - least), g.stride);
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
      const Patches patches{g.out_height,
                            g.out_width,
                            g.features,
                            CeilDiv(g.height - a, g.stride),
                            CeilDiv(g.width - b, g.stride),
                            1,
                            rows.before,
                            columns.before,
                            rows.count,
                            columns.count,
                            g.height,
                            g.width,
                            g.stride,
                            a,
                            b};
      PackPanels(pool, part.data(), patches.Length(), g.channels, packed.data());
      MultiplyPatches(pool, patches, g.images, cotangent, packed.data(), g.channels, out);
    }
}

// Whether images are of up to four channels, and their products (below) no more than 16 MiB a thread.
bool TakesFewChannels(const Geometry& g) {
  return g.channels <= 4 && RoundUp(g.window * g.window * g.channels, kPanel) * g.out_height * g.out_width <= 1 << 22;
}

// For images of up to four channels: products with all positions of the kernel, of which each pixel then adds up its
// own. (A panel of channels would be empty but for those few.)
void FewChannelsInputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel,
                              float* out) {
  const int64_t length = g.window * g.window * g.channels, padded = RoundUp(length, kPanel);
  const int64_t pixels = g.out_height * g.out_width;
  const Scratch turned(length * g.features), packed(padded * g.features);
  for (int64_t feature = 0; feature < g.features; ++feature)
    for (int64_t i = 0; i < length; ++i) turned.data()[feature * length + i] = kernel[i * g.features + feature];
  PackPanels(pool, turned.data(), g.features, length, packed.data());
  ParallelFor(pool, g.images, [&](int64_t image) {
    const Scratch scratch(RoundUp(pixels, kRows) * padded + kRows * g.features + kLanes);
    float* products = scratch.data();                          // [pixel, padded]
    float* last = products + RoundUp(pixels, kRows) * padded;  // The last rows, where there are fewer than kRows.
    const float* from = cotangent + image * pixels * g.features;
    for (int64_t q = 0; q < pixels; q += kRows) {
      const float* rows = from + q * g.features;
      if (q + kRows > pixels) {
        std::memcpy(last, rows, (pixels - q) * g.features * sizeof(float));
        rows = last;
      }
      for (int64_t i = 0; i < padded; i += kPanel)
        Multiply<false, false>(rows, g.features, packed.data() + i * g.features, g.features, products + q * padded + i,
                               padded);
    }
    const auto add_up = [&](auto stride) {
      for (int64_t row = 0; row < g.height; ++row)
        for (int64_t column = 0; column < g.width; ++column) {
          Short sum{};  // The lanes past the channels are not stored.
          for (int64_t i = 0; i < g.window; ++i) {
            const int64_t down = row + g.top - i, out_row = down / stride;
            if (down < 0 || down % stride != 0 || out_row >= g.out_height) continue;
            for (int64_t j = 0; j < g.window; ++j) {
              const int64_t right = column + g.left - j, out_column = right / stride;
              if (right < 0 || right % stride != 0 || out_column >= g.out_width) continue;
              sum += Load<Short>(products + (out_row * g.out_width + out_column) * padded +
                                 (i * g.window + j) * g.channels);
            }
          }
          float values[4];
          Store(values, sum);
          std::copy(values, values + g.channels, out + ((image * g.height + row) * g.width + column) * g.channels);
        }
    };
    if (g.stride == 1) {
      add_up(std::integral_constant<int64_t, 1>());  // Without divisions.
    } else {
      add_up(g.stride);
    }
  });
}

void PatchesWeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent,
                           float* out) {
  constexpr int64_t kLeastPixels = 256;
  const Patches p = ForwardPatches(g);
  const int64_t length = p.Length(), rows = RoundUp(length, kRows), apart = rows + kLanes;
  const int64_t together = PixelsTogether(apart, 128);
  const int64_t features = g.features, panels = CeilDiv(features, kPanel), size = rows * panels * kPanel;
  const int64_t pixels = g.images * g.out_height * g.out_width;
  const int64_t groups = std::clamp<int64_t>(pool.num_threads(), 1, std::max<int64_t>(1, pixels / kLeastPixels));
  const Scratch totals(groups * size);  // [group, panel, row, kPanel]
  ParallelFor(pool, groups, [&](int64_t group) {
    const int64_t first = pixels * group / groups, last = pixels * (group + 1) / groups;
    const Scratch scratch(together * (apart + panels * kPanel));
    float* patches = scratch.data();              // [pixel, length], `apart`
    float* outputs = patches + together * apart;  // [panel, pixel, kPanel]
    float* total = totals.data() + group * size;
    for (int64_t start = first; start < last; start += together) {
      const int64_t count = std::min(together, last - start);
      Gather(p, g.images, images, Cursor(p.rows, p.columns, start), count, patches, apart);
      const float* right = outputs;
      if (features == kPanel) {  // They lie in memory as a panel does.
        right = cotangent + start * features;
      } else {
        for (int64_t q = 0; q < count; ++q)
          for (int64_t panel = 0; panel < panels; ++panel)
            Copy(outputs + (panel * together + q) * kPanel, cotangent + (start + q) * features + panel * kPanel,
                 std::min<int64_t>(kPanel, features - panel * kPanel));
      }
      // Rows past `length` and columns past `features` are computed from whatever is there and not read.
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t row = 0; row < rows; row += kRows)
          Multiply<true>(patches + row, apart, right + panel * together * kPanel, count,
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

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_CPU_PATCHES_H_
