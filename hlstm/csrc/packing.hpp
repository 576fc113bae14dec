// Weights in the order in which the tile reads them.
#pragma once
#include "vectors.hpp"

// Element (k, c) of a matrix lies at at[k * down + c * across].
template <class S>
struct Matrix {
  const S* at;
  Size down, across;
};

// Unit k of column c: one number, or a pair of two rows, with zero after the last row.
template <class S>
Unit<S> unit(Matrix<S> m, Size k, Size c, Size K) {
  const S* p = m.at + c * m.across;
  if constexpr (PER<S> == 1) {
    return p[k * m.down];
  } else {
    std::uint32_t first = p[2 * k * m.down].bits;
    return first | (2 * k + 1 < K ? p[(2 * k + 1) * m.down].bits << 16 : 0);
  }
}

// out[k][j][l] = element (k, first + j * jump + l), zero past the last column.
template <class S>
void pack(Matrix<S> m, Size first, Size jump, Size columns, Size K, Unit<S>* out) {
  constexpr int N = Lanes<Math<S>>::N;
  Size units = (K + PER<S> - 1) / PER<S>;
  if (m.across == 1 && K % PER<S> == 0 && first + 3 * jump + N <= columns) {
    Matrix<S> rows{m.at, m.down, 1};  // each row lies in one piece
    for (Size k = 0; k < units; k++)
      for (int j = 0; j < 4; j++)
        for (int l = 0; l < N; l++)
          out[(k * 4 + j) * N + l] = unit<S>(rows, k, first + j * jump + l, K);
    return;
  }
  for (Size k0 = 0; k0 < units; k0 += 16)
    for (int j = 0; j < 4; j++)
      for (int l = 0; l < N; l++) {
        Size c = first + j * jump + l;
        for (Size k = k0; k < std::min(k0 + 16, units); k++)
          out[(k * 4 + j) * N + l] = c < columns ? unit<S>(m, k, c, K) : Unit<S>(0);
      }
}

// All tiles of a weight, one after the other: columns side by side, or those of the
// four gates of the same units.
template <class S>
struct Packing {
  Size K, columns, by_gates;
  Matrix<S> from;
  Unit<S>* to;
};

template <class S>
void pack_all(const Packing<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size size = run.K / PER<S> * 4 * N, width = run.by_gates ? N : 4 * N;
  const Size jump = run.by_gates ? run.columns / 4 : N;
  for (Size n = 0; n < (run.columns + 4 * N - 1) / (4 * N); n++)
    pack<S>(run.from, n * width, jump, run.columns, run.K, run.to + n * size);
}
