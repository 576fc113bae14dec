// A network that writes: read, draw, and read what was drawn.
#pragma once
#include "sampling.hpp"
#include "step.hpp"

template <class S>
struct Write {
  Step<S> net;
  Size n, symbols, k;
  const double* how;  // temperature, top_p, min_p
  const double* u;    // (n, B), where the darts fall
  Size* ids;          // (n + 1, B), the first filled in, the others -1
};

// It ends after a step with a stream whose logits are not finite.
template <class S>
void write(const Write<S>& run) {
  Step<S> net = run.net;
  std::vector<double> p(run.symbols);
  bool finite = true;
  for (Size t = 0; t < run.n && finite; t++) {
    net.ids = run.ids + t * net.B;
    step(net);
    for (Size b = 0; b < net.B; b++) {
      const Math<S>* z = net.logits + b * net.V;
      if (chances(z, run.symbols, run.k, run.how, p.data()))
        run.ids[(t + 1) * net.B + b] = hit(p.data(), run.symbols, run.u[t * net.B + b]);
      else
        finite = false;
    }
  }
}
