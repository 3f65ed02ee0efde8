// Convolutions on a CPU: forward, input gradient and weight gradient, called by XLA through its foreign function
// interface (https://docs.jax.dev/en/latest/ffi.html). `build.py` compiles this file for the machine it runs on.
//
// 3x3 kernels of stride 1 and 2 mostly take Winograd's algorithm (winograd.h), all others, and few channels, products
// of patches (patches.h). A block of tiles or patches stays in one core's cache from its first transform to its last,
// which XLA's own operations cannot do.
//
// Nothing here may end the process: what does not fit together, and memory that cannot be had, is an error of XLA's.
//
// Images are [n, height, width, channels], kernels [window, window, channels, features], all float32 and row-major.

#include <cstdint>
#include <exception>
#include <new>

#include "patches.h"
#include "winograd.h"
#include "winograd_gradient.h"

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
    (TakesFewChannels(g) ? FewChannelsInputGradient : PatchesInputGradient)(pool, g, cotangent, kernel, out);
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

// Sizes below this can be multiplied with each other.
constexpr int64_t kTooLarge = int64_t{1} << 31;

// Whether windows of an axis begin before it and end behind it with less than a window of zeros: then `out` of them
// are as many as fit.
bool FitsAxis(const Geometry& g, int64_t size, int64_t out, int64_t before) {
  const int64_t behind = (out - 1) * g.stride + g.window - before - size;
  return before >= 0 && before < g.window && behind > -g.stride && behind < g.window;
}

const char* Mismatch(const Geometry& g, const ffi::Span<const int64_t>& kernel, const ffi::Span<const int64_t>& out) {
  for (const int64_t size : {g.images, g.height, g.width, g.channels, g.out_height, g.out_width, g.features, g.window})
    if (size < 1 || size >= kTooLarge) return "a size is 0 or too large";
  if (g.stride < 1 || g.stride >= kTooLarge) return "the stride is not positive or too large";
  if (kernel[1] != g.window) return "the kernel is not square";
  if (kernel[2] != g.channels) return "images and kernel differ in channels";
  if (kernel[3] != g.features) return "kernel and outputs differ in features";
  if (out[0] != g.images) return "images and outputs differ in number";
  if (!FitsAxis(g, g.height, g.out_height, g.top) || !FitsAxis(g, g.width, g.out_width, g.left))
    return "the outputs' height or width does not follow from the images', the window, the stride and the padding";
  return nullptr;
}

ffi::Error Call(Function function, ffi::ThreadPool& pool, const Array& images, const Array& kernel,
                const Array& outputs, const float* first, const float* second, float* result, int64_t stride,
                int64_t top, int64_t left) {
  const auto in = images.dimensions(), weights = kernel.dimensions(), out = outputs.dimensions();
  const Geometry g{in[0], in[1], in[2], in[3], out[1], out[2], out[3], weights[0], stride, top, left};
  try {
    if (const char* mismatch = Mismatch(g, weights, out)) return ffi::Error::InvalidArgument(mismatch);
    function(pool, g, first, second, result);
  } catch (const std::bad_alloc&) {
    return {ffi::ErrorCode::kResourceExhausted, "a convolution on the CPU is out of memory"};
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  } catch (...) {
    return ffi::Error::Internal("a convolution on the CPU failed");
  }
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
