// Vectors, threads and memory of the functions that XLA calls on a CPU.

#ifndef TMU_JAX_CPU_COMMON_H_
#define TMU_JAX_CPU_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace tmu_jax {
namespace {

namespace ffi = xla::ffi;

// For loops over tiles that two callers share, which were slower as calls.
#define TMU_JAX_INLINE inline __attribute__((always_inline))

// --- Vectors. A product computes kRows rows of a panel of two vectors' columns at a time, all in registers.

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 4;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 8;
#else
constexpr int kLanes = 4, kRows = 4;
#endif
constexpr int kPanel = 2 * kLanes;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Short __attribute__((vector_size(16)));

// By memcpy, for `from` and `to` need not be aligned.
template <typename Type = Vector>
inline Type Load(const float* from) {
  Type value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename Type>
inline void Store(float* to, Type value) {
  std::memcpy(to, &value, sizeof value);
}

// A store to aligned memory, past the caches: for what is larger than they are. Call Fence() after the last one.
inline void StoreAround(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX__)
  _mm256_stream_ps(to, value);
#else
  Store(to, value);
#endif
}
inline void Fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// Copies by vectors, the last one overlapping the one before it: most runs are too short for memcpy to pay.
inline void Copy(float* to, const float* from, int64_t count) {
  if (count >= kLanes) {
    for (int64_t i = 0; i + kLanes <= count; i += kLanes) Store(to + i, Load(from + i));
    Store(to + count - kLanes, Load(from + count - kLanes));
  } else if (count >= 4) {
    for (int64_t i = 0; i + 4 <= count; i += 4) Store(to + i, Load<Short>(from + i));
    Store(to + count - 4, Load<Short>(from + count - 4));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

inline int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
inline int64_t RoundUp(int64_t value, int64_t divisor) { return CeilDiv(value, divisor) * divisor; }

// --- Threads and memory.

// Calls task(0), ..., task(count - 1) on XLA's threads. The caller works too, and waits only for tasks that another
// thread has begun, so that callers cannot wait for each other. What a task throws, the caller throws in the end:
// thrown on a thread of XLA's it would end the process.
template <typename Task>
void ParallelFor(ffi::ThreadPool& pool, int64_t count, const Task& task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::exception_ptr error;
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, count, &task] {
    for (int64_t i = progress->next.fetch_add(1); i < count; i = progress->next.fetch_add(1)) {
      try {
        task(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->error = std::current_exception();
      }
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  try {
    for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::decay_t<decltype(work)>(work));
  } catch (const std::bad_alloc&) {  // The threads that have begun, and the caller, do it.
  }
  work();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  if (progress->error) std::rethrow_exception(progress->error);
}

// Memory that is kept for the next call, for as long as the process lives: the first touch of a fresh page costs more
// than what is computed there. Throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    constexpr int64_t kMost = int64_t{1} << 48;
    if (floats < 0 || floats > kMost) throw std::bad_alloc();
    const size_t bytes = RoundUp(std::max<int64_t>(floats, 1) * sizeof(float), 4096);
    std::lock_guard<std::mutex> lock(mutex());
    auto best = kept().end();
    for (auto it = kept().begin(); it != kept().end(); ++it)
      if (it->bytes >= bytes && (best == kept().end() || it->bytes < best->bytes)) best = it;
    if (best != kept().end() && best->bytes <= 4 * bytes) {
      block_ = *best;
      kept().erase(best);
      return;
    }
    kept().reserve(num_blocks() + 1);  // So that giving the block back cannot fail.
    block_ = {static_cast<float*>(std::aligned_alloc(4096, bytes)), bytes};
    if (block_.data == nullptr) throw std::bad_alloc();
    ++num_blocks();
    all_bytes() += bytes;
  }
  ~Scratch() {
    std::lock_guard<std::mutex> lock(mutex());
    kept().push_back(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return block_.data; }
  // Of all memory that was ever asked for: none is given back.
  static std::atomic<int64_t>& all_bytes() {
    static std::atomic<int64_t> bytes{0};
    return bytes;
  }

 private:
  struct Block {
    float* data;
    size_t bytes;
  };
  // Never destroyed: XLA's threads may outlive static objects.
  static std::mutex& mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static size_t& num_blocks() {
    static size_t count = 0;
    return count;
  }
  static std::vector<Block>& kept() {
    static auto* blocks = new std::vector<Block>;
    return *blocks;
  }
  Block block_;
};

}  // namespace
}  // namespace tmu_jax

#endif  // TMU_JAX_CPU_COMMON_H_
