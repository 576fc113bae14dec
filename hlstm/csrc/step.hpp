// One character through all layers and the head, with weights that are packed already.
#pragma once
#include "forward.hpp"
#include "linear.hpp"

template <class S>
struct Step {
  Size threads, layers, B, H, V;  // V in whole tiles
  const Size* ids;                // (B)
  const Math<S>* table;           // (symbols, 4H), the first layer's columns and bias
  const Math<S>* bias;            // (layers - 1, 4H)
  const Unit<S>* recurrent;       // (layers, H, 4H), packed by gates
  const Unit<S>* inward;          // (layers - 1, H, 4H), packed by columns
  const Unit<S>* head;            // (H, V), packed by columns
  const Math<S>* head_bias;       // (V)
  S* h;                           // (layers, 2, B, H): before and after the step
  Math<S>* c;                     // (layers, B, H)
  Math<S>* a_in;                  // room for (B, 4H)
  Math<S>* logits;                // (B, V)
};

// out (B, columns) = below (B, H) w + bias, shared by the threads that call it
template <class S>
void apply(const Step<S>& run, Size columns, const S* below, const Math<S>* bias,
           const Unit<S>* w, Math<S>* out) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size size = run.H / PER<S> * 4 * N;
  Linear<S> linear{1, run.B, columns, run.H, below, {}, bias, nullptr, out};
#pragma omp for
  for (Size n = 0; n < columns / (4 * N); n++)
    each_block({0, run.B}, {n, n + 1}, [&](auto count, Size b, Size n) {
      linear_block<S, count.N>(linear, b, n, w + n * size);
    });
}

template <class S>
void step(const Step<S>& run) {
  constexpr int N = Lanes<Math<S>>::N;
  const Size H = run.H, rows = run.B * H, all = 4 * H * H / PER<S>;
  const Size size = H / PER<S> * 4 * N;
#pragma omp parallel num_threads(int(run.threads))
  {
    for (Size k = 0; k < run.layers; k++) {
      S* h = run.h + 2 * k * rows;
      if (k > 0)
        apply(run, 4 * H, h - rows, run.bias + (k - 1) * 4 * H,
              run.inward + (k - 1) * all, run.a_in);
      const Math<S>* in = k ? run.a_in : run.table;
      const Size* ids = k ? nullptr : run.ids;
      Math<S>* c = run.c + k * rows;
      Forward<S> layer{1, 1, run.B, H, in, ids, nullptr, nullptr, h, c, nullptr};
#pragma omp for
      for (Size u = 0; u < H / N; u++)
        each_block({0, run.B}, {u, u + 1}, [&](auto count, Size b, Size u) {
          forward_block<S, count.N>(layer, 0, b, u, run.recurrent + k * all + u * size);
        });
    }
    apply(run, run.V, run.h + (2 * run.layers - 1) * rows, run.head_bias, run.head,
          run.logits);
  }
  for (Size k = 0; k < run.layers; k++)
    std::memcpy(run.h + 2 * k * rows, run.h + (2 * k + 1) * rows, rows * sizeof(S));
}
