// The draw of chapter 13, in double precision.
#pragma once
#include <numeric>
#include <vector>

#include "vectors.hpp"

// Fill p with the chances of V symbols, equations (13.3), (13.12) and (13.13), each
// rounded to the type of the logits z. k = 0, top_p = 1 and min_p = 0 keep all.
// False if the largest is not finite.
template <class M>
bool chances(const M* z, Size V, Size k, const double* how, double* p) {
  const double tau = how[0], top_p = how[1], min_p = how[2];
  const double most = *std::max_element(z, z + V);
  if (!std::isfinite(most)) return false;
  if (std::any_of(z, z + V, [](M x) { return x != x; })) return false;
  for (Size i = 0; i < V; i++)
    p[i] = tau > 0 ? std::exp((z[i] - most) / tau) : double(z[i] == most);
  if (k > 0 || top_p < 1) {
    std::vector<Size> order(V);  // the largest first; equal ones stay in order
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [z](Size a, Size b) { return z[a] > z[b]; });
    const Size kept = k > 0 ? std::min(k, V) : V;
    for (Size n = kept; n < V; n++) p[order[n]] = 0;
    const double total = std::accumulate(p, p + V, 0.0);
    double before = 0;
    for (Size n = 0; n < kept && top_p < 1; n++) {
      double& mine = p[order[n]];
      const double share = mine / total;
      if (n > 0 && before >= top_p) mine = 0;  // those before it have reached top_p
      before += share;
    }
  }
  const double lowest = tau * std::log(min_p);  // 0 · ln 0 is no number, and cuts none
  for (Size i = 0; i < V; i++)
    if (z[i] - most < lowest) p[i] = 0;
  const double total = std::accumulate(p, p + V, 0.0);
  for (Size i = 0; i < V; i++) p[i] = M(p[i] / total);
  return true;
}

// The symbol that a dart u from [0, 1) hits; equation (13.9).
inline Size hit(const double* p, Size V, double u) {
  const double aim = u * std::accumulate(p, p + V, 0.0);
  double sum = 0;
  for (Size i = 0; i < V; i++)
    if ((sum += p[i]) > aim) return i;
  return V - 1;
}

// The same, one call for many rows of logits.
template <class M>
struct Chances {
  Size B, V, k;
  const double* how;  // temperature, top_p, min_p
  const M* z;         // (B, V)
  double* p;          // (B, V), NaN where the largest logit is not finite
};

template <class M>
void chances(const Chances<M>& run) {
  for (Size b = 0; b < run.B; b++) {
    double* p = run.p + b * run.V;
    const M* z = run.z + b * run.V;
    if (!chances(z, run.V, run.k, run.how, p)) std::fill(p, p + run.V, std::nan(""));
  }
}
