// Convolutions on a CPU: forward, input gradient and weight gradient, called by XLA through its foreign function
// interface (https://docs.jax.dev/en/latest/ffi.html). `__init__.py` compiles this file for the machine it runs on.
//
// 3x3 kernels of stride 1 and 2 mostly take Winograd's algorithm (winograd.h), all others, and few channels, products
// of patches (patches.h). A block of tiles or patches stays in one core's cache from its first transform to its last,
// which XLA's own operations cannot do.
//
// Images are [n, height, width, channels], kernels [window, window, channels, features], all float32 and row-major.

#include <cstdint>

#include "patches.h"
#include "winograd.h"

namespace tmu_jax {
namespace {

void Forward(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* kernel, float* out) {
  if (!TakesWinograd(g)) {
    PatchesForward(pool, g, images, kernel, out);
  } else {
    (g.stride == 1 ? WinogradForward<Stride1> : WinogradForward<Stride2>)(pool, g, images, kernel, false, out);
  }
}

void InputGradient(ffi::ThreadPool& pool, const Geometry& g, const float* cotangent, const float* kernel, float* out) {
  if (!TakesWinograd(g)) {
    (g.channels <= 4 ? FewChannelsInputGradient : PatchesInputGradient)(pool, g, cotangent, kernel, out);
  } else if (g.stride == 1) {
    WinogradForward<Stride1>(pool, g.Backwards(2 - g.top, 2 - g.left), cotangent, kernel, true, out);
  } else {
    const auto gradient = g.top % 2 ? WinogradForward<Stride2Gradient<true>> : WinogradForward<Stride2Gradient<false>>;
    gradient(pool, g.Backwards(1 - (g.top + 1) / 2, 1 - (g.left + 1) / 2), cotangent, kernel, true, out);
  }
}

void WeightGradient(ffi::ThreadPool& pool, const Geometry& g, const float* images, const float* cotangent, float* out) {
  if (!TakesWinograd(g)) {
    PatchesWeightGradient(pool, g, images, cotangent, out);
  } else {
    const auto gradient = g.stride == 1 ? WinogradWeightGradient<Stride1, 2> : WinogradWeightGradient<Stride2, 1>;
    gradient(pool, g, images, cotangent, out);
  }
}

using Array = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;
using Function = void (*)(ffi::ThreadPool&, const Geometry&, const float*, const float*, float*);

ffi::Error Call(Function function, ffi::ThreadPool& pool, const Array& images, const Array& kernel,
                const Array& outputs, const float* first, const float* second, float* result, int64_t stride,
                int64_t top, int64_t left) {
  const auto in = images.dimensions(), weights = kernel.dimensions(), out = outputs.dimensions();
  const Geometry g{in[0], in[1], in[2], in[3], out[1], out[2], out[3], weights[0], stride, top, left};
  function(pool, g, first, second, result);
  return ffi::Error::Success();
}

}  // namespace

#define TMU_JAX_BINDING        \
  ffi::Ffi::Bind()             \
      .Ctx<ffi::ThreadPool>()  \
      .Arg<Array>()            \
      .Arg<Array>()            \
      .Ret<Array>()            \
      .Attr<int64_t>("stride") \
      .Attr<int64_t>("top")    \
      .Attr<int64_t>("left")

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_forward,
    [](ffi::ThreadPool pool, Array images, Array kernel, Result out, int64_t stride, int64_t top, int64_t left) {
      return Call(Forward, pool, images, kernel, *out, images.typed_data(), kernel.typed_data(), out->typed_data(),
                  stride, top, left);
    },
    TMU_JAX_BINDING);

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_input_gradient,
    [](ffi::ThreadPool pool, Array cotangent, Array kernel, Result images, int64_t stride, int64_t top, int64_t left) {
      return Call(InputGradient, pool, *images, kernel, cotangent, cotangent.typed_data(), kernel.typed_data(),
                  images->typed_data(), stride, top, left);
    },
    TMU_JAX_BINDING);

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_weight_gradient,
    [](ffi::ThreadPool pool, Array images, Array cotangent, Result kernel, int64_t stride, int64_t top, int64_t left) {
      return Call(WeightGradient, pool, images, *kernel, cotangent, images.typed_data(), cotangent.typed_data(),
                  kernel->typed_data(), stride, top, left);
    },
    TMU_JAX_BINDING);

extern "C" int64_t tmu_jax_scratch_bytes() { return Scratch::all_bytes(); }

}  // namespace tmu_jax
