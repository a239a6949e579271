// Attention, norms, activations and cross-entropy for one CPU core with AVX-512.
//
// Compiled once per machine by native.py and called through ctypes: plain C functions on pointers,
// no Python and no torch inside. Every function works on a range of rows or heads, so that the
// caller may split a tensor over threads.
//
// Products work on 32-bit units: a pair of bfloat16 numbers or one float32. A tile of a product is
//   acc[rows][16 lanes] += (one unit of A, repeated in all lanes) . (16 units of B)
// so A is row-major in units along the summed index, and B has a row of lanes per unit.
//
// Letters: T positions (Tp rounded up to 32), Q head size (Qp rounded up to 16), U units of a head.

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#define RESTRICT __restrict__
#define INLINE static inline __attribute__((always_inline))

namespace {

using std::int32_t;
using std::int64_t;
typedef std::uint16_t bf16;

constexpr int BLOCK = 32;  // queries or keys handled together: two vectors of lanes
constexpr int ROWS = 8;    // rows of a tile: 8 x 2 sums hide the latency of the product
constexpr float LOG2E = 1.44269504088896340736f, LN2 = 0.69314718055994530942f;
constexpr float MASKED = -1e30f;  // finite, so that no difference of infinities arises

INLINE int round_up(int n, int to) { return (n + to - 1) / to * to; }

INLINE __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// ---- numbers of either kind ---------------------------------------------------------------------

template <class E> struct Kind;

template <> struct Kind<float> {
  static constexpr int pair = 1;
  INLINE __m512 dot(__m512 acc, int32_t a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32(a)), _mm512_castsi512_ps(b), acc);
  }
  INLINE __m512 load(const float *p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
  INLINE void store(float *p, __mmask16 m, __m512 x) { _mm512_mask_storeu_ps(p, m, x); }
  // rows j and j+1 as B has them: a row of units each
  INLINE void store_pair(int32_t *p, int stride, __m512 x, __m512 y) {
    _mm512_storeu_ps(p, x);
    _mm512_storeu_ps(p + stride, y);
  }
};

#ifdef __AVX512BF16__
template <> struct Kind<bf16> {
  static constexpr int pair = 2;
  INLINE __m512 dot(__m512 acc, int32_t a, __m512i b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
  }
  INLINE __m512 load(const bf16 *p, __mmask16 m) {
    __m256i half = _mm256_maskz_loadu_epi16(m, p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  INLINE void store(bf16 *p, __mmask16 m, __m512 x) {
    _mm256_mask_storeu_epi16(p, m, (__m256i)_mm512_cvtneps_pbh(x));
  }
  // rows j and j+1 as B has them: one row of pairs
  INLINE void store_pair(int32_t *p, int, __m512 x, __m512 y) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y));
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
};
#endif

// 2^x to 2e-7 relative: Taylor's coefficients of 2^f on |f| <= 1/2
INLINE __m512 exp2_of(__m512 x) {
  __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(1.5403530393381609e-4f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3333558146428443e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.618129107628477e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504108664821576e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022650695910072e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931471805599453e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// 1 / (1 + e^-x)
INLINE __m512 sigmoid(__m512 x) {
  __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(
      one, _mm512_add_ps(one, exp2_of(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2E)))));
}

// ---- products -----------------------------------------------------------------------------------

template <class E, int NR>
INLINE void tile(const int32_t *RESTRICT a, int lda, const int32_t *RESTRICT b, int ldb, int units,
                 __m512 (&acc)[ROWS][NR]) {
  for (int u = 0; u < units; ++u) {
    __m512i lanes[NR];
#pragma GCC unroll 2
    for (int n = 0; n < NR; ++n) lanes[n] = _mm512_loadu_si512(b + u * ldb + 16 * n);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
      for (int n = 0; n < NR; ++n) acc[r][n] = Kind<E>::dot(acc[r][n], a[r * lda + u], lanes[n]);
  }
}

template <int NR> INLINE void zero(__m512 (&acc)[ROWS][NR]) {
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < NR; ++n) acc[r][n] = _mm512_setzero_ps();
}

// c[8][width] (+)= a . b, two vectors of lanes at a time
template <class E, int NR>
INLINE void product(const int32_t *a, int lda, const int32_t *b, int ldb, int units, float *c,
                    int ldc) {
  __m512 acc[ROWS][NR];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < NR; ++n) acc[r][n] = _mm512_loadu_ps(c + r * ldc + 16 * n);
  tile<E, NR>(a, lda, b, ldb, units, acc);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < NR; ++n) _mm512_storeu_ps(c + r * ldc + 16 * n, acc[r][n]);
}

template <class E>
INLINE void add_product(const int32_t *a, int lda, const int32_t *b, int ldb, int units, float *c,
                        int ldc, int width) {
  int n = 0;
  for (; n + 32 <= width; n += 32) product<E, 2>(a, lda, b + n, ldb, units, c + n, ldc);
  if (n < width) product<E, 1>(a, lda, b + n, ldb, units, c + n, ldc);
}

// ---- layouts ------------------------------------------------------------------------------------

// 16 x 16 units: pairs of rows, of pairs, of fours, of eights
INLINE void transpose16(const int32_t *in, int ldi, int32_t *out, int ldo) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(in + i * ldi);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_si512(out + i * ldo, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_si512(out + (i + 8) * ldo, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
  }
}

void transpose(const int32_t *in, int ldi, int rows, int columns, int32_t *out, int ldo) {
  for (int r = 0; r < rows; r += 16)
    for (int c = 0; c < columns; c += 16) transpose16(in + r * ldi + c, ldi, out + c * ldo + r, ldo);
}

// Sizes of one attention problem, and the turning table [T][Q/2][cos, sin] or null.
struct Sizes {
  int T, H, G, Q, Tp, Qp;
  const float *turn;
  float scale;  // of scores
  int64_t row() const { return static_cast<int64_t>(H + 2 * G) * Q; }
};

template <class E> struct Layout {
  static constexpr int pair = Kind<E>::pair;
  static int units(const Sizes &s) { return (s.Q + pair - 1) / pair; }
  static int stride(const Sizes &s) { return round_up(units(s), 16); }  // of a row, in units
};

// Turn channels (2i, 2i+1) of 16 numbers by their position's angle; direction -1 turns back.
INLINE __m512 turned(__m512 x, const float *turn, __mmask16 m, float direction) {
  __m512 table = _mm512_maskz_loadu_ps(m, turn);
  __m512 cosine = _mm512_moveldup_ps(table), sine = _mm512_movehdup_ps(table);
  sine = _mm512_mul_ps(sine, _mm512_set1_ps(direction));
  __m512 swapped = _mm512_permute_ps(x, 0xb1);
  return _mm512_fmaddsub_ps(x, cosine, _mm512_mul_ps(swapped, sine));
}

// Rows of one head, contiguous and padded with zeros: out[Tp][stride units].
template <class E>
void load_rows(const E *in, int64_t row, const Sizes &s, bool turn, int32_t *out) {
  const int stride = Layout<E>::stride(s), width = stride * Kind<E>::pair;
  E *to = reinterpret_cast<E *>(out);
  for (int t = 0; t < s.Tp; ++t)
    for (int q = 0; q < width; q += 16) {
      __mmask16 m = t < s.T ? first_lanes(s.Q - q) : 0;
      __m512 x = Kind<E>::load(in + t * row + q, m);
      if (turn && t < s.T && q < s.Q) x = turned(x, s.turn + static_cast<int64_t>(t) * s.Q + q, m, 1);
      Kind<E>::store(to + static_cast<int64_t>(t) * width + q, 0xffff, x);
    }
}

// out[Tp / pair][Qp]: rows t and t+1 side by side in units (bfloat16), or as they are (float32).
template <class E> void interleave(const int32_t *in, const Sizes &s, int32_t *out) {
  constexpr int pair = Kind<E>::pair;
  const int width = Layout<E>::stride(s) * pair;
  const E *from = reinterpret_cast<const E *>(in);
  for (int t = 0; t < s.Tp; t += 2)
    for (int q = 0; q < s.Qp; q += 16) {
      const E *p = from + static_cast<int64_t>(t) * width + q;
      Kind<E>::store_pair(out + t / pair * s.Qp + q, s.Qp, Kind<E>::load(p, 0xffff),
                          Kind<E>::load(p + width, 0xffff));
    }
}

// A head's numbers given as [Qp][Tp] float32, scaled and perhaps turned back, into rows of E.
template <class E>
void store_columns(const float *in, int ldi, int first, int count, const Sizes &s, float direction,
                   E *out, int64_t row) {
  alignas(64) float block[16 * 16];
  for (int t = 0; t < count; t += 16)
    for (int q = 0; q < s.Q; q += 16) {
      transpose16(reinterpret_cast<const int32_t *>(in + q * ldi + t), ldi,
                  reinterpret_cast<int32_t *>(block), 16);
      __mmask16 m = first_lanes(s.Q - q);
      for (int i = 0; i < 16 && first + t + i < s.T; ++i) {
        __m512 x = _mm512_load_ps(block + 16 * i);
        int64_t at = first + t + i;
        if (direction != 0) x = turned(x, s.turn + at * s.Q + q, m, direction);
        Kind<E>::store(out + at * row + q, m, x);
      }
    }
}

struct Scratch {  // one aligned piece of memory, handed out in parts
  std::vector<char> bytes;
  size_t used = 0;
  explicit Scratch(size_t size) : bytes(size + 4096) {}
  template <class N> N *take(size_t count) {
    size_t at = (reinterpret_cast<size_t>(bytes.data()) + used + 63) / 64 * 64;
    used = at - reinterpret_cast<size_t>(bytes.data()) + count * sizeof(N);
    return reinterpret_cast<N *>(at);
  }
};

// ---- attention ----------------------------------------------------------------------------------

// Lanes first + 16n .. that may look at key j.
INLINE __mmask16 may_look(int first, int n, int j) {
  int lane = j - first - 16 * n;
  return lane <= 0 ? 0xffff : lane >= 16 ? 0 : static_cast<__mmask16>(0xffff << lane);
}

template <class E>
void attend_head(const int32_t *k, const int32_t *v_t, const int32_t *q_t, const Sizes &s, float c,
                 float *scores, int32_t *p, float *o, E *out, int64_t row, float *lse) {
  constexpr int pair = Kind<E>::pair;
  const int units = Layout<E>::units(s), stride = Layout<E>::stride(s);
  for (int i = 0; i < s.T; i += BLOCK) {
    // 1. scores of all keys up to the block's last query, keys as rows and queries as lanes
    const int keys = i + BLOCK;
    __m512 most[2] = {_mm512_set1_ps(MASKED), _mm512_set1_ps(MASKED)};
    for (int j = 0; j < keys; j += ROWS) {
      __m512 acc[ROWS][2];
      zero(acc);
      tile<E, 2>(k + j * stride, stride, q_t + i, s.Tp, units, acc);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          if (j + ROWS > i)
            acc[r][n] = _mm512_mask_mov_ps(_mm512_set1_ps(MASKED), may_look(i, n, j + r), acc[r][n]);
          most[n] = _mm512_max_ps(most[n], acc[r][n]);
          _mm512_store_ps(scores + (j + r) * BLOCK + 16 * n, acc[r][n]);
        }
    }
    // 2. probabilities, not yet divided by their sum
    __m512 sum[2], factor = _mm512_set1_ps(c);
    for (int n = 0; n < 2; ++n) {
      sum[n] = _mm512_setzero_ps();
      __m512 shift = _mm512_mul_ps(most[n], factor);
      for (int j = 0; j < keys; j += 2) {
        const float *at = scores + j * BLOCK + 16 * n;
        __m512 a = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(at), factor, shift));
        __m512 b = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(at + BLOCK), factor, shift));
        sum[n] = _mm512_add_ps(sum[n], _mm512_add_ps(a, b));
        Kind<E>::store_pair(p + j / pair * BLOCK + 16 * n, BLOCK, a, b);
      }
      alignas(64) float sums[16], shifts[16];
      _mm512_store_ps(sums, sum[n]);
      _mm512_store_ps(shifts, shift);
      for (int lane = 0; lane < 16 && i + 16 * n + lane < s.T; ++lane)
        lse[i + 16 * n + lane] = shifts[lane] + std::log2(sums[lane]);
      sum[n] = _mm512_div_ps(_mm512_set1_ps(1.0f), sum[n]);
    }
    // 3. values weighed by them, channels as rows
    for (int q = 0; q < s.Q; q += ROWS) {
      __m512 acc[ROWS][2];
      zero(acc);
      tile<E, 2>(v_t + q * (s.Tp / pair), s.Tp / pair, p, BLOCK, keys / pair, acc);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n)
          _mm512_store_ps(o + (q + r) * BLOCK + 16 * n, _mm512_mul_ps(acc[r][n], sum[n]));
    }
    store_columns<E>(o, BLOCK, i, BLOCK, s, 0, out, row);
  }
}

template <class E>
void attention_forward(const E *qkv, E *out, float *lse, const Sizes &s, int64_t first,
                       int64_t last) {
  constexpr int pair = Kind<E>::pair;
  const int stride = Layout<E>::stride(s), group = s.H / s.G;
  const size_t rows = static_cast<size_t>(s.Tp) * stride;
  Scratch scratch(4 * (4 * rows + 3 * static_cast<size_t>(s.Tp) * s.Qp + 3 * s.Tp * BLOCK + s.Qp * BLOCK) + 4096);
  int32_t *k = scratch.take<int32_t>(rows), *r = scratch.take<int32_t>(rows);
  int32_t *q_t = scratch.take<int32_t>(rows);
  int32_t *v_i = scratch.take<int32_t>(static_cast<size_t>(s.Tp) * s.Qp);
  int32_t *v_t = scratch.take<int32_t>(static_cast<size_t>(s.Tp) * s.Qp);
  float *scores = scratch.take<float>(s.Tp * BLOCK), *o = scratch.take<float>(s.Qp * BLOCK);
  int32_t *p = scratch.take<int32_t>(s.Tp * BLOCK);
  const float c = LOG2E * s.scale;
  for (int64_t at = first; at < last; ++at) {  // one sequence's key-value head
    const int64_t b = at / s.G, g = at % s.G;
    const E *from = qkv + b * s.T * s.row();
    load_rows(from + (s.H + g) * s.Q, s.row(), s, s.turn != nullptr, k);
    load_rows(from + (s.H + s.G + g) * s.Q, s.row(), s, false, r);
    interleave<E>(r, s, v_i);
    transpose(v_i, s.Qp, s.Tp / pair, s.Qp, v_t, s.Tp / pair);
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      load_rows(from + h * s.Q, s.row(), s, s.turn != nullptr, r);
      transpose(r, stride, s.Tp, stride, q_t, s.Tp);
      attend_head<E>(k, v_t, q_t, s, c, scores, p, o, out + b * s.T * s.H * s.Q + h * s.Q,
                     static_cast<int64_t>(s.H) * s.Q, lse + (b * s.H + h) * s.T);
    }
  }
}

// Everything one head needs on the way back; see attention_backward.
struct Back {
  int32_t *k, *k_t, *v, *q_t, *q_i, *g_t, *g_i;  // layouts of keys, values, queries, gradients
  int32_t *p, *ds, *ds_i;                        // a block of keys: rows, rows, interleaved
  float *lse, *along, *dq, *dk, *dv;             // [Tp], [Tp], [Qp][Tp], [Tp][Qp] twice
};

template <class E> void attend_head_back(const Back &m, const Sizes &s, float scale) {
  constexpr int pair = Kind<E>::pair;
  const int units = Layout<E>::units(s), stride = Layout<E>::stride(s), TU = s.Tp / pair;
  const int ldp = TU + 16;  // off a power of two, so that rows do not share cache sets
  const __m512 c = _mm512_set1_ps(scale * LOG2E), scales = _mm512_set1_ps(scale);
  for (int j = 0; j < s.Tp; j += BLOCK) {
    // 1. probabilities and score gradients of a block of keys, queries as lanes
    for (int i = j; i < s.Tp; i += BLOCK)
      for (int r0 = 0; r0 < BLOCK; r0 += ROWS) {
        alignas(64) float kept[ROWS][BLOCK];
        __m512 acc[ROWS][2];
        zero(acc);
        tile<E, 2>(m.k + (j + r0) * stride, stride, m.q_t + i, s.Tp, units, acc);
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          __m512 shift = _mm512_loadu_ps(m.lse + i + 16 * n);
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) {
            __m512 x = exp2_of(_mm512_fmsub_ps(acc[r][n], c, shift));
            if (i == j) x = _mm512_maskz_mov_ps(may_look(i, n, j + r0 + r), x);
            Kind<E>::store(reinterpret_cast<E *>(m.p + (r0 + r) * ldp + (i + 16 * n) / pair), 0xffff, x);
            _mm512_store_ps(&kept[r][16 * n], x);
          }
        }
        zero(acc);
        tile<E, 2>(m.v + (j + r0) * stride, stride, m.g_t + i, s.Tp, units, acc);
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          __m512 along = _mm512_loadu_ps(m.along + i + 16 * n), before = along;
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) {
            __m512 x = _mm512_mul_ps(_mm512_mul_ps(_mm512_load_ps(&kept[r][16 * n]), scales),
                                     _mm512_sub_ps(acc[r][n], along));
            Kind<E>::store(reinterpret_cast<E *>(m.ds + (r0 + r) * ldp + (i + 16 * n) / pair), 0xffff, x);
            if (r % 2)
              Kind<E>::store_pair(m.ds_i + (r0 + r - 1) / pair * s.Tp + i + 16 * n, s.Tp, before, x);
            before = x;
          }
        }
      }
    // 2. what they add to keys, values and queries
    const int left = TU - j / pair, from = j / pair;
    for (int r0 = 0; r0 < BLOCK; r0 += ROWS) {
      add_product<E>(m.p + r0 * ldp + from, ldp, m.g_i + from * s.Qp, s.Qp, left,
                     m.dv + (j + r0) * s.Qp, s.Qp, s.Qp);
      add_product<E>(m.ds + r0 * ldp + from, ldp, m.q_i + from * s.Qp, s.Qp, left,
                     m.dk + (j + r0) * s.Qp, s.Qp, s.Qp);
    }
    for (int q = 0; q < s.Q; q += ROWS)
      add_product<E>(m.k_t + q * TU + from, TU, m.ds_i + j, s.Tp, BLOCK / pair, m.dq + q * s.Tp + j,
                     s.Tp, s.Tp - j);
  }
}

// along[t] = sum over channels of gradient . output (Dao et al. 2022, arXiv:2205.14135, B.2)
template <class E>
void rows_dot(const E *g, const E *o, int64_t row, const Sizes &s, float *along) {
  for (int t = 0; t < s.T; ++t) {
    __m512 sum = _mm512_setzero_ps();
    for (int q = 0; q < s.Q; q += 16) {
      __mmask16 m = first_lanes(s.Q - q);
      sum = _mm512_fmadd_ps(Kind<E>::load(g + t * row + q, m), Kind<E>::load(o + t * row + q, m), sum);
    }
    along[t] = _mm512_reduce_add_ps(sum);
  }
}

template <class E>
void store_rows(const float *in, const Sizes &s, bool turn, E *out) {
  for (int t = 0; t < s.T; ++t)
    for (int q = 0; q < s.Q; q += 16) {
      __mmask16 m = first_lanes(s.Q - q);
      __m512 x = _mm512_loadu_ps(in + t * s.Qp + q);
      if (turn) x = turned(x, s.turn + static_cast<int64_t>(t) * s.Q + q, m, -1);
      Kind<E>::store(out + t * s.row() + q, m, x);
    }
}

template <class E>
void attention_backward(const E *qkv, const E *out, const float *lse, const E *grad, E *dqkv,
                        const Sizes &s, int64_t first, int64_t last) {
  constexpr int pair = Kind<E>::pair;
  const int stride = Layout<E>::stride(s), group = s.H / s.G, TU = s.Tp / pair;
  const size_t rows = static_cast<size_t>(s.Tp) * stride, cells = static_cast<size_t>(s.Tp) * s.Qp;
  const size_t strip = static_cast<size_t>(BLOCK) * (s.Tp + 16);
  Scratch scratch(4 * (6 * rows + 7 * cells + 3 * strip + 2 * s.Tp) + 8192);
  auto units = [&](size_t n) { return scratch.take<int32_t>(n); };
  auto floats = [&](size_t n) { return scratch.take<float>(n); };
  Back m{units(rows), units(cells), units(rows), units(rows), units(cells), units(rows), units(cells),
         units(strip), units(strip), units(strip), floats(s.Tp), floats(s.Tp), floats(cells),
         floats(cells), floats(cells)};
  int32_t *r = units(rows), *spare = units(cells);
  const int64_t width = static_cast<int64_t>(s.H) * s.Q;
  const bool turn = s.turn != nullptr;
  std::memset(m.lse, 0, s.Tp * 4);
  std::memset(m.along, 0, s.Tp * 4);
  for (int64_t at = first; at < last; ++at) {
    const int64_t b = at / s.G, g = at % s.G;
    const E *from = qkv + b * s.T * s.row();
    E *to = dqkv + b * s.T * s.row();
    load_rows(from + (s.H + g) * s.Q, s.row(), s, turn, m.k);
    load_rows(from + (s.H + s.G + g) * s.Q, s.row(), s, false, m.v);
    interleave<E>(m.k, s, spare);
    transpose(spare, s.Qp, TU, s.Qp, m.k_t, TU);
    std::memset(m.dk, 0, cells * 4);
    std::memset(m.dv, 0, cells * 4);
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      load_rows(from + h * s.Q, s.row(), s, turn, r);
      transpose(r, stride, s.Tp, stride, m.q_t, s.Tp);
      interleave<E>(r, s, m.q_i);
      const E *g_head = grad + b * s.T * width + h * s.Q, *o_head = out + b * s.T * width + h * s.Q;
      load_rows(g_head, width, s, false, r);
      transpose(r, stride, s.Tp, stride, m.g_t, s.Tp);
      interleave<E>(r, s, m.g_i);
      std::memcpy(m.lse, lse + (b * s.H + h) * s.T, s.T * 4);
      rows_dot(g_head, o_head, width, s, m.along);
      std::memset(m.dq, 0, cells * 4);
      attend_head_back<E>(m, s, s.scale);
      store_columns<E>(m.dq, s.Tp, 0, s.Tp, s, turn ? -1 : 0, to + h * s.Q, s.row());
    }
    store_rows<E>(m.dk, s, turn, to + (s.H + g) * s.Q);
    store_rows<E>(m.dv, s, false, to + (s.H + s.G + g) * s.Q);
  }
}

// ---- norms --------------------------------------------------------------------------------------

// y = norm(x + scale . delta) . weight + bias; sum gets x + scale . delta where there is a delta.
template <class E>
void norm_forward(const float *x, const E *delta, float scale, const float *weight,
                  const float *bias, float eps, int centred, float *sum, E *y, float *mean,
                  float *inverse, int64_t D, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const float *in = x + row * D;
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t d = 0; d < D; d += 16) {
      __mmask16 m = first_lanes(D - d);
      __m512 v = _mm512_maskz_loadu_ps(m, in + d);
      if (delta) {
        v = _mm512_fmadd_ps(Kind<E>::load(delta + row * D + d, m), _mm512_set1_ps(scale), v);
        _mm512_mask_storeu_ps(sum + row * D + d, m, v);
      }
      total = _mm512_add_ps(total, v);
      squares = _mm512_fmadd_ps(v, v, squares);
    }
    if (delta) in = sum + row * D;
    float middle = 0, mean_square = _mm512_reduce_add_ps(squares) / D;
    if (centred) {  // the variance in a second pass: a difference of squares would cancel
      middle = _mm512_reduce_add_ps(total) / D;
      squares = _mm512_setzero_ps();
      for (int64_t d = 0; d < D; d += 16) {
        __mmask16 m = first_lanes(D - d);
        __m512 v = _mm512_maskz_sub_ps(m, _mm512_maskz_loadu_ps(m, in + d), _mm512_set1_ps(middle));
        squares = _mm512_fmadd_ps(v, v, squares);
      }
      mean_square = _mm512_reduce_add_ps(squares) / D;
    }
    const float by = 1 / std::sqrt(mean_square + eps);
    mean[row] = middle;
    inverse[row] = by;
    for (int64_t d = 0; d < D; d += 16) {
      __mmask16 m = first_lanes(D - d);
      __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, in + d), _mm512_set1_ps(middle));
      v = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(by)), _mm512_maskz_loadu_ps(m, weight + d));
      if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, bias + d));
      Kind<E>::store(y + row * D + d, m, v);
    }
  }
}

// dx = dsum + (gradient through the norm); ddelta = scale . dx. Adds to dgains: weight, bias.
template <class E>
void norm_backward(const E *dy, const float *dsum, const float *x, const float *weight,
                   const float *mean, const float *inverse, float scale, int centred,
                   int shifted, float *dx, E *ddelta, float *dgains, int64_t D, int64_t first,
                   int64_t last) {
  float *dweight = dgains, *dbias = shifted ? dgains + D : nullptr;
  for (int64_t row = first; row < last; ++row) {
    const __m512 middle = _mm512_set1_ps(mean[row]), by = _mm512_set1_ps(inverse[row]);
    __m512 plain = _mm512_setzero_ps(), along = _mm512_setzero_ps();
    for (int64_t d = 0; d < D; d += 16) {
      __mmask16 m = first_lanes(D - d);
      __m512 g = Kind<E>::load(dy + row * D + d, m);
      __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + row * D + d), middle), by);
      unit = _mm512_maskz_mov_ps(m, unit);
      _mm512_mask_storeu_ps(dweight + d, m, _mm512_fmadd_ps(g, unit, _mm512_maskz_loadu_ps(m, dweight + d)));
      if (dbias) _mm512_mask_storeu_ps(dbias + d, m, _mm512_add_ps(g, _mm512_maskz_loadu_ps(m, dbias + d)));
      g = _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, weight + d));
      plain = _mm512_add_ps(plain, g);
      along = _mm512_fmadd_ps(g, unit, along);
    }
    const __m512 shift = _mm512_set1_ps(centred ? _mm512_reduce_add_ps(plain) / D : 0.0f);
    const __m512 tilt = _mm512_set1_ps(_mm512_reduce_add_ps(along) / D);
    for (int64_t d = 0; d < D; d += 16) {
      __mmask16 m = first_lanes(D - d);
      __m512 g = _mm512_mul_ps(Kind<E>::load(dy + row * D + d, m), _mm512_maskz_loadu_ps(m, weight + d));
      __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + row * D + d), middle), by);
      g = _mm512_mul_ps(_mm512_sub_ps(_mm512_fnmadd_ps(unit, tilt, g), shift), by);
      if (dsum) g = _mm512_add_ps(g, _mm512_maskz_loadu_ps(m, dsum + row * D + d));
      _mm512_mask_storeu_ps(dx + row * D + d, m, g);
      if (ddelta) Kind<E>::store(ddelta + row * D + d, m, _mm512_mul_ps(g, _mm512_set1_ps(scale)));
    }
  }
}

// ---- activations --------------------------------------------------------------------------------

constexpr float GELU_IN = 1.5957691216057308f, GELU_CUBE = 0.044715f;  // 2 sqrt(2 / pi)

// 0: GELU in the tanh form, x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3). 1: SiLU.
// gate is what is activated; up, where given, multiplies it.
template <class E>
void act_forward(const E *gate, const E *up, E *out, int kind, int64_t first, int64_t last) {
  for (int64_t at = first; at < last; at += 16) {
    __mmask16 m = first_lanes(last - at);
    __m512 x = Kind<E>::load(gate + at, m), in = x;
    if (kind == 0) {
      __m512 cube = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(GELU_IN * GELU_CUBE), _mm512_set1_ps(GELU_IN));
      in = _mm512_mul_ps(x, cube);
    }
    __m512 y = _mm512_mul_ps(x, sigmoid(in));
    if (up) y = _mm512_mul_ps(y, Kind<E>::load(up + at, m));
    Kind<E>::store(out + at, m, y);
  }
}

template <class E>
void act_backward(const E *gate, const E *up, const E *grad, E *dgate, E *dup, int kind,
                  int64_t first, int64_t last) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t at = first; at < last; at += 16) {
    __mmask16 m = first_lanes(last - at);
    __m512 x = Kind<E>::load(gate + at, m), g = Kind<E>::load(grad + at, m), in = x, slope = one;
    if (kind == 0) {
      __m512 square = _mm512_mul_ps(x, x);
      in = _mm512_mul_ps(x, _mm512_fmadd_ps(square, _mm512_set1_ps(GELU_IN * GELU_CUBE), _mm512_set1_ps(GELU_IN)));
      slope = _mm512_fmadd_ps(square, _mm512_set1_ps(3 * GELU_IN * GELU_CUBE), _mm512_set1_ps(GELU_IN));
    }
    __m512 share = sigmoid(in);
    if (up) {
      __m512 by = Kind<E>::load(up + at, m);  // before dup, which may be the same memory
      Kind<E>::store(dup + at, m, _mm512_mul_ps(g, _mm512_mul_ps(x, share)));
      g = _mm512_mul_ps(g, by);
    }
    // d(x s) = s + x s (1 - s) slope
    __m512 bend = _mm512_mul_ps(_mm512_mul_ps(x, slope), _mm512_sub_ps(one, share));
    Kind<E>::store(dgate + at, m, _mm512_mul_ps(g, _mm512_fmadd_ps(share, bend, share)));
  }
}

// ---- cross-entropy ------------------------------------------------------------------------------

// loss[row] in nats; lse[row] = log2 of the sum of e^logit
template <class E>
void loss_forward(const E *logits, const int64_t *target, float *loss, float *lse, int64_t V,
                  int64_t first, int64_t last) {
  const __m512 c = _mm512_set1_ps(LOG2E);
  for (int64_t row = first; row < last; ++row) {
    const E *in = logits + row * V;
    __m512 most = _mm512_set1_ps(MASKED), sum = _mm512_setzero_ps();
    for (int64_t v = 0; v < V; v += 16) {
      __mmask16 m = first_lanes(V - v);
      most = _mm512_mask_max_ps(most, m, most, Kind<E>::load(in + v, m));
    }
    const float peak = _mm512_reduce_max_ps(most);
    const __m512 shift = _mm512_set1_ps(peak * LOG2E);
    for (int64_t v = 0; v < V; v += 16) {
      __mmask16 m = first_lanes(V - v);
      sum = _mm512_mask_add_ps(sum, m, sum, exp2_of(_mm512_fmsub_ps(Kind<E>::load(in + v, m), c, shift)));
    }
    lse[row] = peak * LOG2E + std::log2(_mm512_reduce_add_ps(sum));
    const float right = _mm512_reduce_add_ps(Kind<E>::load(in + target[row], 1));
    loss[row] = lse[row] * LN2 - right;
  }
}

// dlogits = (probabilities - one at the target) . grad[row]
template <class E>
void loss_backward(const E *logits, const int64_t *target, const float *lse, const float *grad,
                   E *dlogits, int64_t V, int64_t first, int64_t last) {
  const __m512 c = _mm512_set1_ps(LOG2E);
  for (int64_t row = first; row < last; ++row) {
    const E *in = logits + row * V;
    E *out = dlogits + row * V;
    const __m512 shift = _mm512_set1_ps(lse[row]), g = _mm512_set1_ps(grad[row]);
    for (int64_t v = 0; v < V; v += 16) {
      __mmask16 m = first_lanes(V - v);
      __m512 p = exp2_of(_mm512_fmsub_ps(Kind<E>::load(in + v, m), c, shift));
      int64_t lane = target[row] - v;
      if (lane >= 0 && lane < 16)
        p = _mm512_mask_sub_ps(p, static_cast<__mmask16>(1u << lane), p, _mm512_set1_ps(1.0f));
      Kind<E>::store(out + v, m, _mm512_mul_ps(p, g));
    }
  }
}

// ---- clipping and AdamW -------------------------------------------------------------------------

// The tensors of a model, by their addresses; see update.py.
typedef float *const *Tensors;

void squares(Tensors grad, const int64_t *size, double *square, int64_t first, int64_t last) {
  for (int64_t at = first; at < last; ++at) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0, n = 0; i < size[at]; i += 16, n = (n + 1) % 4) {
      __m512 g = _mm512_maskz_loadu_ps(first_lanes(size[at] - i), grad[at] + i);
      sums[n] = _mm512_fmadd_ps(g, g, sums[n]);
    }
    square[at] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
  }
}

// rates: [tensors][3] of learning rate, decay and epsilon; clip: what gradients are multiplied by
void adamw(Tensors value, Tensors grad, Tensors mean, Tensors square, const int64_t *size,
           const double *rates, const float *clip, float beta1, float beta2, float step,
           int64_t first, int64_t last) {
  const double bias1 = 1 - std::pow(beta1, step), bias2 = 1 - std::pow(beta2, step);
  const __m512 by = _mm512_set1_ps(*clip), rest1 = _mm512_set1_ps(1 - beta1);
  const __m512 keep2 = _mm512_set1_ps(beta2), rest2 = _mm512_set1_ps(1 - beta2);
  const __m512 root = _mm512_set1_ps(static_cast<float>(1 / std::sqrt(bias2)));
  for (int64_t at = first; at < last; ++at) {
    const double *rate = rates + 3 * at;
    const __m512 keep = _mm512_set1_ps(static_cast<float>(1 - rate[0] * rate[1]));
    const __m512 pace = _mm512_set1_ps(static_cast<float>(rate[0] / bias1));
    const __m512 eps = _mm512_set1_ps(static_cast<float>(rate[2]));
    for (int64_t i = 0; i < size[at]; i += 16) {
      __mmask16 m = first_lanes(size[at] - i);
      __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, grad[at] + i), by);
      __m512 first_moment = _mm512_maskz_loadu_ps(m, mean[at] + i);
      __m512 second = _mm512_maskz_loadu_ps(m, square[at] + i);
      first_moment = _mm512_fmadd_ps(rest1, _mm512_sub_ps(g, first_moment), first_moment);
      second = _mm512_fmadd_ps(_mm512_mul_ps(rest2, g), g, _mm512_mul_ps(second, keep2));
      __m512 spread = _mm512_fmadd_ps(_mm512_sqrt_ps(second), root, eps);
      __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, value[at] + i), keep);
      x = _mm512_fnmadd_ps(pace, _mm512_div_ps(first_moment, spread), x);
      _mm512_mask_storeu_ps(mean[at] + i, m, first_moment);
      _mm512_mask_storeu_ps(square[at] + i, m, second);
      _mm512_mask_storeu_ps(value[at] + i, m, x);
    }
  }
}

}  // namespace

// ---- what native.py calls, once per kind of number -----------------------------------------------

#define EXPORT(NAME, E)                                                                            \
  extern "C" void attention_forward_##NAME(const E *qkv, E *out, float *lse, const float *turn,    \
                                           float scale, int T, int H, int G, int Q, int64_t first, \
                                           int64_t last) {                                         \
    Sizes sizes{T, H, G, Q, round_up(T, BLOCK), round_up(Q, 16), turn, scale};                     \
    attention_forward<E>(qkv, out, lse, sizes, first, last);                                       \
  }                                                                                                \
  extern "C" void attention_backward_##NAME(const E *qkv, const E *out, const float *lse,          \
                                            const E *grad, E *dqkv, const float *turn,             \
                                            float scale, int T, int H, int G, int Q,               \
                                            int64_t first, int64_t last) {                         \
    Sizes sizes{T, H, G, Q, round_up(T, BLOCK), round_up(Q, 16), turn, scale};                     \
    attention_backward<E>(qkv, out, lse, grad, dqkv, sizes, first, last);                          \
  }                                                                                                \
  extern "C" void norm_forward_##NAME(const float *x, const E *delta, float scale,                 \
                                      const float *weight, const float *bias, float eps,           \
                                      int centred, float *sum, E *y, float *mean, float *inverse,  \
                                      int64_t D, int64_t first, int64_t last) {                    \
    norm_forward<E>(x, delta, scale, weight, bias, eps, centred, sum, y, mean, inverse, D, first,  \
                    last);                                                                         \
  }                                                                                                \
  extern "C" void norm_backward_##NAME(const E *dy, const float *dsum, const float *x,             \
                                       const float *weight, const float *mean,                     \
                                       const float *inverse, float scale, int centred,             \
                                       int shifted, float *dx, E *ddelta, float *dgains,           \
                                       int64_t D, int64_t first, int64_t last) {                   \
    norm_backward<E>(dy, dsum, x, weight, mean, inverse, scale, centred, shifted, dx, ddelta,      \
                     dgains, D, first, last);                                                      \
  }                                                                                                \
  extern "C" void act_forward_##NAME(const E *gate, const E *up, E *out, int kind, int64_t first,  \
                                     int64_t last) {                                               \
    act_forward<E>(gate, up, out, kind, first, last);                                              \
  }                                                                                                \
  extern "C" void act_backward_##NAME(const E *gate, const E *up, const E *grad, E *dgate, E *dup, \
                                      int kind, int64_t first, int64_t last) {                     \
    act_backward<E>(gate, up, grad, dgate, dup, kind, first, last);                                \
  }                                                                                                \
  extern "C" void loss_forward_##NAME(const E *logits, const int64_t *target, float *loss,         \
                                      float *lse, int64_t V, int64_t first, int64_t last) {        \
    loss_forward<E>(logits, target, loss, lse, V, first, last);                                    \
  }                                                                                                \
  extern "C" void loss_backward_##NAME(const E *logits, const int64_t *target, const float *lse,   \
                                       const float *grad, E *dlogits, int64_t V, int64_t first,    \
                                       int64_t last) {                                             \
    loss_backward<E>(logits, target, lse, grad, dlogits, V, first, last);                          \
  }

EXPORT(float32, float)
#ifdef __AVX512BF16__
EXPORT(bfloat16, bf16)
#endif

extern "C" void squares_float32(Tensors grad, const int64_t *size, double *square, int64_t first,
                                int64_t last) {
  squares(grad, size, square, first, last);
}
extern "C" void adamw_float32(Tensors value, Tensors grad, Tensors mean, Tensors square,
                              const int64_t *size, const double *rates, const float *clip,
                              float beta1, float beta2, float step, int64_t first, int64_t last) {
  adamw(value, grad, mean, square, size, rates, clip, beta1, beta2, step, first, last);
}
