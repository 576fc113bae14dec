// Vector registers, and the three types of number that lie in memory.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
#endif

// The size of a register, and how many rows of a product stay in registers.
#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 6;  // 32 registers
#elif defined(__AVX2__)
constexpr int BYTES = 32, ROWS = 2;  // 16 registers
#elif defined(__ARM_NEON)
constexpr int BYTES = 16, ROWS = 6;  // 32 registers
#else
constexpr int BYTES = 16, ROWS = 2;  // 16 registers
#endif

using Size = std::int64_t;
struct Half {  // bfloat16: the upper half of a float
  std::uint16_t bits;
};

// S is stored. It is computed in Math<S>, and a product takes it Unit<S> by Unit<S>.
template <class S>
struct Stored {
  using Math = S;
  using Unit = S;
};
template <>
struct Stored<Half> {
  using Math = float;
  using Unit = std::uint32_t;  // a pair
};
template <class S>
using Math = typename Stored<S>::Math;
template <class S>
using Unit = typename Stored<S>::Unit;
template <class S>
constexpr int PER = sizeof(Unit<S>) / sizeof(S);

template <class T>
struct Lanes {
  static constexpr int N = BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(BYTES)));
};
template <class T>
using Vec = typename Lanes<T>::type;
typedef std::uint32_t Bits __attribute__((vector_size(BYTES)));
typedef std::uint16_t Halves __attribute__((vector_size(BYTES / 2)));

template <class V>
V read(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vec<float> load(const float* p) { return read<Vec<float>>(p); }
inline Vec<double> load(const double* p) { return read<Vec<double>>(p); }
inline Vec<float> load(const Half* p) {
  return (Vec<float>)(__builtin_convertvector(read<Halves>(p), Bits) << 16);
}

inline void store(float* p, Vec<float> v) { std::memcpy(p, &v, sizeof v); }
inline void store(double* p, Vec<double> v) { std::memcpy(p, &v, sizeof v); }
inline void store(Half* p, Vec<float> v) {
  Bits b = (Bits)v;
  // To the nearest, ties to even; a NaN stays one.
  b = v == v ? (b + 0x7fff + ((b >> 16) & 1)) >> 16 : (b >> 16) | 0x40;
  Halves h = __builtin_convertvector(b, Halves);
  std::memcpy(p, &h, sizeof h);
}
