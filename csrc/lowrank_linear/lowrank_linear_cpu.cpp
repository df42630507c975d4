// The forward of lowrank_linear of one instruction set. Compiled once for each, with -DWEFT_ISA naming it.
//
// Of a tile of rows of one sample x is staged once, and x A^T is formed for what the gate opens there, all rows at
// once or each concept at its own. Then, strip of columns by strip, both products are summed in fp32, bias and addends
// join them, and every value is rounded and written once, as rows or as an image.
#include <initializer_list>

#include "lowrank_linear/pack.h"
#include "lowrank_linear/plan.h"
#include "weft/gemm.h"
#include "weft/transpose.h"

#if !defined(WEFT_ISA)
#error "WEFT_ISA names the instruction set this file is compiled for"
#endif

namespace weft {
namespace {

#if defined(WEFT_HAS_PAIRS)
using BfloatDot = PairDot;
#else
using BfloatDot = FloatDot;
#endif

// Longest sum of products in one register: beyond it a chain loses more than a BLAS does.
constexpr int64_t kLongestChain = 256;

// Rows that a product of few columns takes at a time.
constexpr int64_t kRowStep = rows_for(1);

constexpr int64_t kMostRows = larger_of(kRows, kRowsBesideLargeWeight) + kRowSlack;
struct Ones {
  float values[kMostRows];
  constexpr Ones() : values() {
    for (float& value : values) value = 1.0f;
  }
};
constexpr Ones kOnes;

// Some ranks at some rows of a tile: what the second product adds in one go.
template <class Unit>
struct Term {
  int64_t begin, end;   // ranks, whole squares
  int64_t which;        // the one concept whose ranks count; -1 for all
  const int32_t* rows;  // null for all of the tile
  int64_t count;        // of rows
  Unit* h;              // [count + kRowSlack, stride]: x A^T * G
  int64_t stride;
};

bool gates_rows(const LowrankLinearPlan& plan) { return plan.params.gate.data && plan.params.gate.row; }

// What is kept of a tile between its preparation and its last strip. `rows` count the slack that products touch.
template <class Dot>
struct TileMemory {
  using Unit = typename Dot::Unit;
  static_assert(sizeof(Unit) == kUnitBytes);
  Span<Unit> x;             // [rows, depth]
  Span<Unit> h;             // [rows, rank_units], of all terms together, and the slack of the last
  Span<int32_t> open_rows;  // [concepts, rows], one list after the other
  Span<Term<Unit>> terms;   // of concepts or of squares of ranks, whichever are more
  Span<int64_t> count;      // of terms

  TileMemory(const LowrankLinearPlan& plan, Carver& carver) {
    const int64_t rows = plan.rows + kRowSlack, concepts = static_cast<int64_t>(plan.params.ranks.size());
    x = carver.take<Unit>(rows, plan.depth);
    h = carver.take<Unit>(rows + kRowSlack, plan.rank_units);
    open_rows = carver.take<int32_t>(gates_rows(plan) ? concepts : 0, rows);
    terms = carver.take<Term<Unit>>(larger_of(concepts, plan.ranks / kSquare));
    count = carver.take<int64_t>(1);
  }
};

// A worker's.
template <class Dot>
struct WorkMemory {
  using Unit = typename Dot::Unit;
  Span<Unit> gathered;    // [rows, depth]: some rows of x
  Span<float> sums;       // [rows, kStrip]
  Span<float> term_sums;  // [rows, kStrip]
  Span<float> image;      // [kSquare, rows], where the result is an image

  WorkMemory(const LowrankLinearPlan& plan, Carver& carver) {
    const int64_t rows = plan.rows + kRowSlack;
    gathered = carver.take<Unit>(gates_rows(plan) ? rows : 0, plan.depth);
    sums = carver.take<float>(rows, kStrip);
    term_sums = carver.take<float>(gates_rows(plan) ? rows : 0, kStrip);
    image = carver.take<float>(kSquare, rows);
  }
};

template <class Memory>
Memory lay_out(const LowrankLinearPlan& plan, Span<char> memory) {
  Carver carver(memory);
  return Memory(plan, carver);
}

template <class Memory>
int64_t bytes_of(const LowrankLinearPlan& plan) {
  Carver carver;
  Memory(plan, carver);
  return carver.bytes();
}

// c = a b, or c += a b; `vecs` vectors of a strip.
template <class Dot>
void product(int64_t rows, int64_t vecs, const typename Dot::Unit* a, int64_t stride_a, const typename Dot::Unit* b,
             int64_t depth, float* c, bool onto) {
  if (!depth) {
    if (!onto) memset(c, 0, rows * kStrip * 4);
    return;
  }
  const int64_t longest = kLongestChain / Dot::kValues;
  const int64_t parts = (depth + longest - 1) / longest, chain = (depth + parts - 1) / parts;
  for (int64_t i = 0; i < depth; i += chain) {
    gemm<Dot>(rows, vecs, a + i, stride_a, b + i * kStrip, kStrip, smaller_of(chain, depth - i), c, kStrip,
              onto || i ? kOnes.values : nullptr);
  }
}

// A masked access costs several of a plain one on some processors, so only the ends of rows are.
template <class T>
inline Vec load_part(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_first(p, static_cast<int>(n));
}

template <class T>
inline void store_part(T* p, Vec x, int64_t n) {
  if (n >= kLanes) {
    store(p, x);
  } else {
    store_first(p, x, static_cast<int>(n));
  }
}

template <class Dot, class T>
class Tile {
  using Unit = typename Dot::Unit;

 public:
  Tile(const LowrankLinearPlan& plan, int64_t tile, Span<char> memory, Span<char> work)
      : plan_(plan),
        p_(plan.params),
        tile_(lay_out<TileMemory<Dot>>(plan, memory)),
        work_(lay_out<WorkMemory<Dot>>(plan, work)) {
    sample_ = tile / plan.tiles;
    first_row_ = tile % plan.tiles * plan.rows;
    rows_ = smaller_of(p_.N - first_row_, plan.rows);
  }

  void prepare() {
    find_terms();
    at(tile_.count, 0) = terms_;
    if (p_.weight.data || terms_) {
      Packer<Dot, T>(p_.x, sample_, first_row_, rows_, p_.Cin).stage(tile_.x, plan_.depth);
    }
    for (int64_t i = 0; i < terms_; ++i) project_down(at(tile_.terms, i));
  }

  void project(Span<Unit> weight, int64_t begin, int64_t end) {
    terms_ = at(tile_.count, 0);
    prefetch(begin, end);
    const int64_t units = p_.weight.data ? plan_.depth * kStrip : 0;
    for (int64_t strip = begin; strip < end; ++strip) {
      prefetch(strip + 1, end);
      const int64_t columns = columns_of(strip);
      sum_products(part(weight, (strip - begin) * units, units).data, strip, columns);
      if (p_.out.column == 1) {
        store_rows(strip * kStrip, columns);
      } else {
        store_image(strip * kStrip, columns);
      }
    }
  }

 private:
  int64_t concepts() const { return static_cast<int64_t>(p_.ranks.size()); }
  int64_t columns_of(int64_t strip) const { return smaller_of(kStrip, p_.Cout - strip * kStrip); }

  const float* gate_of(int64_t row) const {
    return static_cast<const float*>(p_.gate.data) + sample_ * p_.gate.batch + (first_row_ + row) * p_.gate.row;
  }

  static int64_t first_rank(int64_t rank) { return rank / kSquare * kSquare; }
  static int64_t last_rank(int64_t rank) { return (rank + kSquare - 1) / kSquare * kSquare; }

  // What is open in this tile: each concept at its own rows where that is less work, else all at all rows.
  void find_terms() {
    if (!gates_rows(plan_)) {
      return join_terms([this](int64_t which) { return !p_.gate.data || gate_of(0)[which * p_.gate.column] != 0.0f; });
    }
    if (find_terms_apart()) return;
    const int64_t found = terms_;
    int64_t next = 0;
    terms_ = 0;
    // terms are written over no faster than they are read
    join_terms([this, found, &next](int64_t which) {
      return next < found && at(tile_.terms, next).which == which ? ++next > 0 : false;
    });
  }

  // A term for each concept that is open somewhere; whether these are also what to compute.
  //
  // Their h must fit where that of all ranks at all rows does, [rows, rank_units]. It does unless many of them share a
  // square of ranks, which each has for itself here: then one product of the shared squares is less work anyway, and
  // memory for the largest case, [rows, concepts * kSquare] or more, would push x out of the cache.
  bool find_terms_apart() {
    int64_t rank = 0, listed = 0, used = 0, apart = 0, together = 0;
    bool fits = true;
    for (int64_t which = 0; which < concepts(); rank += p_.ranks[which++]) {
      const Span<int32_t> list = part(tile_.open_rows, listed, rows_);
      const int64_t count = list_open_rows(which, list.data);
      if (!count) continue;
      const int64_t begin = first_rank(rank), end = last_rank(rank + p_.ranks[which]);
      const int64_t units = (end - begin) / Dot::kValues;
      fits = fits && holds(tile_.h, used, (count + kRowSlack) * units);
      at(tile_.terms, terms_++) = {begin, end, which, list.data, count, fits ? tile_.h.data + used : nullptr, units};
      listed += count;
      used += count * units;
      apart += (count + kRowStep - 1) / kRowStep * kRowStep * (end - begin);
      together += rows_ * (end - begin);
    }
    // gathering rows and adding them where they belong costs half of their products
    return fits && 3 * apart <= 2 * together;
  }

  // Rows at which a concept is open; `list` has an entry a row.
  int64_t list_open_rows(int64_t which, int32_t* list) const {
    int64_t count = 0;
    for (int64_t r = 0; r < rows_; ++r) {
      list[count] = static_cast<int32_t>(r);
      count += gate_of(r)[which * p_.gate.column] != 0.0f;
    }
    return count;
  }

  // All rows at once for the ranks of all concepts that are open, in as few runs as their squares allow.
  template <class IsOpen>
  void join_terms(IsOpen is_open) {
    int64_t rank = 0, last = -1;
    for (int64_t which = 0; which < concepts(); rank += p_.ranks[which++]) {
      if (!is_open(which)) continue;
      const int64_t begin = first_rank(rank), end = last_rank(rank + p_.ranks[which]);
      if (begin <= last) {
        at(tile_.terms, terms_ - 1).end = end;
      } else {
        const int64_t first = begin / Dot::kValues, rest = (rows_ + kRowSlack) * plan_.rank_units - first;
        at(tile_.terms, terms_++) = {begin,           end, -1, nullptr, rows_, part(tile_.h, first, rest).data,
                                     plan_.rank_units};
      }
      last = end;
    }
  }

  // h = x A^T * G for the ranks and rows of a term
  void project_down(const Term<Unit>& term) {
    const Unit* x = tile_.x.data;
    if (term.rows) {
      Unit* const gathered = part(work_.gathered, 0, (term.count + kRowSlack) * plan_.depth).data;
      for (int64_t i = 0; i < term.count; ++i) {
        memcpy(gathered + i * plan_.depth, x + term.rows[i] * plan_.depth, plan_.depth * sizeof(Unit));
      }
      x = gathered;
    }
    for (int64_t strip = term.begin / kStrip; strip * kStrip < term.end; ++strip) {
      const int64_t from = larger_of(term.begin, strip * kStrip);
      const int64_t count = smaller_of(term.end, (strip + 1) * kStrip) - from;
      const Unit* matrix = part(as<Unit>(plan_.packed_down), strip * plan_.depth * kStrip, plan_.depth * kStrip).data;
      float* const sums = work_.sums.data;
      product<Dot>(term.count, vectors(count), x, plan_.depth, matrix + from % kStrip, plan_.depth, sums, false);
      for (int64_t i = 0; i < term.count; ++i) {
        float* row = sums + i * kStrip;
        if (p_.gate.data) {
          const float* gate = gate_of(term.rows ? term.rows[i] : i);
          for (int64_t j = 0; j < count; j += kSquare) apply_gate(gate, term.which, from + j, row + j);
        }
        stage_hidden(row, count, term.h + i * term.stride + (from - term.begin) / Dot::kValues);
      }
    }
  }

  // A square of ranks times the gates of their concepts; 0 for those of others, where one alone counts, and beyond R.
  void apply_gate(const float* gate, int64_t which, int64_t rank, float* h) const {
    const int32_t* concepts = plan_.concept_of_rank + rank;
    if (concepts[0] == concepts[kSquare - 1]) {
      const Vec factor = splat(gate[concepts[0] * p_.gate.column]);
      for (int64_t i = 0; i < kSquare; i += kLanes) store(h + i, mul(load(h + i), factor));
      return;
    }
    for (int64_t i = 0; i < kSquare; ++i) {
      const bool counts = concepts[i] >= 0 && (which < 0 || concepts[i] == which);
      h[i] = counts ? h[i] * gate[concepts[i] * p_.gate.column] : 0.0f;
    }
  }

  static void stage_hidden(const float* row, int64_t count, float* to) { copy_line(row, count, to, count); }
  static void stage_hidden(const float* row, int64_t count, uint32_t* to) {
    for (int64_t i = 0; i < count; i += kLanes) store(reinterpret_cast<Bfloat*>(to) + i, load(row + i));
  }

  void sum_products(const Unit* weight, int64_t strip, int64_t columns) {
    const int64_t vecs = vectors(columns);
    float* const sums = work_.sums.data;
    bool onto = false;
    if (p_.weight.data) {
      product<Dot>(rows_, vecs, tile_.x.data, plan_.depth, weight, plan_.depth, sums, false);
      onto = true;
    }
    for (int64_t i = 0; i < terms_; ++i) {
      const Term<Unit>& term = at(tile_.terms, i);
      const int64_t depth = (term.end - term.begin) / Dot::kValues;
      const int64_t first = strip * plan_.rank_units + term.begin / Dot::kValues;
      const Unit* up = part(as<Unit>(plan_.packed_up), first * kStrip, depth * kStrip).data;
      if (!term.rows) {
        product<Dot>(rows_, vecs, term.h, term.stride, up, depth, sums, onto);
        onto = true;
        continue;
      }
      if (!onto) memset(sums, 0, rows_ * kStrip * 4);
      onto = true;
      float* const term_sums = part(work_.term_sums, 0, (term.count + kRowSlack) * kStrip).data;
      product<Dot>(term.count, vecs, term.h, term.stride, up, depth, term_sums, false);
      for (int64_t r = 0; r < term.count; ++r) {
        const float* from = term_sums + r * kStrip;
        float* to = sums + term.rows[r] * kStrip;
        for (int64_t j = 0; j < vecs * kLanes; j += kLanes) store(to + j, add(load(to + j), load(from + j)));
      }
    }
    if (!onto) memset(sums, 0, rows_ * kStrip * 4);
  }

  // The part of [B, N, Cout] that begins at a row and a column; null where the matrix is absent.
  const T* part_of(const Matrices& matrix, int64_t row, int64_t column) const {
    if (!matrix.data) return nullptr;
    return static_cast<const T*>(matrix.data) + sample_ * matrix.batch + (first_row_ + row) * matrix.row +
           column * matrix.column;
  }

  // What a strip reads and writes of [B, N, Cout] is a few cache lines of each row, which no processor foresees: it
  // waited for them as long as the products took where W has 320 columns.
  // Always inlined: gcc takes a function that only prefetches for one without effect, and drops the call.
  __attribute__((always_inline)) void prefetch(int64_t strip, int64_t end) const {
    if (strip >= end) return;
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const bool by_row = p_.out.column == 1;
    const int64_t lines = by_row ? rows_ : columns_of(strip), length = by_row ? columns_of(strip) : rows_;
    for (const Matrices* matrix : {&p_.residual, &p_.base, &p_.out}) {
      const T* corner = part_of(*matrix, 0, strip * kStrip);
      const int64_t stride = by_row ? matrix->row : matrix->column;
      for (int64_t line = 0; corner && line < lines; ++line) {
        for (int64_t i = 0; i < length; i += kLine) __builtin_prefetch(corner + line * stride + i);
      }
    }
  }

  void store_rows(int64_t first, int64_t columns) {
    const T* bias = p_.bias ? static_cast<const T*>(p_.bias) + first : nullptr;
    for (int64_t r = 0; r < rows_; ++r) {
      const float* sums = work_.sums.data + r * kStrip;
      const T *residual = part_of(p_.residual, r, first), *base = part_of(p_.base, r, first);
      T* out = const_cast<T*>(part_of(p_.out, r, first));
      for (int64_t j = 0; j < columns; j += kLanes) {
        const int64_t left = columns - j;
        Vec y = load(sums + j);
        if (bias) y = add(y, load_part(bias + j, left));
        if (base) y = add(y, load_part(base + j, left));
        if (residual) y = add(y, load_part(residual + j, left));
        store_part(out + j, y, left);
      }
    }
  }

  // Whole lines of an image, a square of columns at a time: of channels that lie a power of two apart, few lines fit
  // into a cache together.
  void store_image(int64_t first, int64_t columns) {
    const int64_t stride = plan_.rows;
    float* const image = work_.image.data;
    for (int64_t corner = 0; corner < columns; corner += kSquare) {
      for (int64_t r = 0; r < rows_; r += kSquare) {
        transpose(work_.sums.data + r * kStrip + corner, 4 * kStrip, image + r, 4 * stride);
      }
      for (int64_t c = 0; c < kSquare && corner + c < columns; ++c) {
        const int64_t column = first + corner + c;
        const T *residual = part_of(p_.residual, 0, column), *base = part_of(p_.base, 0, column);
        const Vec bias = p_.bias ? load_part(static_cast<const T*>(p_.bias) + column, 1) : splat(0.0f);
        const Vec offset = splat(reduce_add(bias));
        T* out = const_cast<T*>(part_of(p_.out, 0, column));
        for (int64_t r = 0; r < rows_; r += kLanes) {
          const int64_t left = rows_ - r;
          Vec y = load(image + c * stride + r);
          if (p_.bias) y = add(y, offset);
          if (base) y = add(y, load_part(base + r, left));
          if (residual) y = add(y, load_part(residual + r, left));
          store_part(out + r, y, left);
        }
      }
    }
  }

  const LowrankLinearPlan& plan_;
  const LowrankLinearParams& p_;
  TileMemory<Dot> tile_;
  WorkMemory<Dot> work_;
  int64_t sample_, first_row_, rows_, terms_ = 0;
};

template <class Dot, class T>
void pack_strip(const Matrices& matrix, int64_t lines, int64_t values, int64_t strip, int64_t units, Span<char> to) {
  const int64_t first = strip * kStrip;
  Packer<Dot, T>(matrix, 0, first, smaller_of(kStrip, lines - first), values).pack(as<typename Dot::Unit>(to), units);
}

void pack(Dtype dtype, const Matrices& matrix, int64_t lines, int64_t values, int64_t strip, int64_t units,
          Span<char> to) {
  switch (dtype) {
    case Dtype::kFloat32:
      return pack_strip<FloatDot, float>(matrix, lines, values, strip, units, to);
    case Dtype::kFloat16:
      return pack_strip<FloatDot, Half>(matrix, lines, values, strip, units, to);
    case Dtype::kBfloat16:
      return pack_strip<BfloatDot, Bfloat>(matrix, lines, values, strip, units, to);
  }
}

// Of the strips of one matrix, one after the other.
Span<char> strip_of(Span<char> strips, int64_t strip, int64_t units) {
  const int64_t bytes = units * kStrip * kUnitBytes;
  return part(strips, strip * bytes, bytes);
}

void pack_weight(const LowrankLinearPlan& plan, int64_t strip, Span<char> to) {
  const LowrankLinearParams& p = plan.params;
  pack(p.dtype, p.weight, p.Cout, p.Cin, strip, plan.depth, to);
}

void pack_down(const LowrankLinearPlan& plan, int64_t strip) {
  const LowrankLinearParams& p = plan.params;
  pack(p.dtype, p.down, plan.R, p.Cin, strip, plan.depth, strip_of(plan.packed_down, strip, plan.depth));
}

void pack_up(const LowrankLinearPlan& plan, int64_t strip) {
  const LowrankLinearParams& p = plan.params;
  pack(p.dtype, p.up, p.Cout, plan.R, strip, plan.rank_units, strip_of(plan.packed_up, strip, plan.rank_units));
}

int64_t unit_values(Dtype dtype) { return dtype == Dtype::kBfloat16 ? BfloatDot::kValues : 1; }

// kUnitBytes a unit in either product
int64_t tile_bytes(const LowrankLinearPlan& plan) { return bytes_of<TileMemory<FloatDot>>(plan); }
int64_t work_bytes(const LowrankLinearPlan& plan) { return bytes_of<WorkMemory<FloatDot>>(plan); }

void prepare(const LowrankLinearPlan& plan, int64_t tile, Span<char> memory, Span<char> work) {
  switch (plan.params.dtype) {
    case Dtype::kFloat32:
      return Tile<FloatDot, float>(plan, tile, memory, work).prepare();
    case Dtype::kFloat16:
      return Tile<FloatDot, Half>(plan, tile, memory, work).prepare();
    case Dtype::kBfloat16:
      return Tile<BfloatDot, Bfloat>(plan, tile, memory, work).prepare();
  }
}

template <class Dot, class T>
void project_tile(const LowrankLinearPlan& plan, int64_t tile, Span<char> memory, Span<char> work, Span<char> weight,
                  int64_t begin, int64_t end) {
  Tile<Dot, T>(plan, tile, memory, work).project(as<typename Dot::Unit>(weight), begin, end);
}

void project(const LowrankLinearPlan& plan, int64_t tile, Span<char> memory, Span<char> work, Span<char> weight,
             int64_t begin, int64_t end) {
  switch (plan.params.dtype) {
    case Dtype::kFloat32:
      return project_tile<FloatDot, float>(plan, tile, memory, work, weight, begin, end);
    case Dtype::kFloat16:
      return project_tile<FloatDot, Half>(plan, tile, memory, work, weight, begin, end);
    case Dtype::kBfloat16:
      return project_tile<BfloatDot, Bfloat>(plan, tile, memory, work, weight, begin, end);
  }
}

}  // namespace

#define WEFT_JOIN(a, b) a##b
#define WEFT_EXPORT(isa) WEFT_JOIN(lowrank_linear_kernels_, isa)
extern const LowrankLinearKernels WEFT_EXPORT(WEFT_ISA);
const LowrankLinearKernels WEFT_EXPORT(WEFT_ISA) = {unit_values, tile_bytes, work_bytes, pack_weight,
                                                    pack_down,   pack_up,    prepare,    project};

}  // namespace weft
