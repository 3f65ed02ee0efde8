// Winograd's F(4x4, 3x3) for strides 1 and 2: products of transformed tiles, with fewer multiplications than the direct
// algorithm has: 36 for 144 with stride 1, 81 with stride 2.
//
// References:
//   Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (2015), section 4.

#ifndef TMU_JAX_CPU_SCHEMES_H_
#define TMU_JAX_CPU_SCHEMES_H_

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

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_CPU_SCHEMES_H_
