// Calls what the headers export, in rooms of exactly the size that each record asks
// for, so that the compiler's sanitizers see a step beyond them.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "engine.hpp"

namespace {

std::mt19937 source(0);

template <class T>
T number(double x) {
  if constexpr (std::is_same_v<T, Half>) {
    float f = float(x);
    std::uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return Half{std::uint16_t(bits >> 16)};
  } else {
    return T(x);
  }
}

template <class T>
double value(T x) {
  if constexpr (std::is_same_v<T, Half>) {
    std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  } else {
    return double(x);
  }
}

template <class T>
std::vector<T> draw(Size n) {
  std::uniform_real_distribution<double> uniform(-0.5, 0.5);
  std::vector<T> v(n);
  for (T& x : v) x = number<T>(uniform(source));
  return v;
}

std::vector<Size> symbols(Size n, Size below) {
  std::vector<Size> v(n);
  for (Size& x : v) x = Size(source() % std::uint32_t(below));
  return v;
}

template <class T>
void finite(const std::vector<T>& v, const char* name) {
  for (T x : v)
    if (!std::isfinite(value(x))) {
      std::printf("%s is not finite\n", name);
      std::exit(1);
    }
}

// One layer there and back, given vectors or ids, and the sums over its rows.
template <class S>
void layer(Size threads, Size T, Size B, Size H, bool one_hot) {
  using M = Math<S>;
  const Size V = 7;
  auto a_in = draw<M>((one_hot ? V : T * B) * 4 * H);
  auto ids = symbols(T * B, V);
  auto weight = draw<S>(4 * H * H), h = draw<S>((T + 1) * B * H);
  auto c = draw<M>((T + 1) * B * H);
  std::vector<S> gates(T * B * 4 * H), d_a(T * B * 4 * H);
  std::vector<Unit<S>> packed(4 * H * H / PER<S>);
  const Size* which = one_hot ? ids.data() : nullptr;
  forward(Forward<S>{threads, T, B, H, a_in.data(), which, weight.data(), packed.data(),
                     h.data(), c.data(), gates.data()});
  finite(h, "h");
  auto d_h = draw<S>(T * B * H);
  auto d_h0 = draw<M>(B * H), d_c0 = draw<M>(B * H);
  backward(Backward<S>{threads, T, B, H, d_h.data(), weight.data(), packed.data(),
                       c.data(), gates.data(), d_h0.data(), d_c0.data(), d_a.data()});
  finite(d_a, "d_a");
  finite(d_h0, "d_h0");
  const Size K = T * B;
  std::vector<Unit<S>> packed_a(4 * H * DEPTH), packed_b(H * DEPTH);
  std::vector<M> d_w(4 * H * H), d_table(V * 4 * H);
  outer(Outer<S>{threads, 4 * H, H, K, d_a.data(), h.data(), packed_a.data(),
                 packed_b.data(), d_w.data()});
  finite(d_w, "d_w");
  scatter(Scatter<S>{threads, K, 4 * H, which, d_a.data(), d_table.data()});
  finite(d_table, "d_table");
  // Nothing kept: one row of memory, no gates.
  std::vector<M> last(c.begin(), c.begin() + B * H);
  forward(Forward<S>{threads, T, B, H, a_in.data(), which, weight.data(), packed.data(),
                     h.data(), last.data(), nullptr});
  finite(last, "c");
}

template <class S>
void product_of_rows(Size threads, Size M, Size N, Size K, bool bias) {
  auto a = draw<S>(M * K), b = draw<S>(K * N);
  auto added = draw<Math<S>>(N);
  std::vector<Unit<S>> packed(N * K / PER<S>);
  std::vector<Math<S>> out(M * N);
  linear(Linear<S>{threads,
                   M,
                   N,
                   K,
                   a.data(),
                   {b.data(), N, 1},
                   bias ? added.data() : nullptr,
                   packed.data(),
                   out.data()});
  finite(out, "a b");
  linear(Linear<S>{threads,
                   M,
                   N,
                   K,
                   a.data(),
                   {b.data(), 1, K},
                   bias ? added.data() : nullptr,
                   packed.data(),
                   out.data()});
  finite(out, "a b'");
}

// Two layers and a head write, with each way of cutting the chances.
template <class S>
void text(Size threads, Size B, Size H, Size count, double temperature, Size k,
          double top_p, double min_p) {
  using M = Math<S>;
  const Size n = 3, L = 2, tile = 4 * Lanes<M>::N, V = (count + tile - 1) / tile * tile;
  auto table = draw<M>(count * 4 * H), bias = draw<M>((L - 1) * 4 * H);
  auto recurrent = draw<S>(L * 4 * H * H), inward = draw<S>((L - 1) * 4 * H * H);
  auto head = draw<S>(count * H);
  auto head_bias = draw<M>(V), c = draw<M>(L * B * H);
  auto h = draw<S>(L * 2 * B * H);
  const Size all = 4 * H * H / PER<S>;
  std::vector<Unit<S>> packed(L * all), columns((L - 1) * all), top(H * V / PER<S>);
  for (Size l = 0; l < L; l++)
    pack_all(Packing<S>{H,
                        4 * H,
                        1,
                        {recurrent.data() + l * 4 * H * H, 1, H},
                        packed.data() + l * all});
  pack_all(Packing<S>{H, 4 * H, 0, {inward.data(), 1, H}, columns.data()});
  pack_all(Packing<S>{H, count, 0, {head.data(), 1, H}, top.data()});
  std::vector<M> a_in(B * 4 * H), logits(B * V);
  std::vector<Size> ids((n + 1) * B, -1);
  for (Size b = 0; b < B; b++) ids[b] = b % count;
  const double how[] = {temperature, top_p, min_p};
  std::vector<double> u(n * B);
  for (double& x : u) x = (source() % 1000) / 1000.0;
  Step<S> net{threads,
              L,
              B,
              H,
              V,
              nullptr,
              table.data(),
              bias.data(),
              packed.data(),
              columns.data(),
              top.data(),
              head_bias.data(),
              h.data(),
              c.data(),
              a_in.data(),
              logits.data()};
  write(Write<S>{net, n, count, k, how, u.data(), ids.data()});
  for (Size id : ids)
    if (id < 0 || id >= count) {
      std::printf("a symbol is %lld\n", static_cast<long long>(id));
      std::exit(1);
    }
  std::vector<double> p(B * count);
  std::vector<M> z(B * count);
  for (Size b = 0; b < B; b++)
    std::copy_n(logits.data() + b * V, count, z.data() + b * count);
  chances(Chances<M>{B, count, k, how, z.data(), p.data()});
  finite(p, "p");
}

template <class S>
void all() {
  const Size tile = 4 * Lanes<Math<S>>::N;
  for (Size threads : {1, 2})
    for (Size B : {1, ROWS + 1, 4 * ROWS + 1})
      for (Size H : {tile, 2 * tile}) {
        for (Size T : {1, 3}) layer<S>(threads, T, B, H, T == 1);
        text<S>(threads, B, H, tile + 3, 0, 0, 1, 0);
        text<S>(threads, B, H, 5, 0.8, 3, 0.9, 0.1);
        product_of_rows<S>(threads, B, H, 2 * B, B > 1);
      }
  // More rows than a slice of a sum over rows holds.
  layer<S>(2, 2 * DEPTH + 1, 2, tile, true);
}

}  // namespace

int main() {
  all<float>();
  all<double>();
  all<Half>();
  std::puts("nothing was read or written beyond its room");
}
