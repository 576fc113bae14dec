// The logistic function and the hyperbolic tangent of a register of numbers.
#pragma once
#include "vectors.hpp"

// exp(x) = scale (1 + rest): scale is a power of two, rest a short series.
inline void exponent(Vec<float> x, Vec<float>& scale, Vec<float>& rest) {
  x = x > 87.f ? Vec<float>{} + 87.f : x;
  x = x < -87.f ? Vec<float>{} - 87.f : x;
  Vec<float> shifted = x * 1.44269504f + 12582912.f, n = shifted - 12582912.f;
  Vec<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec<float> p = r * 1.3888889e-3f + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  rest = p * (r * r) + r;
  scale = (Vec<float>)(((Bits)shifted << 23) + 0x3f800000u);
}

inline void exponent(Vec<double> x, Vec<double>& scale, Vec<double>& rest) {
  scale = Vec<double>{} + 1.0;
  for (int l = 0; l < Lanes<double>::N; l++)
    rest[l] = std::expm1(x[l] > 700 ? 700 : x[l]);
}

template <class V>
V sigmoid(V x) {
  V scale, rest;
  exponent(-x, scale, rest);
  return 1 / (1 + scale + scale * rest);
}

template <class V>
V hyperbolic(V x) {
  V scale, rest;
  exponent(x + x, scale, rest);
  V e = scale * rest + (scale - 1);  // exp(2x) - 1, exact to the last bits near 0
  return e / (e + 2);
}
