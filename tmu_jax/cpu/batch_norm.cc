// Batch norm in training on a CPU, with what usually follows it: a shortcut added, and ReLU. Forward and gradient each
// read their arrays twice, once for the statistics and once for the result; XLA's own operations leave most of a core's
// bandwidth unused.
//
// Features are [rows, channels], float32 and row-major: all axes but the last are rows. Channels fill whole vectors.
//
// References:
//   Ioffe & Szegedy, "Batch Normalization", arXiv:1502.03167 (2015), algorithm 1 and section 3.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common.h"

namespace tmu_jax {
namespace {

struct Shape {
  int64_t rows, channels;
};

// Calls task(first row, last row, index) for runs of rows that a core's cache holds. What is summed over the runs does
// not depend on which thread takes which.
template <typename Task>
void ForRuns(ffi::ThreadPool& pool, const Shape& shape, int64_t rows_together, const Task& task) {
  ParallelFor(pool, CeilDiv(shape.rows, rows_together),
              [&](int64_t run) { task(run * rows_together, std::min((run + 1) * rows_together, shape.rows), run); });
}

int64_t RowsTogether(const Shape& shape) { return std::max<int64_t>(1, (1 << 14) / shape.channels); }

// Sums of two functions of the features over all rows. `terms(at, channel, first, second)` adds the terms of one row
// and a vector of channels; the sums of runs are added in float64.
template <typename Terms>
void SumRows(ffi::ThreadPool& pool, const Shape& shape, const Terms& terms, double* first_sums, double* second_sums) {
  constexpr int kTogether = 4;  // Vectors of channels in one pass over a run.
  const int64_t together = RowsTogether(shape), runs = CeilDiv(shape.rows, together), channels = shape.channels;
  const Scratch scratch(2 * runs * channels);
  ForRuns(pool, shape, together, [&](int64_t first_row, int64_t last_row, int64_t run) {
    float* partial = scratch.data() + 2 * run * channels;
    for (int64_t channel = 0; channel < channels; channel += kTogether * kLanes) {
      const int vectors = std::min<int64_t>(kTogether, (channels - channel) / kLanes);
      Vector first[kTogether]{}, second[kTogether]{};
      const auto add = [&](auto count) {
        for (int64_t row = first_row; row < last_row; ++row)
          for (int v = 0; v < count; ++v)
            terms(row * channels + channel + v * kLanes, channel + v * kLanes, first[v], second[v]);
      };
      if (vectors == kTogether) {
        add(std::integral_constant<int, kTogether>());
      } else {
        add(vectors);
      }
      for (int v = 0; v < vectors; ++v) {
        Store(partial + channel + v * kLanes, first[v]);
        Store(partial + channels + channel + v * kLanes, second[v]);
      }
    }
  });
  std::fill(first_sums, first_sums + channels, 0.0);
  std::fill(second_sums, second_sums + channels, 0.0);
  for (int64_t run = 0; run < runs; ++run) {
    const float* partial = scratch.data() + 2 * run * channels;
    for (int64_t channel = 0; channel < channels; ++channel) {
      first_sums[channel] += partial[channel];
      second_sums[channel] += partial[channels + channel];
    }
  }
}

// What one channel's numbers are normalised with.
struct Channels {
  const float *mean, *factor, *bias;  // factor: scale / sqrt(variance + epsilon)

  Vector Normalize(Vector value, int64_t channel) const {
    return (value - Load(mean + channel)) * Load(factor + channel) + Load(bias + channel);
  }
};

inline Vector Relu(Vector value) { return value <= 0.0f ? Vector{} : value; }  // A NaN stays one.

template <bool kRelu, bool kShortcut>
void Forward(ffi::ThreadPool& pool, const Shape& shape, const float* features, const float* shortcut,
             const float* scale, const float* bias, float epsilon, float* out, float* mean, float* variance) {
  std::vector<double> sums(2 * shape.channels);
  double *of_values = sums.data(), *of_squares = of_values + shape.channels;
  // Distances from about the mean: squares of the numbers themselves would cancel where their mean is far from zero.
  constexpr int64_t kSamples = 32;
  std::vector<float> about(shape.channels);
  for (int64_t sample = 0; sample < kSamples; ++sample)
    for (int64_t channel = 0; channel < shape.channels; ++channel)
      about[channel] += features[shape.rows * sample / kSamples * shape.channels + channel] / kSamples;
  SumRows(
      pool, shape,
      [&](int64_t at, int64_t channel, Vector& sum, Vector& squares) {
        const Vector value = Load(features + at) - Load(about.data() + channel);
        sum += value;
        squares += value * value;
      },
      of_values, of_squares);
  std::vector<float> factor(shape.channels);
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    const double average = of_values[channel] / shape.rows;
    mean[channel] = about[channel] + average;
    variance[channel] =
        std::max(of_squares[channel] / shape.rows - average * average, 0.0);  // In this order it keeps a NaN.
    factor[channel] = scale[channel] / std::sqrt(variance[channel] + epsilon);
  }
  const Channels channels{mean, factor.data(), bias};
  ForRuns(pool, shape, RowsTogether(shape), [&](int64_t first_row, int64_t last_row, int64_t) {
    for (int64_t row = first_row; row < last_row; ++row)
      for (int64_t channel = 0; channel < shape.channels; channel += kLanes) {
        const int64_t at = row * shape.channels + channel;
        Vector value = channels.Normalize(Load(features + at), channel);
        if (kShortcut) value += Load(shortcut + at);
        Store(out + at, kRelu ? Relu(value) : value);
      }
  });
}

// `out` is the forward pass's result, read only where a shortcut was added: it tells where ReLU let values pass.
template <bool kRelu, bool kShortcut>
void Gradient(ffi::ThreadPool& pool, const Shape& shape, const float* features, const float* out,
              const float* cotangent, const float* scale, const float* bias, const float* mean, const float* variance,
              float epsilon, float* to_features, float* to_scale, float* to_bias, float* to_shortcut) {
  if (!kShortcut) std::fill(to_shortcut, to_shortcut + shape.channels, 0.0f);
  std::vector<float> factor(shape.channels), offset(shape.channels), slope(shape.channels);
  for (int64_t channel = 0; channel < shape.channels; ++channel)
    factor[channel] = scale[channel] / std::sqrt(variance[channel] + epsilon);
  const Channels channels{mean, factor.data(), bias};
  const auto passed = [&](int64_t at, int64_t channel) {
    const Vector value = Load(cotangent + at);
    if (!kRelu) return value;
    const Vector result = kShortcut ? Load(out + at) : channels.Normalize(Load(features + at), channel);
    return result > 0.0f ? value : Vector{};
  };
  std::vector<double> sums(2 * shape.channels);
  double *of_values = sums.data(), *of_products = of_values + shape.channels;
  SumRows(
      pool, shape,
      [&](int64_t at, int64_t channel, Vector& sum, Vector& products) {
        const Vector value = passed(at, channel);
        sum += value;
        products += value * (Load(features + at) - Load(mean + channel));
      },
      of_values, of_products);
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    const double inverse = 1 / std::sqrt(double(variance[channel]) + epsilon);
    to_bias[channel] = of_values[channel];
    to_scale[channel] = of_products[channel] * inverse;
    offset[channel] = of_values[channel] / shape.rows;
    slope[channel] = of_products[channel] * inverse * inverse / shape.rows;
  }
  ForRuns(pool, shape, RowsTogether(shape), [&](int64_t first_row, int64_t last_row, int64_t) {
    for (int64_t row = first_row; row < last_row; ++row)
      for (int64_t channel = 0; channel < shape.channels; channel += kLanes) {
        const int64_t at = row * shape.channels + channel;
        const Vector value = passed(at, channel), centered = Load(features + at) - Load(mean + channel);
        if (kShortcut) Store(to_shortcut + at, value);
        Store(to_features + at, Load(factor.data() + channel) *
                                    (value - Load(offset.data() + channel) - centered * Load(slope.data() + channel)));
      }
  });
}

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

Shape ShapeOf(const Array& features) {
  const int64_t channels = features.dimensions().back();
  return {static_cast<int64_t>(features.element_count()) / channels, channels};
}

float* Data(Result& result) { return result->typed_data<float>(); }
const float* Data(Array& array) { return array.typed_data<float>(); }

}  // namespace

// (features, shortcut, scale, bias) -> (out, mean, variance). Without a shortcut, any array in its place.
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_batch_norm,
    [](ffi::ThreadPool pool, Array features, Array shortcut, Array scale, Array bias, Result out, Result mean,
       Result variance, bool relu, bool has_shortcut, float epsilon) {
      const auto function = relu ? (has_shortcut ? Forward<true, true> : Forward<true, false>)
                                 : (has_shortcut ? Forward<false, true> : Forward<false, false>);
      function(pool, ShapeOf(features), Data(features), Data(shortcut), Data(scale), Data(bias), epsilon, Data(out),
               Data(mean), Data(variance));
      return ffi::Error::Success();
    },
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Ret<Array>()
        .Ret<Array>()
        .Ret<Array>()
        .Attr<bool>("relu")
        .Attr<bool>("has_shortcut")
        .Attr<float>("epsilon"));

// (features, out, cotangent, scale, bias, mean, variance) -> (to features, to scale, to bias, to shortcut: zeros
// [channels] where there was none).
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_batch_norm_gradient,
    [](ffi::ThreadPool pool, Array features, Array out, Array cotangent, Array scale, Array bias, Array mean,
       Array variance, Result to_features, Result to_scale, Result to_bias, Result to_shortcut, bool relu,
       bool has_shortcut, float epsilon) {
      const auto function = relu ? (has_shortcut ? Gradient<true, true> : Gradient<true, false>)
                                 : (has_shortcut ? Gradient<false, true> : Gradient<false, false>);
      function(pool, ShapeOf(features), Data(features), Data(out), Data(cotangent), Data(scale), Data(bias), Data(mean),
               Data(variance), epsilon, Data(to_features), Data(to_scale), Data(to_bias), Data(to_shortcut));
      return ffi::Error::Success();
    },
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Arg<Array>()
        .Ret<Array>()
        .Ret<Array>()
        .Ret<Array>()
        .Ret<Array>()
        .Attr<bool>("relu")
        .Attr<bool>("has_shortcut")
        .Attr<float>("epsilon"));

extern "C" int64_t tmu_jax_scratch_bytes() { return Scratch::all_bytes(); }

}  // namespace tmu_jax
