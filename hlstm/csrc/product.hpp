// The tile: a product of a few rows with four registers of columns.
#pragma once
#include "vectors.hpp"

inline void add_product(Vec<float>& to, float a, const float* b) { to += a * load(b); }
inline void add_product(Vec<double>& to, double a, const double* b) {
  to += a * load(b);
}
inline void add_product(Vec<float>& to, std::uint32_t a, const std::uint32_t* b) {
#ifdef __AVX512BF16__
  to = (Vec<float>)_mm512_dpbf16_ps((__m512)to, (__m512bh)_mm512_set1_epi32(a),
                                    (__m512bh)_mm512_loadu_si512(b));
#else
  Bits w = read<Bits>(b);
  std::uint32_t low = a << 16, high = a & 0xffff0000u;
  to += read<float>(&low) * (Vec<float>)(w << 16);
  to += read<float>(&high) * (Vec<float>)(w & 0xffff0000u);
#endif
}

// acc[r][j] += sum over k of a[r][k * step] b[k][j]: R rows by four registers.
template <int R, class U, class T>
inline __attribute__((always_inline)) void product(const U* const* a, Size step,
                                                   const U* b, Size K,
                                                   Vec<T> (&acc)[R][4]) {
  const U* row[R];
  for (int r = 0; r < R; r++) row[r] = a[r];
  for (Size k = 0; k < K; k++, b += 4 * Lanes<T>::N)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        add_product(acc[r][j], row[r][k * step], b + j * Lanes<T>::N);
}
