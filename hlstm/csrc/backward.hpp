// The way back through one layer; equations (6.4) to (6.8) and (6.11).
#pragma once
#include "activations.hpp"
#include "packing.hpp"
#include "product.hpp"
#include "sharing.hpp"

template <class S>
struct Backward {
  Size threads, T, B, H;
  const S* d_h;      // (T, B, H), the gradient by each hidden state
  const S* weight;   // (4H, H)
  Unit<S>* packed;   // room for 4H x H
  const Math<S>* c;  // (T + 1, B, H)
  const S* gates;    // (T, B, 4H)
  Math<S>* d_h0;     // (B, H): in, by the last h; out, by the first
  Math<S>* d_c0;     // (B, H): likewise by c
  S* d_a;            // (T, B, 4H), by the pre-activations
};

// R rows of step t from row b on, and tile n: four registers of units. The step t = -1
// leaves the gradient of the state before the first.
template <class S, int R>
void backward_block(const Backward<S>& run, Size t, Size b, Size n, const Unit<S>* w) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size B = run.B, H = run.H, column = n * 4 * N, first = t * B + b;
  const Unit<S>* d_a[R];  // of the step after this one
  Vec<Math<S>> acc[R][4] = {};
  for (int r = 0; r < R; r++) {
    const Size row = first + r, later = row + B;
    d_a[r] = reinterpret_cast<const Unit<S>*>(run.d_a + later * 4 * H);
    for (int j = 0; j < 4; j++) {
      const Size at = column + j * N, state = (b + r) * H + at;
      if (t == run.T - 1) acc[r][j] = load(run.d_h0 + state);
      if (t < 0) continue;
      fetch(run.d_h + row * H + at), fetch(run.d_c0 + state);
      fetch(run.c + row * H + at), fetch(run.c + later * H + at);
      for (Size gate = at; gate < 4 * H; gate += H) {
        fetch(run.gates + row * 4 * H + gate);
        claim(run.d_a + row * 4 * H + gate);
      }
    }
  }
  if (t < run.T - 1) product<R, Unit<S>, Math<S>>(d_a, 1, w, 4 * H / PER<S>, acc);
  for (int r = 0; r < R; r++)
    for (int j = 0; j < 4; j++) {
      const Size row = first + r, at = column + j * N, state = (b + r) * H + at;
      if (t < 0) {
        store(run.d_h0 + state, acc[r][j]);
        continue;
      }
      const S* gate = run.gates + row * 4 * H + at;
      S* out = run.d_a + row * 4 * H + at;
      auto i = load(gate), f = load(gate + H), g = load(gate + 2 * H);
      auto o = load(gate + 3 * H),
           tanh_c = hyperbolic(load(run.c + (row + B) * H + at));
      auto d_h = acc[r][j] + load(run.d_h + row * H + at);
      auto d_c = load(run.d_c0 + state) + d_h * o * (1 - tanh_c * tanh_c);
      store(out, d_c * g * i * (1 - i));
      store(out + H, d_c * load(run.c + row * H + at) * f * (1 - f));
      store(out + 2 * H, d_c * i * (1 - g * g));
      store(out + 3 * H, d_h * tanh_c * o * (1 - o));
      store(run.d_c0 + state, d_c * f);
    }
}

template <class S>
void backward(const Backward<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size H = run.H, tiles = H / (4 * N), size = 4 * H / PER<S> * 4 * N;
#pragma omp parallel num_threads(int(run.threads))
  {
#pragma omp for
    for (Size n = 0; n < tiles; n++)
      pack<S>({run.weight, H, 1}, n * 4 * N, N, H, 4 * H, run.packed + n * size);
    Part mine = part(run.B, tiles, tiles * size * sizeof(Unit<S>));
    for (Size t = run.T - 1; t >= -1; t--) {
      each_block(mine.rows, mine.tiles, [&](auto count, Size b, Size n) {
        backward_block<S, count.N>(run, t, b, n, run.packed + n * size);
      });
      if (!mine.by_rows) {
#pragma omp barrier
      }
    }
  }
}
