// One layer over time; equations (4.6) to (4.11) and (8.2).
#pragma once
#include "activations.hpp"
#include "packing.hpp"
#include "product.hpp"
#include "sharing.hpp"

template <class S>
struct Forward {
  Size threads, T, B, H;
  const Math<S>* a_in;  // (T, B, 4H), or the table (V, 4H) that ids point into
  const Size* ids;      // (T, B), or null
  const S* weight;      // (4H, H)
  Unit<S>* packed;      // room for 4H x H
  S* h;                 // (T + 1, B, H), the first filled in
  Math<S>* c;           // likewise, or (1, B, H) where nothing is kept
  S* gates;             // (T, B, 4H), or null where nothing is kept
};

// R rows of step t from row b on, and tile u: a register of units, with four gates
// each.
template <class S, int R>
void forward_block(const Forward<S>& run, Size t, Size b, Size u, const Unit<S>* w) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size H = run.H, first = t * run.B + b;
  Math<S>* c_prev = run.c + (run.gates ? first : b) * H + u * N;
  Math<S>* c_next = run.gates ? c_prev + run.B * H : c_prev;
  S* h_next = run.h + (first + run.B) * H + u * N;
  S* gates = run.gates ? run.gates + first * 4 * H + u * N : nullptr;
  const Math<S>* in[R];
  const Unit<S>* h_prev[R];
  Vec<Math<S>> a[R][4] = {};
  for (int r = 0; r < R; r++) {
    in[r] = run.a_in + (run.ids ? run.ids[first + r] : first + r) * 4 * H + u * N;
    h_prev[r] = reinterpret_cast<const Unit<S>*>(run.h + (first + r) * H);
    for (int j = 0; j < 4; j++) fetch(in[r] + j * H);
    if (gates)
      for (int j = 0; j < 4; j++) claim(gates + (r * 4 + j) * H);
    fetch(c_prev + r * H), claim(c_next + r * H), claim(h_next + r * H);
  }
  product<R, Unit<S>, Math<S>>(h_prev, 1, w, H / PER<S>, a);
  for (int r = 0; r < R; r++) {
    for (int j = 0; j < 4; j++) a[r][j] += load(in[r] + j * H);
    auto i = sigmoid(a[r][0]), f = sigmoid(a[r][1]);
    auto g = hyperbolic(a[r][2]), o = sigmoid(a[r][3]);
    auto c = f * load(c_prev + r * H) + i * g;
    store(c_next + r * H, c);
    store(h_next + r * H, o * hyperbolic(c));
    if (!gates) continue;
    S* kept = gates + r * 4 * H;  // for the way back
    store(kept, i), store(kept + H, f), store(kept + 2 * H, g), store(kept + 3 * H, o);
  }
}

template <class S>
void forward(const Forward<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size H = run.H, tiles = H / N, size = H / PER<S> * 4 * N;
#pragma omp parallel num_threads(int(run.threads))
  {
#pragma omp for
    for (Size u = 0; u < tiles; u++)
      pack<S>({run.weight, 1, H}, u * N, H, 4 * H, H, run.packed + u * size);
    Part mine = part(run.B, tiles, tiles * size * sizeof(Unit<S>));
    for (Size t = 0; t < run.T; t++) {
      each_block(mine.rows, mine.tiles, [&](auto count, Size b, Size u) {
        forward_block<S, count.N>(run, t, b, u, run.packed + u * size);
      });
      if (!mine.by_rows) {
#pragma omp barrier
      }
    }
  }
}
