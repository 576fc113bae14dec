// Sums over rows: the gradient of a weight matrix, and of a table.
#pragma once
#include "packing.hpp"
#include "product.hpp"
#include "sharing.hpp"

// out (M, N) = sum over k of a[k][m] b[k][n], in slices of DEPTH units.
constexpr Size DEPTH = 256;
template <class S>
struct Outer {
  Size threads, M, N, K;
  const S *a, *b;               // (K, M) and (K, N)
  Unit<S>*packed_a, *packed_b;  // room for M x DEPTH and N x DEPTH
  Math<S>* out;
};

template <class S, int R>
void outer_block(const Outer<S>& run, Size m, Size n, Size units, bool first,
                 const Unit<S>* packed_b) {
  constexpr int N = Lanes<Math<S>>::N;
  Vec<Math<S>> acc[R][4] = {};
  const Unit<S>* a[R];
  Math<S>* out = run.out + m * run.N + n * 4 * N;
  for (int r = 0; r < R; r++) {
    a[r] = run.packed_a + m * DEPTH + r;
    if (!first)
      for (int j = 0; j < 4; j++) acc[r][j] = load(out + r * run.N + j * N);
  }
  product<R, Unit<S>, Math<S>>(a, R, packed_b, units, acc);
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) store(out + r * run.N + j * N, acc[r][j]);
}

// The sum runs over rows, far apart in memory, so both sides are packed.
template <class S>
void outer(const Outer<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size tiles = run.N / (4 * N);
#pragma omp parallel num_threads(int(run.threads))
  {
    Share mine = share(run.M, omp_get_num_threads(), omp_get_thread_num());
    for (Size k0 = 0; k0 < run.K; k0 += DEPTH * PER<S>) {
      Size K = std::min(DEPTH * PER<S>, run.K - k0), units = (K + PER<S> - 1) / PER<S>;
      Size size = units * 4 * N;
      Matrix<S> a{run.a + k0 * run.M, run.M, 1}, b{run.b + k0 * run.N, run.N, 1};
#pragma omp for
      for (Size n = 0; n < tiles; n++)
        pack<S>(b, n * 4 * N, N, run.N, K, run.packed_b + n * size);
      in_blocks(mine.first, mine.last, [&](Size m, Size end) {
        with_rows<ROWS>(end - m, [&](auto count) {
          Unit<S>* to = run.packed_a + m * DEPTH;
          for (Size k = 0; k < units; k++)
            for (int r = 0; r < count.N; r++) *to++ = unit<S>(a, k, m + r, K);
        });
      });
      each_block(mine, {0, tiles}, [&](auto count, Size m, Size n) {
        outer_block<S, count.N>(run, m, n, units, k0 == 0, run.packed_b + n * size);
      });
#pragma omp barrier
    }
  }
}

// table[ids[k]] += a[k], for each k in turn
template <class S>
struct Scatter {
  Size threads, K, N;
  const Size* ids;  // (K), or null for all 0
  const S* a;       // (K, N)
  Math<S>* table;   // (V, N)
};

template <class S>
void scatter(const Scatter<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
#pragma omp parallel num_threads(int(run.threads))
  {
    Share mine = share(run.N / N, omp_get_num_threads(), omp_get_thread_num());
    for (Size k = 0; k < run.K; k++)
      for (Size n = mine.first * N; n < mine.last * N; n += N) {
        Math<S>* to = run.table + (run.ids ? run.ids[k] : 0) * run.N + n;
        store(to, load(to) + load(run.a + k * run.N + n));
      }
  }
}
