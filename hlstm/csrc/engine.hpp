// The names by which Python calls: each takes one record, for one type of number.
#pragma once
#include "backward.hpp"
#include "forward.hpp"
#include "linear.hpp"
#include "outer.hpp"
#include "writing.hpp"

#define EXPORT(S, type)                                            \
  void forward_##type(const Forward<S>* run) { forward(*run); }    \
  void backward_##type(const Backward<S>* run) { backward(*run); } \
  void linear_##type(const Linear<S>* run) { linear(*run); }       \
  void outer_##type(const Outer<S>* run) { outer(*run); }          \
  void scatter_##type(const Scatter<S>* run) { scatter(*run); }    \
  void pack_##type(const Packing<S>* run) { pack_all(*run); }      \
  void write_##type(const Write<S>* run) { write(*run); }          \
  void chances_##type(const Chances<Math<S>>* run) { chances(*run); }

extern "C" {
EXPORT(float, float32)
EXPORT(double, float64)
EXPORT(Half, bfloat16)
}
