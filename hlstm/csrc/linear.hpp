// A product of many rows with packed weights, and a bias.
#pragma once
#include "packing.hpp"
#include "product.hpp"
#include "sharing.hpp"

// out (M, N) = a (M, K) b (K, N) + bias
template <class S>
struct Linear {
  Size threads, M, N, K;
  const S* a;  // (M, K)
  Matrix<S> b;
  const Math<S>* bias;  // (N), or null
  Unit<S>* packed;      // room for K x N
  Math<S>* out;
};

template <class S, int R>
void linear_block(const Linear<S>& run, Size m, Size n, const Unit<S>* w) {
  constexpr int N = Lanes<Math<S>>::N;
  Vec<Math<S>> acc[R][4] = {};
  const Unit<S>* a[R];
  for (int r = 0; r < R; r++) {
    a[r] = reinterpret_cast<const Unit<S>*>(run.a + (m + r) * run.K);
    if (run.bias)
      for (int j = 0; j < 4; j++) acc[r][j] = load(run.bias + (n * 4 + j) * N);
  }
  product<R, Unit<S>, Math<S>>(a, 1, w, run.K / PER<S>, acc);
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++)
      store(run.out + (m + r) * run.N + (n * 4 + j) * N, acc[r][j]);
}

// Threads take chunks of rows, whoever is free the next.
template <class S>
void linear(const Linear<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size tiles = run.N / (4 * N), size = run.K / PER<S> * 4 * N, chunk = 16 * ROWS;
#pragma omp parallel num_threads(int(run.threads))
  {
#pragma omp for
    for (Size n = 0; n < tiles; n++)
      pack<S>(run.b, n * 4 * N, N, run.N, run.K, run.packed + n * size);
#pragma omp for schedule(dynamic)
    for (Size m = 0; m < run.M; m += chunk) {
      Share rows{m, std::min(m + chunk, run.M)};
      each_block(rows, {0, tiles}, [&](auto count, Size b, Size n) {
        linear_block<S, count.N>(run, b, n, run.packed + n * size);
      });
    }
  }
}
