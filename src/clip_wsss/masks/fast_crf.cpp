// Mean-field inference of the fully connected CRF of Kraehenbuehl and Koltun (2011) on the
// permutohedral lattice of Adams, Baek and Davis (2010), called through ctypes by fast_crf.py.
//
// The lattice coordinates are computed by the same float operations in the same order as in
// pydensecrf, so that every pixel gets the same simplex and weights. For the softmax only differences
// to the last label matter: the others are filtered as q - q_last, the last one not at all.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using std::size_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

template <class X> using Array = std::unique_ptr<X[]>;
template <class X> Array<X> make(size_t n) { return Array<X>(new X[n]); }  // not zeroed

// Plain vectors of 16 bytes are in every x86-64 and arm64, so that no machine needs code of its own.
typedef float Two __attribute__((vector_size(8)));
typedef float Four __attribute__((vector_size(16)));
typedef i32 FourInts __attribute__((vector_size(16)));
template <int K> struct Pack;
template <> struct Pack<1> { using type = float; };
template <> struct Pack<2> { using type = Two; };
template <> struct Pack<4> { using type = Four; };

template <class V> inline V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V> inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

// A second version of a function for processors with AVX-512, chosen when the library is loaded. With
// -ffp-contract=off both compute the same bytes.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define HAS_WIDER
#define WIDER __attribute__((target_clones("default", "arch=x86-64-v4")))
#else
#define WIDER
#endif

constexpr int BLOCK = 16;             // pixels at a time
constexpr int CHUNK = 1024;           // pixels between two turns of the filter of positions
constexpr float ROUND = 12582912.f;   // 1.5 * 2^23: adding and subtracting it rounds half to even
constexpr i32 START = INT32_MIN;      // marks the first point of a chain
constexpr i32 POINT = INT32_MAX;      // takes the mark off
constexpr float HALF[2] = {0.5f, 0.f};  // of a neighbour's value; nothing comes before a marked point
constexpr float NOWHERE = -1e30f;     // logit of a label that only fills up a pack

// Neighbouring positions have near numbers. So the filter of many labels runs behind the splat of each
// chunk of pixels: an axis follows the one before as far behind as its neighbours are apart, the slice
// follows the last axis, and tables that are rings of a few thousand rows stay in the cache.
struct Turn {
  i32 blurred[3];  // points that each axis has done after the turn
  i32 sliced;      // chunks of pixels whose points all axes have done
};

struct Lattice {
  int axes;  // d + 1
  size_t pixels;
  i32 points;
  Array<i32> vertex;    // (pixels, axes)
  Array<float> weight;  // (pixels, axes): barycentric; after normalise() times the norm
  // For each axis its runs of neighbouring points, the first of a run marked with START. A point
  // without a neighbour is in none: the blur leaves it as it is.
  std::vector<std::vector<i32>> chain;
  std::vector<i32> met;  // after each chunk of pixels: its points and those before are below
  // Of the lattice of positions alone also what filters it on the way, see `Turn`: both neighbours in
  // the chain of every point, (axes, points, 2), by their rows, `ring` where there is none.
  std::vector<Turn> turns;
  std::vector<i32> around;
  i32 ring = 0;
};

// Open addressing; points are numbered in the order in which they are first seen.
struct Points {
  std::vector<u64> key;
  std::vector<u32> slot;  // number + 1, 0 where free
  int shift;

  explicit Points(size_t expected) {
    int bits = 10;
    while ((size_t(1) << bits) < 2 * expected) ++bits;
    slot.resize(size_t(1) << bits);
    shift = 64 - bits;
    key.reserve(expected);
  }
  static u64 hash(u64 k) { return k * 0x9E3779B97F4A7C15ull; }  // the high bits are mixed
  const u32* home(u64 k) const { return &slot[hash(k) >> shift]; }
  size_t place(u64 k) const {  // where it is, or the free slot where it would be
    size_t h = hash(k) >> shift;
    while (slot[h] && key[slot[h] - 1] != k) h = (h + 1) & (slot.size() - 1);
    return h;
  }
  i32 find(u64 k) const { return i32(slot[place(k)]) - 1; }
  i32 insert(u64 k) {
    const size_t h = place(k);
    if (slot[h]) return i32(slot[h]) - 1;
    key.push_back(k);
    slot[h] = u32(key.size());
    if (2 * key.size() > slot.size()) {
      slot.assign(2 * slot.size(), 0);
      --shift;
      for (size_t i = 0; i < key.size(); ++i) slot[place(key[i])] = u32(i + 1);
    }
    return i32(key.size()) - 1;
  }
};

WIDER void find_chains(Lattice& lattice, const Points& points, const u64* step) {
  const i32 m = lattice.points;
  // A bitmap, four bits a slot, tells most missing neighbours without a look at the table.
  const int shift = points.shift - 2;
  std::vector<u64> seen((size_t(1) << (64 - shift)) / 64);
  for (u64 k : points.key) seen[Points::hash(k) >> shift >> 6] |= u64(1) << (Points::hash(k) >> shift & 63);

  auto next = make<i32>(m);
  std::vector<unsigned char> preceded(m);
  for (int axis = 0; axis < lattice.axes; ++axis) {
    std::fill(preceded.begin(), preceded.end(), 0);
    constexpr i32 BATCH = 64;  // lookups in flight
    i32 from[BATCH];
    u64 wanted[BATCH];
    for (i32 first = 0; first < m; first += BATCH) {
      int count = 0;
      for (i32 p = first; p < std::min(m, first + BATCH); ++p) {
        const u64 k = points.key[p] + step[axis], bit = Points::hash(k) >> shift;
        next[p] = -1;
        from[count] = p;
        wanted[count] = k;
        __builtin_prefetch(points.home(k));
        count += seen[bit >> 6] >> (bit & 63) & 1;
      }
      for (int i = 0; i < count; ++i)
        if (u32 s = *points.home(wanted[i])) __builtin_prefetch(&points.key[s - 1]);
      for (int i = 0; i < count; ++i) {
        const i32 q = points.find(wanted[i]);
        if (q < 0) continue;
        next[from[i]] = q;
        preceded[q] = 1;
      }
    }
    auto chain = make<i32>(m);
    size_t length = 0;
    for (i32 p = 0; p < m; ++p) {
      if (preceded[p] || next[p] < 0) continue;
      chain[length++] = p | START;
      for (i32 q = next[p]; q >= 0; q = next[q]) chain[length++] = q;
    }
    lattice.chain.emplace_back(chain.get(), chain.get() + length);
  }
}

void find_turns(Lattice& lattice) {
  const i32 m = lattice.points;
  const size_t chunk = size_t(CHUNK) * lattice.axes, all = lattice.pixels * lattice.axes;
  const i32 chunks = i32(lattice.met.size());
  const i32* const vertex = lattice.vertex.get();
  std::vector<i32> settled(chunks, m);  // points below are in no later chunk
  for (i32 i = chunks - 1; i > 0; --i)
    settled[i - 1] = std::min(settled[i], *std::min_element(vertex + i * chunk,
                                                            vertex + std::min(all, (i + 1) * chunk)));

  i32 reach = 0;
  for (const std::vector<i32>& chain : lattice.chain)
    for (size_t i = 1; i < chain.size(); ++i)
      if (chain[i] >= 0) reach = std::max(reach, std::abs((chain[i - 1] & POINT) - chain[i]));
  const auto behind = [&](i32 p) { return p == m ? m : std::max(0, p - reach); };

  Turn turn{};
  i32 span = 1;  // the most rows in use at a time
  for (i32 i = 0; i < chunks; ++i) {
    const i32 unsliced = turn.sliced ? settled[turn.sliced - 1] : 0;
    const i32 sum_from = std::max(0, turn.blurred[2] - reach);
    const i32 blurred_from = std::min(unsliced, std::max(0, turn.blurred[1] - reach));
    for (i32 axis = 0, before = settled[i]; axis < 3; ++axis)
      before = turn.blurred[axis] = behind(before);
    while (turn.sliced <= i && lattice.met[turn.sliced] <= turn.blurred[2]) ++turn.sliced;
    span = std::max({span, lattice.met[i] - sum_from, turn.blurred[0] - blurred_from});
    lattice.turns.push_back(turn);
  }
  lattice.ring = 1;
  while (lattice.ring < span) lattice.ring *= 2;

  lattice.around.assign(size_t(2) * lattice.axes * m, lattice.ring);
  i32* around = lattice.around.data();
  for (const std::vector<i32>& chain : lattice.chain) {
    for (size_t i = 1; i < chain.size(); ++i) {
      if (chain[i] < 0) continue;
      const i32 p = chain[i - 1] & POINT, q = chain[i];
      around[2 * size_t(p) + 1] = q & (lattice.ring - 1);
      around[2 * size_t(q)] = p & (lattice.ring - 1);
    }
    around += 2 * size_t(m);
  }
}

// The lattice of features (x, y) / sxy, and with D = 5 also (r, g, b) / srgb; null where a key does
// not fit 64 bits or a coordinate not the 16 of pydensecrf.
template <int D>
WIDER Lattice* build(int width, int height, const unsigned char* rgb, float sxy, float srgb) {
  const size_t n = size_t(width) * height;
  const float deviation = std::sqrt(2.0 / 3.0) * (D + 1);
  std::vector<float> scaled[D];  // every value that a feature can take, scaled
  for (int i = 0; i < D; ++i) {
    const float scale = 1.0 / std::sqrt(double((i + 2) * (i + 1))) * deviation;
    const int values = i == 0 ? width : i == 1 ? height : 256;
    for (int k = 0; k < values; ++k) scaled[i].push_back(k / (i < 2 ? sxy : srgb) * scale);
  }

  // A field for each of the first D coordinates, as wide as its range with room for neighbours.
  int field[D], bits = 0;
  i32 bias[D];
  u64 step[D + 1], one_of_each = 0;
  for (int j = 0; j < D; ++j) {
    double low = -3 * (D + 1), high = 3 * (D + 1);
    if (j) low -= double(j) * scaled[j - 1].back();
    for (int i = j; i < D; ++i) high += scaled[i].back();
    if (!(low > -32000 && high < 32000)) return nullptr;
    bias[j] = -i32(std::floor(low));
    int width_of_field = 0;
    while ((u64(1) << width_of_field) <= u64(high - low) + 2) ++width_of_field;
    field[j] = bits;
    bits += width_of_field;
    if (bits > 64) return nullptr;
    one_of_each += u64(1) << field[j];
  }
  for (int j = 0; j <= D; ++j) step[j] = one_of_each - (j < D ? u64(D + 1) << field[j] : 0);

  auto lattice = std::make_unique<Lattice>();
  lattice->axes = D + 1;
  lattice->pixels = n;
  lattice->vertex = make<i32>(n * (D + 1));
  lattice->weight = make<float>(n * (D + 1));
  Points points(n + n / 4);
  // pydensecrf fills up to four pixels with zero features, and their points carry blur.
  const size_t filled = (n + 3) / 4 * 4;
  int x = 0, y = 0;
  for (size_t first = 0; first < filled; first += BLOCK) {
    const int lanes = int(std::min<size_t>(BLOCK, filled - first));
    if (first && first % CHUNK == 0) lattice->met.push_back(i32(points.key.size()));
    float f[D][BLOCK] = {}, elevated[D + 1][BLOCK], nearest[D + 1][BLOCK], inside[D + 1][BLOCK];
    i32 rank[D + 1][BLOCK] = {}, sum[BLOCK] = {};
    for (int l = 0; l < lanes && first + l < n; ++l) {
      f[0][l] = scaled[0][x];
      f[1][l] = scaled[1][y];
      if constexpr (D == 5)
        for (int c = 0; c < 3; ++c) f[2 + c][l] = scaled[2 + c][rgb[(first + l) * 3 + c]];
      if (++x == width) x = 0, ++y;
    }
    for (int l = 0; l < BLOCK; ++l) {  // onto the hyperplane of zero sum
      float later = 0;
      for (int j = D; j > 0; --j) {
        elevated[j][l] = later - float(j) * f[j - 1][l];
        later += f[j - 1][l];
      }
      elevated[0][l] = later;
    }
    for (int i = 0; i <= D; ++i)  // the nearest point whose coordinates are multiples of D + 1
      for (int l = 0; l < BLOCK; ++l) {
        const float t = (1.f / (D + 1) * elevated[i][l] + ROUND) - ROUND;
        nearest[i][l] = t * float(D + 1);
        sum[l] += i32(t);
      }
    for (int i = 0; i < D; ++i)  // the order of the rests tells the simplex
      for (int j = i + 1; j <= D; ++j)
        for (int l = 0; l < BLOCK; ++l) {
          const i32 less = elevated[i][l] - nearest[i][l] < elevated[j][l] - nearest[j][l];
          rank[i][l] += less;
          rank[j][l] += 1 - less;
        }
    for (int i = 0; i <= D; ++i)  // back to zero sum, where rounding left it
      for (int l = 0; l < BLOCK; ++l) {
        const i32 k = rank[i][l] + sum[l], wrap = k < 0 ? D + 1 : k > D ? -(D + 1) : 0;
        rank[i][l] = k + wrap;
        nearest[i][l] += float(wrap);
        inside[i][l] = (elevated[i][l] - nearest[i][l]) * (1.f / (D + 1));
      }
    u64 keys[BLOCK][D + 1];
    for (int l = 0; l < lanes; ++l) {
      float rest[D + 1];
      int axis[D + 1];
      u64 key = 0;
      for (int i = 0; i <= D; ++i) {
        rest[rank[i][l]] = inside[i][l];
        axis[rank[i][l]] = i;
      }
      for (int i = 0; i < D; ++i) key += u64(i32(nearest[i][l]) + bias[i]) << field[i];
      for (int r = 0; r <= D; ++r) {  // each vertex is one step from the one before
        keys[l][r] = key;
        __builtin_prefetch(points.home(key));
        key += step[axis[D - r]];
      }
      if (first + l < n) {
        float* w = &lattice->weight[(first + l) * (D + 1)];
        w[0] = rest[D] + (1 - rest[0]);
        for (int r = 1; r <= D; ++r) w[r] = rest[D - r] - rest[D - r + 1];
      }
    }
    for (int l = 0; l < lanes; ++l)
      for (int r = 0; r <= D; ++r) {
        const i32 point = points.insert(keys[l][r]);
        if (first + l < n) lattice->vertex[(first + l) * (D + 1) + r] = point;
      }
  }
  lattice->points = i32(points.key.size());
  lattice->met.push_back(lattice->points);
  find_chains(*lattice, points, step);
  if (D == 2) find_turns(*lattice);
  return lattice.release();
}

// Along every axis, in place: a point's own value and half of its neighbours'. Rows are `packs`
// packs of K floats; `v` has a row more than there are points, which takes what goes nowhere.
template <int K, bool WIDE> WIDER void blur(const Lattice& lattice, float* v, int packs) {
  using V = typename Pack<K>::type;
  const size_t row = WIDE ? size_t(K) * packs : K;
  std::vector<V> rows(WIDE ? 2 * packs : 0);
  V* const before = rows.data();
  V* const here = before + packs;
  for (const std::vector<i32>& chain : lattice.chain) {
    float* at = v + lattice.points * row;
    V b{}, h{};
    std::fill(rows.begin(), rows.end(), V{});
    for (const i32 point : chain) {
      float* const q = v + size_t(point & POINT) * row;
      const float half = HALF[point < 0];
      if constexpr (WIDE) {
        for (int k = 0; k < packs; ++k) {
          const V next = load<V>(q + k * K), old = here[k];
          store(at + k * K, old + before[k] + half * next);
          before[k] = half * old;
          here[k] = next;
        }
      } else {
        const V next = load<V>(q);
        store(at, h + b + half * next);
        b = half * h;
        h = next;
      }
      at = q;
    }
    if constexpr (WIDE)
      for (int k = 0; k < packs; ++k) store(at + k * K, here[k] + before[k]);
    else
      store(at, h + b);
  }
}

template <int K, int AXES>
inline void splat(const Lattice& lattice, size_t pixel, float* v, const float* in, int packs) {
  using V = typename Pack<K>::type;
  const i32* vertex = &lattice.vertex[pixel * AXES];
  const float* weight = &lattice.weight[pixel * AXES];
  for (int r = 0; r < AXES; ++r) {
    float* q = v + size_t(vertex[r]) * (K * packs);
    const float w = weight[r];
    for (int k = 0; k < packs; ++k) {
      store<V>(q, load<V>(q) + w * load<V>(in + k * K));
      q += K;
    }
  }
}

template <int K, int AXES>
inline void slice(const Lattice& lattice, size_t pixel, const float* v, float compat, float* out,
                  int packs) {
  using V = typename Pack<K>::type;
  const float* q[AXES];
  float w[AXES];
  for (int r = 0; r < AXES; ++r) {
    q[r] = v + size_t(lattice.vertex[pixel * AXES + r]) * (K * packs);
    w[r] = compat * lattice.weight[pixel * AXES + r];
  }
  for (int k = 0; k < packs; ++k) {
    V sum = load<V>(out + k * K);
    for (int r = 0; r < AXES; ++r) sum += w[r] * load<V>(q[r] + k * K);
    store<V>(out + k * K, sum);
  }
}

float alpha(const Lattice& lattice) { return 1.f / (1 + std::pow(2.f, float(1 - lattice.axes))); }

// Folds the symmetric normalisation into the weights.
void normalise(Lattice& lattice) {
  const int axes = lattice.axes;
  std::vector<float> v(lattice.points + 1);
  for (size_t i = 0; i < lattice.pixels * axes; ++i) v[lattice.vertex[i]] += lattice.weight[i];
  blur<1, false>(lattice, v.data(), 1);
  const float a = alpha(lattice);
  for (size_t i = 0; i < lattice.pixels * axes; i += axes) {
    float sum = 0;
    for (size_t j = i; j < i + axes; ++j) sum += lattice.weight[j] * v[lattice.vertex[j]] * a;
    const float norm = 1.0 / std::sqrt(sum + 1e-20);
    for (size_t j = i; j < i + axes; ++j) lattice.weight[j] *= norm;
  }
}

// exp of x <= 0, to 2e-7 of the value: 2^n times the series of the rest, |rest| <= ln 2 / 2.
// Below -50 it stays at 2e-22: no denormal numbers, which are slow.
inline Four exponential(Four x) {
  x = x < -50.f ? Four{} - 50.f : x;
  const Four n = (x * 1.44269504f + ROUND) - ROUND;
  const Four r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Four p = r * (1 / 5040.f) + 1 / 720.f;
  p = p * r + 1 / 120.f;
  p = p * r + 1 / 24.f;
  p = p * r + 1 / 6.f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  const FourInts power = (__builtin_convertvector(n, FourInts) + 127) << 23;
  Four scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// y: logits, y[K] that of the last label; they become probabilities, and d = y - y[K].
template <int K> inline void softmax(float (*y)[BLOCK], float (*d)[BLOCK]) {
  for (int l = 0; l < BLOCK; l += 4) {
    if constexpr (K == 1) {
      const Four x = load<Four>(y[0] + l) - load<Four>(y[1] + l), e = exponential(x > 0.f ? -x : x);
      const Four more = 1.f / (1.f + e), less = e * more;
      const Four first = x > 0.f ? more : less, last = x > 0.f ? less : more;
      store(y[0] + l, first);
      store(y[1] + l, last);
      store(d[0] + l, first - last);
    } else {
      Four x[K], last = load<Four>(y[K] + l), top = last;
      for (int c = 0; c < K; ++c) {
        x[c] = load<Four>(y[c] + l);
        top = x[c] > top ? x[c] : top;
      }
      last = exponential(last - top);
      Four sum = last;
      for (int c = 0; c < K; ++c) sum += x[c] = exponential(x[c] - top);
      const Four inverse = 1.f / sum;
      last *= inverse;
      for (int c = 0; c < K; ++c) {
        x[c] *= inverse;
        store(y[c] + l, x[c]);
        store(d[c] + l, x[c] - last);
      }
      store(y[K] + l, last);
    }
  }
}

// Slice, softmax and the next splat are one pass over the pixels. `few`: up to K + 1 labels.
template <int K>
WIDER void infer_few(const Lattice& gaussian, const Lattice& bilateral, const float* unary, int labels,
               int iterations, float gaussian_compat, float bilateral_compat, float* out) {
  const size_t n = gaussian.pixels;
  const float* last = unary + (labels - 1) * n;
  std::vector<float> g(size_t(gaussian.points + 1) * K), next_g(g.size());
  std::vector<float> b(size_t(bilateral.points + 1) * K), next_b(b.size());
  for (int iteration = 0;; ++iteration) {
    std::fill(next_g.begin(), next_g.end(), 0.f);
    std::fill(next_b.begin(), next_b.end(), 0.f);
    for (size_t first = 0; first < n; first += BLOCK) {
      const int lanes = int(std::min<size_t>(BLOCK, n - first));
      float y[K + 1][BLOCK], d[K][BLOCK], row[K];
      for (int c = 0; c <= K; ++c) {
        const float* from = c == K ? last : c < labels - 1 ? unary + c * n : nullptr;
        for (int l = 0; l < BLOCK; ++l) y[c][l] = from && l < lanes ? -from[first + l] : NOWHERE;
      }
      if (iteration)
        for (int l = 0; l < lanes; ++l) {
          std::fill(row, row + K, 0.f);
          slice<K, 3>(gaussian, first + l, g.data(), gaussian_compat, row, 1);
          slice<K, 6>(bilateral, first + l, b.data(), bilateral_compat, row, 1);
          for (int c = 0; c < K; ++c) y[c][l] += row[c];
        }
      softmax<K>(y, d);
      if (iteration == iterations) {
        for (int c = 0; c < labels; ++c)
          std::copy(y[c < labels - 1 ? c : K], y[c < labels - 1 ? c : K] + lanes, out + c * n + first);
        continue;
      }
      for (int l = 0; l < lanes; ++l) {
        for (int c = 0; c < K; ++c) row[c] = d[c][l];
        splat<K, 3>(gaussian, first + l, next_g.data(), row, 1);
        splat<K, 6>(bilateral, first + l, next_b.data(), row, 1);
      }
    }
    if (iteration == iterations) return;
    g.swap(next_g);
    b.swap(next_b);
    blur<K, false>(gaussian, g.data(), 1);
    blur<K, false>(bilateral, b.data(), 1);
  }
}

// Many labels lie in blocks of 4, 8 or 16. Each is filtered by itself, so that the table of one block
// may stay in the cache while it is splatted into, blurred and sliced, and a row of 16 is a cache line.
// L: floats in a register; every version computes the same bytes.

#define INLINE __attribute__((always_inline)) inline
constexpr size_t PAGE = size_t(1) << 21;
constexpr size_t AHEAD = 32;  // rows that the blur fetches in advance

template <int L> struct Register {
  typedef float type __attribute__((vector_size(4 * L)));
  typedef i32 ints __attribute__((vector_size(4 * L)));
};

struct FreePages {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(PAGE)); }
};
using Pages = std::unique_ptr<float[], FreePages>;

// Memory of this thread's last inference, dirty: a tenth of the time would go to pages zeroed anew.
float* workspace(size_t floats) {
  thread_local Pages pages;
  thread_local size_t size = 0;
  const size_t bytes = (floats * sizeof(float) + PAGE - 1) / PAGE * PAGE;
  if (bytes > size) {
    pages.reset();
    size = 0;
    pages.reset(static_cast<float*>(::operator new[](bytes, std::align_val_t(PAGE))));
    size = bytes;
#if defined(__linux__)
    madvise(pages.get(), bytes, MADV_HUGEPAGE);  // fewer page faults and misses of the TLB
#endif
  }
  return pages.get();
}

struct Block {
  int width, offset;  // labels, and the first one
  float *logits, *y;  // (pixels, width); y: logits after the filters, or q - q_last
};

template <int L, int W> INLINE void blur_rows(const Lattice& lattice, float* table) {
  constexpr int R = L < W ? L : W, K = W / R;
  using V = typename Register<R>::type;
  for (const std::vector<i32>& chain : lattice.chain) {
    float* at = table + size_t(lattice.points) * W;
    V before[K], here[K];
    for (int k = 0; k < K; ++k) before[k] = here[k] = V{};
    const i32* const point = chain.data();
    const size_t length = chain.size();
    for (size_t i = 0; i < length; ++i) {
      const float half = HALF[point[i] < 0];
      float* const row = table + size_t(point[i] & POINT) * W;
      __builtin_prefetch(table + size_t(point[std::min(i + AHEAD, length - 1)] & POINT) * W, 1);
      for (int k = 0; k < K; ++k) {
        V next;
        std::memcpy(&next, row + k * R, sizeof next);
        const V sum = here[k] + before[k] + half * next;
        std::memcpy(at + k * R, &sum, sizeof sum);
        before[k] = half * here[k];
        here[k] = next;
      }
      at = row;
    }
    for (int k = 0; k < K; ++k) {
      const V sum = here[k] + before[k];
      std::memcpy(at + k * R, &sum, sizeof sum);
    }
  }
}

// The points [begin, end) of one axis from the ring `from` to the ring `to`, by their neighbours.
template <int L, int W>
INLINE void blur_ring(const Lattice& lattice, int axis, i32 begin, i32 end, const float* from,
                      float* to) {
  constexpr int R = L < W ? L : W;
  using V = typename Register<R>::type;
  const i32* around = &lattice.around[2 * (size_t(axis) * lattice.points + begin)];
  const i32 mask = lattice.ring - 1;
  for (i32 p = begin; p < end; ++p, around += 2) {
    const size_t before = size_t(u32(around[0])) * W, here = size_t(u32(p & mask)) * W;
    const size_t next = size_t(u32(around[1])) * W;
    for (int k = 0; k < W; k += R) {
      V a, b, c;
      std::memcpy(&a, from + before + k, sizeof a);
      std::memcpy(&b, from + here + k, sizeof b);
      std::memcpy(&c, from + next + k, sizeof c);
      b = b + 0.5f * a + 0.5f * c;
      std::memcpy(to + here + k, &b, sizeof b);
    }
  }
}

// Of `count` pixels. `mask` makes rows of points; a ring is in the cache anyway.
template <int L, int W, int AXES>
INLINE void slice_rows(const Lattice& lattice, size_t first, size_t count, const float* table,
                       i32 mask, float compat, const float* from, float* y) {
  constexpr int R = L < W ? L : W, K = W / R;
  using V = typename Register<R>::type;
  const i32* vertex = &lattice.vertex[first * AXES];
  const float* weight = &lattice.weight[first * AXES];
  from += first * W, y += first * W;
  for (size_t l = 0; l < count; ++l, from += W, y += W, vertex += AXES, weight += AXES) {
    const int ahead = first + l + 8 < lattice.pixels ? 8 * AXES : 0;  // rows fetched early
    V sum[K];
    for (int k = 0; k < K; ++k) std::memcpy(&sum[k], from + k * R, sizeof sum[k]);
    for (int r = 0; r < AXES; ++r) {
      const float w = compat * weight[r], *row = table + size_t(vertex[r] & mask) * W;
      if (AXES == 6) __builtin_prefetch(table + size_t(vertex[r + ahead]) * W);
      for (int k = 0; k < K; ++k) {
        V v;
        std::memcpy(&v, row + k * R, sizeof v);
        sum[k] += w * v;
      }
    }
    for (int k = 0; k < K; ++k) std::memcpy(y + k * R, &sum[k], sizeof sum[k]);
  }
}

// Of a chunk. Rows get their zeros where they are first met, still in the cache: points have that order.
template <int L, int W, int AXES>
INLINE void splat_rows(const Lattice& lattice, size_t first, size_t count, float* table, i32 mask,
                       const float* q) {
  constexpr int R = L < W ? L : W, K = W / R;
  using V = typename Register<R>::type;
  const i32* vertex = &lattice.vertex[first * AXES];
  const float* weight = &lattice.weight[first * AXES];
  const i32 met = lattice.met[first / CHUNK];
  for (i32 p = first ? lattice.met[first / CHUNK - 1] : 0; p < met; ++p)
    std::memset(table + size_t(p & mask) * W, 0, W * sizeof(float));
  q += first * W;
  for (size_t l = 0; l < count; ++l, q += W, vertex += AXES, weight += AXES) {
    const int ahead = first + l + 8 < lattice.pixels ? 8 * AXES : 0;  // rows fetched early
    V x[K];
    for (int k = 0; k < K; ++k) std::memcpy(&x[k], q + k * R, sizeof x[k]);
    for (int r = 0; r < AXES; ++r) {
      if (AXES == 6) __builtin_prefetch(table + size_t(vertex[r + ahead]) * W, 1);
      float* const row = table + size_t(vertex[r] & mask) * W;
      for (int k = 0; k < K; ++k) {
        V v;
        std::memcpy(&v, row + k * R, sizeof v);
        v += weight[r] * x[k];
        std::memcpy(row + k * R, &v, sizeof v);
      }
    }
  }
}

struct Tables {
  float *sum, *blurred;  // rings of the lattice of positions
  float *bilateral;
};

// Both kernels of one block: q - q_last becomes logits.
template <int L, int W>
INLINE void filter(const Lattice& gaussian, const Lattice& bilateral, float gaussian_compat,
                   float bilateral_compat, const Tables& tables, const Block& block) {
  const size_t n = gaussian.pixels;
  const i32 mask = gaussian.ring - 1;
  std::fill_n(tables.sum + size_t(gaussian.ring) * W, W, 0.f);  // the neighbour where there is none
  std::fill_n(tables.blurred + size_t(gaussian.ring) * W, W, 0.f);
  Turn done{};
  size_t first = 0;
  for (const Turn& turn : gaussian.turns) {
    const size_t count = std::min<size_t>(CHUNK, n - first);
    splat_rows<L, W, 6>(bilateral, first, count, tables.bilateral, -1, block.y);
    splat_rows<L, W, 3>(gaussian, first, count, tables.sum, mask, block.y);
    first += count;
    for (int axis = 0; axis < 3; ++axis)
      blur_ring<L, W>(gaussian, axis, done.blurred[axis], turn.blurred[axis],
                      axis == 1 ? tables.blurred : tables.sum,
                      axis == 1 ? tables.sum : tables.blurred);
    const size_t from = size_t(done.sliced) * CHUNK, to = std::min(n, size_t(turn.sliced) * CHUNK);
    slice_rows<L, W, 3>(gaussian, from, to - from, tables.blurred, mask, gaussian_compat,
                        block.logits, block.y);
    done = turn;
  }
  blur_rows<L, W>(bilateral, tables.bilateral);
  slice_rows<L, W, 6>(bilateral, 0, n, tables.bilateral, -1, bilateral_compat, block.y, block.y);
}

// As the one above for four.
template <int L> INLINE typename Register<L>::type exponentials(typename Register<L>::type x) {
  using V = typename Register<L>::type;
  using I = typename Register<L>::ints;
  x = x < -50.f ? V{} - 50.f : x;
  const V n = (x * 1.44269504f + ROUND) - ROUND;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  V p = r * (1 / 5040.f) + 1 / 720.f;
  p = p * r + 1 / 120.f;
  p = p * r + 1 / 24.f;
  p = p * r + 1 / 6.f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  const I power = (__builtin_convertvector(n, I) + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// The softmax of BLOCK pixels goes through their blocks three times. The labels of a pixel make sixteen
// maxima and sixteen sums, whatever L is.
template <int L, int W>
INLINE void maxima(const float* from, int lanes, float (*part)[16]) {
  constexpr int R = L < W ? L : W;
  using V = typename Register<R>::type;
  for (int l = 0; l < lanes; ++l)
    for (int k = 0; k < W; k += R) {
      V v, m;
      std::memcpy(&v, from + l * W + k, sizeof v);
      std::memcpy(&m, part[l] + k, sizeof m);
      m = v > m ? v : m;
      std::memcpy(part[l] + k, &m, sizeof m);
    }
}

struct Larger {
  template <class V> INLINE V operator()(V a, V b) const { return a > b ? a : b; }
};
struct Sum {
  template <class V> INLINE V operator()(V a, V b) const { return a + b; }
};

// Of 2 * COUNT numbers, which are overwritten: every one of the first half with its own of the second,
// and so on.
template <int COUNT, class Op> INLINE float folded(float* p, Op op) {
  if constexpr (COUNT == 2) {
    return op(op(p[0], p[2]), op(p[1], p[3]));
  } else {
    typename Register<COUNT>::type a, b;
    std::memcpy(&a, p, sizeof a);
    std::memcpy(&b, p + COUNT, sizeof b);
    a = op(a, b);
    std::memcpy(p, &a, sizeof a);
    return folded<COUNT / 2>(p, op);
  }
}

template <int L, int W>
INLINE void powers(const float* from, float* to, int lanes, const float* top, float (*part)[16]) {
  constexpr int R = L < W ? L : W;
  using V = typename Register<R>::type;
  float rows[BLOCK * W], tops[BLOCK * W];
  if constexpr (W < L) {  // a register spans pixels
    std::fill(rows, rows + BLOCK * W, 0.f);
    std::memcpy(rows, from, lanes * W * sizeof(float));
    for (int k = 0; k < BLOCK * W; ++k) tops[k] = top[k / W];
    for (int k = 0; k < BLOCK * W; k += L) {
      typename Register<L>::type v, t;
      std::memcpy(&v, rows + k, sizeof v);
      std::memcpy(&t, tops + k, sizeof t);
      v = exponentials<L>(v - t);
      std::memcpy(rows + k, &v, sizeof v);
    }
    from = rows;
  }
  for (int l = 0; l < lanes; ++l)
    for (int k = 0; k < W; k += R) {
      V v, sum;
      std::memcpy(&v, from + l * W + k, sizeof v);
      std::memcpy(&sum, part[l] + k, sizeof sum);
      if constexpr (W >= L) v = exponentials<R>(v - top[l]);
      sum += v;
      std::memcpy(part[l] + k, &sum, sizeof sum);
      std::memcpy(to + l * W + k, &v, sizeof v);
    }
}

template <int L, int W>
INLINE void differences(float* y, int lanes, const float* inverse, const float* last) {
  constexpr int R = L < W ? L : W;
  using V = typename Register<R>::type;
  for (int l = 0; l < lanes; ++l)
    for (int k = 0; k < W; k += R) {
      V v;
      std::memcpy(&v, y + l * W + k, sizeof v);
      v = v * inverse[l] - last[l];
      std::memcpy(y + l * W + k, &v, sizeof v);
    }
}

#define BY_WIDTH(CALL, ...)                     \
  switch (block.width) {                        \
    case 4: CALL<L, 4>(__VA_ARGS__); break;     \
    case 8: CALL<L, 8>(__VA_ARGS__); break;     \
    default: CALL<L, 16>(__VA_ARGS__); break;   \
  }

template <int L>
INLINE void infer_blocks(const Lattice& gaussian, const Lattice& bilateral, const float* unary,
                         int labels, int iterations, float gaussian_compat, float bilateral_compat,
                         float* out) {
  const size_t n = gaussian.pixels;
  std::vector<Block> blocks;
  int size = 0;  // labels but the last, with those that fill up blocks
  while (size < labels - 1) {
    const int left = labels - 1 - size, width = left > 8 ? 16 : left > 4 ? 8 : 4;
    blocks.push_back({width, size, nullptr, nullptr});
    size += width;
  }
  const size_t width = blocks[0].width, ring = (size_t(gaussian.ring) + 1) * width;
  float* place = workspace(2 * n * size + 2 * ring + size_t(bilateral.points + 1) * width);
  const auto take = [&](size_t floats) { return (place += floats) - floats; };
  Tables tables;  // before the blocks, of which the last may be narrow: rows start where lines do
  tables.bilateral = take(size_t(bilateral.points + 1) * width);
  tables.sum = take(ring);
  tables.blurred = take(ring);
  for (Block& block : blocks) {
    block.logits = take(n * block.width);
    block.y = take(n * block.width);
    for (size_t first = 0; first < n; first += 4 * BLOCK)
      for (int c = 0; c < block.width; ++c) {
        const float* from = block.offset + c < labels - 1 ? unary + (block.offset + c) * n : nullptr;
        for (size_t p = first; p < std::min(n, first + 4 * BLOCK); ++p)
          block.logits[p * block.width + c] = from ? -from[p] : NOWHERE;
      }
  }

  for (int iteration = 0;; ++iteration) {
    for (size_t first = 0; first < n; first += BLOCK) {
      const int lanes = int(std::min<size_t>(BLOCK, n - first));
      float part[BLOCK][16], top[BLOCK], last[BLOCK] = {}, inverse[BLOCK];
      for (int l = 0; l < lanes; ++l) last[l] = -unary[(labels - 1) * n + first + l];
      std::fill(part[0], part[BLOCK], NOWHERE);
      for (const Block& block : blocks) {
        const float* const from = (iteration ? block.y : block.logits) + first * block.width;
        BY_WIDTH(maxima, from, lanes, part)
      }
      for (int l = 0; l < BLOCK; ++l) {
        top[l] = std::max(folded<8>(part[l], Larger()), last[l]);
        last[l] -= top[l];
      }
      using V = typename Register<L>::type;
      for (int l = 0; l < BLOCK; l += L) {
        V v;
        std::memcpy(&v, last + l, sizeof v);
        v = exponentials<L>(v);
        std::memcpy(last + l, &v, sizeof v);
      }
      std::fill(part[0], part[BLOCK], 0.f);
      for (const Block& block : blocks) {
        const float* const from = (iteration ? block.y : block.logits) + first * block.width;
        BY_WIDTH(powers, from, block.y + first * block.width, lanes, top, part)
      }
      for (int l = 0; l < BLOCK; ++l) {
        part[l][size % 16] += last[l];
        inverse[l] = 1 / folded<8>(part[l], Sum());
        last[l] *= inverse[l];
      }
      if (iteration < iterations) {
        for (const Block& block : blocks)
          BY_WIDTH(differences, block.y + first * block.width, lanes, inverse, last)
        continue;
      }
      for (const Block& block : blocks)
        for (int c = 0; c < std::min(block.width, labels - 1 - block.offset); ++c)
          for (int l = 0; l < lanes; ++l)
            out[(block.offset + c) * n + first + l] =
                block.y[(first + l) * block.width + c] * inverse[l];
      std::copy(last, last + lanes, out + (labels - 1) * n + first);
    }
    if (iteration == iterations) return;
    for (const Block& block : blocks)
      BY_WIDTH(filter, gaussian, bilateral, gaussian_compat, bilateral_compat, tables, block)
  }
}

#define INFER                                                                                    \
  (const Lattice& gaussian, const Lattice& bilateral, const float* unary, int labels,            \
   int iterations, float gaussian_compat, float bilateral_compat, float* out)
#define BLOCKS(L)                                                                                \
  infer_blocks<L>(gaussian, bilateral, unary, labels, iterations, gaussian_compat,               \
                  bilateral_compat, out)

// Not clones as above: the width of a vector is a constant of the source.
void infer_many INFER { BLOCKS(4); }
#if defined(HAS_WIDER)
__attribute__((target("avx2"))) void infer_many_avx2 INFER { BLOCKS(8); }
__attribute__((target("arch=x86-64-v4"))) void infer_many_avx512 INFER { BLOCKS(16); }
#endif

decltype(&infer_many) widest() {
#if defined(HAS_WIDER)
  if (__builtin_cpu_supports("x86-64-v4")) return infer_many_avx512;
  if (__builtin_cpu_supports("avx2")) return infer_many_avx2;
#endif
  return infer_many;
}

}  // namespace

// Status codes, also in fast_crf.py.
enum { DONE = 0, KEYS_DO_NOT_FIT = 1, NO_MEMORY = 2 };

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

// rgb: (height, width, 3), or null for the lattice of positions alone.
API int crf_build(int width, int height, const unsigned char* rgb, float sxy, float srgb,
                  void** lattice) {
  try {
    std::unique_ptr<Lattice> made(rgb ? build<5>(width, height, rgb, sxy, srgb)
                                      : build<2>(width, height, nullptr, sxy, srgb));
    if (!made) return KEYS_DO_NOT_FIT;
    normalise(*made);
    *lattice = made.release();
    return DONE;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

API void crf_free(void* lattice) { delete static_cast<Lattice*>(lattice); }

// unary and out: (labels, pixels); labels at least 2.
API int crf_infer(const void* gaussian, const void* bilateral, const float* unary, int labels,
                  int iterations, float gaussian_compat, float bilateral_compat, float* out) {
  const auto& g = *static_cast<const Lattice*>(gaussian);
  const auto& b = *static_cast<const Lattice*>(bilateral);
  const auto infer = labels == 2   ? infer_few<1>
                     : labels == 3 ? infer_few<2>
                     : labels <= 5 ? infer_few<4>
                                   : widest();
  try {
    infer(g, b, unary, labels, iterations, gaussian_compat * alpha(g), bilateral_compat * alpha(b), out);
    return DONE;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}
