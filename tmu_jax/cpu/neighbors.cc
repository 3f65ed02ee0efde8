// The rows of a bank that are nearest to each query by rounded squared distances, with their distances by differences:
// candidates for an exact search.
//
// Products of a few rows of the bank with a few queries are compared with what was found so far as soon as they are
// there, so that no matrix of distances is written to memory.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "products.h"

namespace tmu_jax {
namespace {

inline bool AnyBelow(Vector values, Vector bounds) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(values, bounds, _CMP_LT_OQ) != 0;
#else
  bool any = false;
  for (int lane = 0; lane < kLanes; ++lane) any |= values[lane] < bounds[lane];
  return any;
#endif
}

// The `count` least values so far, ascending; of equal ones the first that came.
inline void Insert(float value, int32_t index, int64_t count, float* least, int32_t* indices) {
  int64_t place = count - 1;
  for (; place > 0 && least[place - 1] > value; --place) {
    least[place] = least[place - 1];
    indices[place] = indices[place - 1];
  }
  least[place] = value;
  indices[place] = index;
}

// |one - other|^2, of differences.
inline float SquaredDistance(const float* one, const float* other, int64_t columns) {
  constexpr int kSums = 4;
  Vector sums[kSums]{};
  int64_t column = 0;
  for (; column + kSums * kLanes <= columns; column += kSums * kLanes)
    for (int i = 0; i < kSums; ++i) {
      const Vector difference = Load(one + column + i * kLanes) - Load(other + column + i * kLanes);
      sums[i] += difference * difference;
    }
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0.0f;
  for (; column < columns; ++column) sum += (one[column] - other[column]) * (one[column] - other[column]);
  for (int lane = 0; lane < kLanes; ++lane) sum += all[lane];
  return sum;
}

struct Rows {
  const float* values;    // [count, columns]
  const float* squares;   // [count], squared norms
  const int32_t* groups;  // [count]
  int64_t count;
};

void NearestRows(ffi::ThreadPool& pool, const Rows& queries, const Rows& bank, int64_t columns, int64_t count,
                 float* least, float* squares_of_differences) {
  constexpr int64_t kMostTogether = 4 * kPanel;  // Queries.
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t panels = CeilDiv(queries.count, kPanel);
  const Scratch packed(panels * columns * kPanel);  // [panel, column, query]; what fills up the last panel is not read.
  ParallelFor(pool, panels, [&](int64_t panel) {
    const int64_t first = panel * kPanel, here = std::min<int64_t>(kPanel, queries.count - first);
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t i = 0; i < here; ++i)
        packed.data()[first * columns + column * kPanel + i] = queries.values[(first + i) * columns + column];
  });
  const int64_t share = CeilDiv(queries.count, std::max<int64_t>(1, pool.num_threads()));
  const int64_t together = std::clamp<int64_t>(RoundUp(share, kPanel), kPanel, kMostTogether);
  std::fill(least, least + queries.count * count, kInfinity);
  std::vector<int32_t> indices(queries.count * count);
  ParallelFor(pool, CeilDiv(queries.count, together), [&](int64_t block) {
    const Scratch scratch(kRows * (columns + kPanel));
    float *tail = scratch.data(), *products = tail + kRows * columns;  // [kRows, columns]; [kRows, kPanel]
    const int64_t first = block * together, here = std::min(together, queries.count - first);
    float squares[kMostTogether]{}, bounds[kMostTogether];  // A query's bound is the last of its least values.
    std::copy(queries.squares + first, queries.squares + first + here, squares);
    std::fill(bounds, bounds + here, kInfinity);
    std::fill(bounds + here, bounds + kMostTogether, -kInfinity);
    for (int64_t row = 0; row < bank.count; row += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, bank.count - row);
      const float* values = bank.values + row * columns;
      if (rows < kRows) {
        std::copy(values, values + rows * columns, tail);
        values = tail;  // Its other rows are not read from the result.
      }
      for (int64_t panel = 0; panel < here; panel += kPanel) {
        Multiply<false, false>(values, columns, packed.data() + (first + panel) * columns, columns, products, kPanel);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
            const int64_t from = panel + lane;
            const Vector distances =
                (Load(squares + from) + bank.squares[row + i]) - 2.0f * Load(products + i * kPanel + lane);
            if (!AnyBelow(distances, Load(bounds + from))) continue;
            for (int one = 0; one < kLanes; ++one) {
              const int64_t query = first + from + one;
              if (!(distances[one] < bounds[from + one]) || bank.groups[row + i] != queries.groups[query]) continue;
              Insert(distances[one], row + i, count, least + query * count, indices.data() + query * count);
              bounds[from + one] = least[query * count + count - 1];
            }
          }
      }
    }
    for (int64_t query = first; query < first + here; ++query)
      for (int64_t i = query * count; i < (query + 1) * count; ++i)
        squares_of_differences[i] =
            SquaredDistance(queries.values + query * columns, bank.values + indices[i] * columns, columns);
  });
}

using Matrix = ffi::Buffer<ffi::F32, 2>;
using Squares = ffi::Buffer<ffi::F32, 1>;
using Groups = ffi::Buffer<ffi::S32, 1>;

}  // namespace

// (queries, query squares, query groups, bank, bank squares, bank groups) -> (least, squares of differences), [queries,
// count] each: squared distances |q|^2 + |b|^2 - 2 q.b in float32, ascending, and |q - b|^2 of the same rows; infinity
// and any number where there are no more.
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    tmu_jax_nearest_rows,
    [](ffi::ThreadPool pool, Matrix queries, Squares query_squares, Groups query_groups, Matrix bank,
       Squares bank_squares, Groups bank_groups, ffi::Result<Matrix> least,
       ffi::Result<Matrix> squares_of_differences) {
      const int64_t columns = bank.dimensions()[1];
      NearestRows(
          pool, {queries.typed_data(), query_squares.typed_data(), query_groups.typed_data(), queries.dimensions()[0]},
          {bank.typed_data(), bank_squares.typed_data(), bank_groups.typed_data(), bank.dimensions()[0]}, columns,
          least->dimensions()[1], least->typed_data(), squares_of_differences->typed_data());
      return ffi::Error::Success();
    },
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Matrix>()
        .Arg<Squares>()
        .Arg<Groups>()
        .Arg<Matrix>()
        .Arg<Squares>()
        .Arg<Groups>()
        .Ret<Matrix>()
        .Ret<Matrix>());

extern "C" int64_t tmu_jax_scratch_bytes() { return Scratch::all_bytes(); }

}  // namespace tmu_jax
