// Who computes what: blocks of rows, and the parts of the threads.
#pragma once
#include "vectors.hpp"

// f(first row, row after the last) for blocks of up to ROWS rows, all about as large.
template <class F>
void in_blocks(Size first, Size last, F&& f) {
  Size n = last - first, blocks = (n + ROWS - 1) / ROWS;
  for (Size b = 0; b < blocks; b++)
    f(first + n * b / blocks, first + n * (b + 1) / blocks);
}

// f(Rows<n>{}): a number that is known when the program runs becomes one in a type.
template <int R>
struct Rows {
  static constexpr int N = R;
};
template <int R, class F>
void with_rows(Size n, F&& f) {
  if constexpr (R > 0) {
    if (n == R)
      f(Rows<R>{});
    else
      with_rows<R - 1>(n, f);
  }
}

struct Share {
  Size first, last;
};
inline Share share(Size n, int of, int part) {
  return {n * part / of, n * (part + 1) / of};
}

// A thread's part. Weights that fit in a core's own cache are read by all threads.
struct Part {
  bool by_rows;
  Share rows, tiles;
};
inline Part part(Size B, Size tiles, Size bytes) {
  int of = omp_get_num_threads(), me = omp_get_thread_num();
  bool by_rows = of > 1 && bytes <= (1 << 19) && B >= 2 * ROWS * of;
  if (by_rows) return {true, share(B, of, me), {0, tiles}};
  return {false, {0, B}, share(tiles, of, me)};
}

// f(Rows, first row, tile) for all blocks of some rows in some tiles.
template <class F>
void each_block(Share rows, Share tiles, F&& f) {
  for (Size n = tiles.first; n < tiles.last; n++)
    in_blocks(rows.first, rows.last, [&](Size b, Size end) {
      with_rows<ROWS>(end - b, [&](auto count) { f(count, b, n); });
    });
}

// What a block needs after its product is asked for before it.
inline void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
inline void claim(const void* p) { __builtin_prefetch(p, 1, 2); }
