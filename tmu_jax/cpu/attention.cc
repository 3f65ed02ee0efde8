// Self-attention of short sequences on a CPU, in which no token attends to itself: softmax(scale q.k) v of each head,
// and its gradient. Everything of one head of one image stays in one core's first caches.
//
// Queries, keys and values lie side by side, float32[n, tokens, 3, heads, width], `width` a multiple of kLanes.
//
// References:
//   Lee et al., "Vision Transformer for Small-Size Datasets", arXiv:2112.13492 (2021), section 3.2.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "products.h"

namespace tmu_jax {
namespace {

typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));

// e^x of numbers <= 0, to 2e-7 relative; 0 below -87. By 2^n e^r, |r| <= log(2) / 2, and the series of e^r.
inline Vector Exp(Vector x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction.
  const Vector shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector sum = r * 1.3888889e-3f + 8.3333333e-3f;
  sum = sum * r + 4.1666667e-2f;
  sum = sum * r + 1.6666667e-1f;
  sum = sum * r + 0.5f;
  sum = sum * (r * r) + (r + 1.0f);
  Integers bits, power;
  std::memcpy(&bits, &shifted, sizeof bits);
  power = ((bits - 0x4B400000) + 127) << 23;
  Vector scale;
  std::memcpy(&scale, &power, sizeof scale);
  return x < -87.0f ? Vector{} : sum * scale;
}

inline float Sum(Vector values) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(values);
#else
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += values[lane];
  return sum;
#endif
}

inline float Largest(Vector values) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(values);
#else
  float largest = values[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = std::max(largest, values[lane]);
  return largest;
#endif
}

// A matrix whose entries [row, step] lie row_apart and step_apart from each other.
struct Factor {
  const float* values;
  int64_t row_apart, step_apart;
};

template <int kHigh, int kWide>
inline void Block(const Factor& a, const float* b, int64_t b_apart, int64_t steps, float* out, int64_t out_apart) {
  Vector sums[kHigh][kWide];
  for (int i = 0; i < kHigh; ++i)
    for (int j = 0; j < kWide; ++j) sums[i][j] = Vector{};
  for (int64_t step = 0; step < steps; ++step) {
    Vector right[kWide];
    for (int j = 0; j < kWide; ++j) right[j] = Load(b + step * b_apart + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kHigh; ++i)
      for (int j = 0; j < kWide; ++j) sums[i][j] += a.values[i * a.row_apart + step * a.step_apart] * right[j];
  }
  for (int i = 0; i < kHigh; ++i)
    for (int j = 0; j < kWide; ++j) Store(out + i * out_apart + j * kLanes, sums[i][j]);
}

template <int kHigh>
inline void BlockOfRows(const Factor& a, const float* b, int64_t b_apart, int64_t steps, int64_t columns, float* out,
                        int64_t out_apart) {
  int64_t column = 0;
  for (; column + kPanel <= columns; column += kPanel)
    Block<kHigh, 2>(a, b + column, b_apart, steps, out + column, out_apart);
  if (column < columns) Block<kHigh, 1>(a, b + column, b_apart, steps, out + column, out_apart);
}

// out = a b, for small matrices in the first cache; `columns` is a multiple of kLanes.
void SmallProduct(const Factor& a, const float* b, int64_t b_apart, int64_t rows, int64_t steps, int64_t columns,
                  float* out, int64_t out_apart) {
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows)
    BlockOfRows<kRows>({a.values + row * a.row_apart, a.row_apart, a.step_apart}, b, b_apart, steps, columns,
                       out + row * out_apart, out_apart);
  for (; row < rows; ++row)
    BlockOfRows<1>({a.values + row * a.row_apart, a.row_apart, a.step_apart}, b, b_apart, steps, columns,
                   out + row * out_apart, out_apart);
}

struct Shape {
  int64_t images, tokens, heads, width;

  int64_t Padded() const { return RoundUp(tokens, kLanes); }
  int64_t TokensApart() const { return 3 * heads * width; }
  // Of queries (0), keys (1) or values (2) of a head.
  int64_t Offset(int64_t image, int64_t part, int64_t head) const {
    return image * tokens * TokensApart() + (part * heads + head) * width;
  }
};

// One head's part of an array, [token, width], times a factor.
void Take(const float* from, int64_t apart, const Shape& s, float factor, float* to) {
  for (int64_t token = 0; token < s.tokens; ++token)
    for (int64_t i = 0; i < s.width; i += kLanes)
      Store(to + token * s.width + i, Load(from + token * apart + i) * factor);
}

void Transpose(const float* from, const Shape& s, float* to) {  // [token, width] to [width, Padded()]
  for (int64_t i = 0; i < s.width; ++i) {
    for (int64_t token = 0; token < s.tokens; ++token) to[i * s.Padded() + token] = from[token * s.width + i];
    std::fill(to + i * s.Padded() + s.tokens, to + (i + 1) * s.Padded(), 0.0f);
  }
}

// Rows that are taken together: what is found of one takes longer to come than to compute.
constexpr int kTogether = 8;

// Turns scores [token, Padded()] into weights that sum to one in each row, in place; 0 for a token itself and past the
// last token.
void Softmax(const Shape& s, float* scores) {
  constexpr float kNone = -std::numeric_limits<float>::max(), kPadding = -std::numeric_limits<float>::infinity();
  const int64_t padded = s.Padded();
  for (int64_t first = 0; first < s.tokens; first += kTogether) {
    const int64_t count = std::min<int64_t>(kTogether, s.tokens - first);
    float found[kTogether];
    for (int64_t token = first; token < first + count; ++token) {
      float* row = scores + token * padded;
      row[token] = kNone;
      std::fill(row + s.tokens, row + padded, kPadding);
    }
    for (int64_t i = 0; i < count; ++i) {
      const float* row = scores + (first + i) * padded;
      Vector most = Load(row);
      for (int64_t j = kLanes; j < padded; j += kLanes) {
        const Vector values = Load(row + j);
        most = values > most ? values : most;
      }
      found[i] = Largest(most);
    }
    for (int64_t i = 0; i < count; ++i) {
      float* row = scores + (first + i) * padded;
      Vector sums{};
      for (int64_t j = 0; j < padded; j += kLanes) {
        const Vector weights = Exp(Load(row + j) - found[i]);
        Store(row + j, weights);
        sums += weights;
      }
      found[i] = Sum(sums);
    }
    for (int64_t i = 0; i < count; ++i) {
      float* row = scores + (first + i) * padded;
      const float factor = 1.0f / found[i];
      for (int64_t j = 0; j < padded; j += kLanes) Store(row + j, Load(row + j) * factor);
    }
  }
}

// A head's queries times the scale, keys and values, contiguous, and its weights.
struct Head {
  float *queries, *keys, *values;  // [token, width]
  float *turned, *weights;         // [width, Padded()]; [token, Padded()]

  static int64_t Size(const Shape& s) { return (3 * s.tokens + s.Padded()) * s.width + s.tokens * s.Padded(); }
  Head(const Shape& s, const float* inputs, const float* scale, int64_t image, int64_t head, float* scratch)
      : queries(scratch),
        keys(queries + s.tokens * s.width),
        values(keys + s.tokens * s.width),
        turned(values + s.tokens * s.width),
        weights(turned + s.Padded() * s.width) {
    Take(inputs + s.Offset(image, 0, head), s.TokensApart(), s, scale[head], queries);
    Take(inputs + s.Offset(image, 1, head), s.TokensApart(), s, 1.0f, keys);
    Take(inputs + s.Offset(image, 2, head), s.TokensApart(), s, 1.0f, values);
    Transpose(keys, s, turned);
    SmallProduct({queries, s.width, 1}, turned, s.Padded(), s.tokens, s.width, s.Padded(), weights, s.Padded());
    Softmax(s, weights);
  }
};

void Forward(ffi::ThreadPool& pool, const Shape& s, const float* inputs, const float* scale, float* out) {
  ParallelFor(pool, s.images * s.heads, [&](int64_t task) {
    const int64_t image = task / s.heads, head = task % s.heads;
    const Scratch scratch(Head::Size(s));
    const Head of(s, inputs, scale, image, head, scratch.data());
    SmallProduct({of.weights, s.Padded(), 1}, of.values, s.width, s.tokens, s.tokens, s.width,
                 out + (image * s.tokens * s.heads + head) * s.width, s.heads * s.width);
  });
}

// With weights P = softmax(S), S = scale Q K^T and mixed = P V: to V: P^T C; to P: C V^T; to S: P (to P - sum of P to
// P); to scale Q: (to S) K; to K: (to S)^T scale Q.
void Gradient(ffi::ThreadPool& pool, const Shape& s, const float* inputs, const float* scale, const float* cotangent,
              float* to_inputs, float* to_scale) {
  const int64_t padded = s.Padded(), apart = s.TokensApart();
  ParallelFor(pool, s.images * s.heads, [&](int64_t task) {
    const int64_t image = task / s.heads, head = task % s.heads;
    const Scratch scratch(Head::Size(s) + s.tokens * (s.width + padded));
    const Head of(s, inputs, scale, image, head, scratch.data());
    float *to_mixed = scratch.data() + Head::Size(s), *to_scores = to_mixed + s.tokens * s.width;
    Take(cotangent + (image * s.tokens * s.heads + head) * s.width, s.heads * s.width, s, 1.0f, to_mixed);

    SmallProduct({of.weights, 1, padded}, to_mixed, s.width, s.tokens, s.tokens, s.width,
                 to_inputs + s.Offset(image, 2, head), apart);
    Transpose(of.values, s, of.turned);
    SmallProduct({to_mixed, s.width, 1}, of.turned, padded, s.tokens, s.width, padded, to_scores, padded);
    for (int64_t first = 0; first < s.tokens; first += kTogether) {
      const int64_t count = std::min<int64_t>(kTogether, s.tokens - first);
      float means[kTogether];
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (first + i) * padded;
        Vector sums{};
        for (int64_t j = row; j < row + padded; j += kLanes) sums += Load(to_scores + j) * Load(of.weights + j);
        means[i] = Sum(sums);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (first + i) * padded;
        for (int64_t j = row; j < row + padded; j += kLanes)
          Store(to_scores + j, (Load(to_scores + j) - means[i]) * Load(of.weights + j));
      }
    }
    SmallProduct({to_scores, 1, padded}, of.queries, s.width, s.tokens, s.tokens, s.width,
                 to_inputs + s.Offset(image, 1, head), apart);
    SmallProduct({to_scores, padded, 1}, of.keys, s.width, s.tokens, s.tokens, s.width, to_mixed, s.width);
    Vector sums{};
    for (int64_t token = 0; token < s.tokens; ++token)
      for (int64_t i = 0; i < s.width; i += kLanes) {
        const Vector value = Load(to_mixed + token * s.width + i);
        sums += value * Load(inputs + s.Offset(image, 0, head) + token * apart + i);
        Store(to_inputs + s.Offset(image, 0, head) + token * apart + i, value * scale[head]);
      }
    to_scale[task] = Sum(sums);
  });
}

using Tokens = ffi::Buffer<ffi::F32, 5>;
using Mixed = ffi::Buffer<ffi::F32, 4>;
using Scale = ffi::Buffer<ffi::F32, 1>;
using Scales = ffi::Buffer<ffi::F32, 2>;

Shape ShapeOf(const Tokens& inputs) {
  const auto sizes = inputs.dimensions();
  return {sizes[0], sizes[1], sizes[3], sizes[4]};
}

}  // namespace

// (inputs [n, tokens, 3, heads, width], scale [heads]) -> mixed [n, tokens, heads, width].
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_attention,
    [](ffi::ThreadPool pool, Tokens inputs, Scale scale, ffi::Result<Mixed> out) {
      Forward(pool, ShapeOf(inputs), inputs.typed_data(), scale.typed_data(), out->typed_data());
      return ffi::Error::Success();
    },
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Tokens>().Arg<Scale>().Ret<Mixed>());

// (inputs, scale, cotangent of mixed) -> (to inputs, to scale [n, heads], still to be summed over the images).
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_attention_gradient,
    [](ffi::ThreadPool pool, Tokens inputs, Scale scale, Mixed cotangent, ffi::Result<Tokens> to_inputs,
       ffi::Result<Scales> to_scale) {
      Gradient(pool, ShapeOf(inputs), inputs.typed_data(), scale.typed_data(), cotangent.typed_data(),
               to_inputs->typed_data(), to_scale->typed_data());
      return ffi::Error::Success();
    },
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Tokens>().Arg<Scale>().Arg<Mixed>().Ret<Tokens>().Ret<Scales>());

extern "C" int64_t tmu_jax_scratch_bytes() { return Scratch::all_bytes(); }

}  // namespace tmu_jax
