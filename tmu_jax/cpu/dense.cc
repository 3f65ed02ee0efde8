// Dense layers on a CPU: products of tall matrices with a kernel, and the gradients of both.
//
// Rows are [n, inputs], kernels [inputs, outputs], all float32 and row-major. A block of rows stays in one core's cache
// while the kernel's panels pass through the first one.

#include <algorithm>
#include <cstdint>

#include "products.h"

namespace tmu_jax {
namespace {

// out[n, columns] = rows[n, steps] times panels [panel, step, kPanel].
void MultiplyRows(ffi::ThreadPool& pool, const float* rows, int64_t n, int64_t steps, const float* panels,
                  int64_t columns, float* out) {
  constexpr int64_t kRowsTogether = 128;
  ParallelFor(pool, CeilDiv(n, kRowsTogether), [&](int64_t block) {
    const Scratch scratch(kRows * (steps + kPanel));
    float *tail = scratch.data(), *products = tail + kRows * steps;  // [kRows, steps]; [kRows, kPanel]
    const int64_t first = block * kRowsTogether, last = std::min(first + kRowsTogether, n);
    const int64_t whole = last - (last - first) % kRows;
    std::copy(rows + whole * steps, rows + last * steps, tail);  // Its other rows are not read from the result.
    for (int64_t column = 0; column < columns; column += kPanel) {
      const float* panel = panels + column * steps;
      const int64_t wide = std::min<int64_t>(kPanel, columns - column);
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t high = std::min<int64_t>(kRows, last - row);
        const float* from = high < kRows ? tail : rows + row * steps;
        float* to = out + row * columns + column;
        if (high == kRows && wide == kPanel) {
          Multiply<false, false>(from, steps, panel, steps, to, columns);
        } else {
          Multiply<false, false>(from, steps, panel, steps, products, kPanel);
          for (int64_t i = 0; i < high; ++i) Copy(to + i * columns, products + i * kPanel, wide);
        }
      }
    }
  });
}

void Forward(ffi::ThreadPool& pool, const float* rows, const float* kernel, int64_t n, int64_t inputs, int64_t outputs,
             float* out) {
  const Scratch panels(inputs * RoundUp(outputs, kPanel));
  PackPanels(pool, kernel, inputs, outputs, panels.data());
  MultiplyRows(pool, rows, n, inputs, panels.data(), outputs, out);
}

void InputGradient(ffi::ThreadPool& pool, const float* cotangent, const float* kernel, int64_t n, int64_t inputs,
                   int64_t outputs, float* out) {
  const Scratch panels(outputs * RoundUp(inputs, kPanel));
  ParallelFor(pool, CeilDiv(inputs, kPanel), [&](int64_t panel) {
    const int64_t first = panel * kPanel, here = std::min<int64_t>(kPanel, inputs - first);
    float* to = panels.data() + first * outputs;  // [output, kPanel]; what fills up the last panel is not read.
    for (int64_t block = 0; block < outputs; block += kLanes)
      for (int64_t i = 0; i < here; ++i)
        for (int64_t output = block; output < std::min(block + kLanes, outputs); ++output)
          to[output * kPanel + i] = kernel[(first + i) * outputs + output];
  });
  MultiplyRows(pool, cotangent, n, outputs, panels.data(), inputs, out);
}

// `inputs` is a multiple of kRows.
void WeightGradient(ffi::ThreadPool& pool, const float* rows, const float* cotangent, int64_t n, int64_t inputs,
                    int64_t outputs, float* out) {
  constexpr int64_t kRowsTogether = 128, kInputsTogether = 96;
  const int64_t parts = CeilDiv(inputs, kInputsTogether);
  ParallelFor(pool, CeilDiv(outputs, kPanel) * parts, [&](int64_t task) {
    const int64_t first = task % parts * kInputsTogether, here = std::min(kInputsTogether, inputs - first);
    const int64_t output = task / parts * kPanel, wide = std::min<int64_t>(kPanel, outputs - output);
    const Scratch scratch((kRowsTogether + here) * kPanel);
    float *panel = scratch.data(), *sums = panel + kRowsTogether * kPanel;  // [row, kPanel]; [input, kPanel]
    for (int64_t start = 0; start < n; start += kRowsTogether) {
      const int64_t count = std::min(kRowsTogether, n - start);
      for (int64_t row = 0; row < count; ++row)  // What fills up a row is not read from the result.
        Copy(panel + row * kPanel, cotangent + (start + row) * outputs + output, wide);
      for (int64_t i = 0; i < here; i += kRows)
        Multiply<true>(rows + start * inputs + first + i, inputs, panel, count, sums + i * kPanel, kPanel, start > 0);
    }
    for (int64_t i = 0; i < here; ++i) Copy(out + (first + i) * outputs + output, sums + i * kPanel, wide);
  });
}

using Matrix = ffi::Buffer<ffi::F32, 2>;
using Result = ffi::ResultBuffer<ffi::F32, 2>;

}  // namespace

#define TMU_JAX_BINDING ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Matrix>().Arg<Matrix>().Ret<Matrix>()

// (rows, kernel) -> rows [n, outputs].
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_dense,
    [](ffi::ThreadPool pool, Matrix rows, Matrix kernel, Result out) {
      Forward(pool, rows.typed_data(), kernel.typed_data(), rows.dimensions()[0], rows.dimensions()[1],
              kernel.dimensions()[1], out->typed_data());
      return ffi::Error::Success();
    },
    TMU_JAX_BINDING);

// (cotangent [n, outputs], kernel) -> to rows [n, inputs].
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_dense_input_gradient,
    [](ffi::ThreadPool pool, Matrix cotangent, Matrix kernel, Result out) {
      InputGradient(pool, cotangent.typed_data(), kernel.typed_data(), cotangent.dimensions()[0],
                    kernel.dimensions()[0], kernel.dimensions()[1], out->typed_data());
      return ffi::Error::Success();
    },
    TMU_JAX_BINDING);

// (rows, cotangent [n, outputs]) -> to kernel [inputs, outputs].
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_dense_weight_gradient,
    [](ffi::ThreadPool pool, Matrix rows, Matrix cotangent, Result out) {
      WeightGradient(pool, rows.typed_data(), cotangent.typed_data(), rows.dimensions()[0], rows.dimensions()[1],
                     cotangent.dimensions()[1], out->typed_data());
      return ffi::Error::Success();
    },
    TMU_JAX_BINDING);

extern "C" int64_t tmu_jax_scratch_bytes() { return Scratch::all_bytes(); }

}  // namespace tmu_jax
