// Calls of attention: kernels/attention/reference.py says what they mean.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include "attention/attention.h"
#include "case.h"
#include "operand.h"

namespace sanitize {
namespace {

// Most multiply-adds of a case, elements of q and k, and multiply-adds that are done again in double.
constexpr int64_t kMostWork = 3'000'000, kMostElements = 60'000, kMostChecked = 60'000;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A label table, labels, padding or a read-out: one entry for all samples, or one each with a gap between.
Operand draw_shared(Draw& draw, Kind kind, int64_t samples, int64_t rows, int64_t columns) {
  const int64_t length = rows * columns, gap = draw.chance(0.3) ? draw.between(1, 11) : 0;
  const Axes stride{draw.chance(0.5) ? 0 : length + gap, columns, 1, 0};
  return Operand(kind, {samples, rows, columns, 1}, stride, draw.chance(0.3) ? draw.between(1, 9) : 0);
}

class AttentionCase : public Case {
 public:
  explicit AttentionCase(Draw& draw) {
    draw_sizes(draw);
    draw_tables(draw);
    draw_heads(draw);
    if (draw.chance(0.03)) spoil(draw);
  }

  std::string describe() const override {
    std::ostringstream text;
    text << "B " << p_.B << " Nq " << p_.Nq << " Nk " << p_.Nk << " H " << p_.H << " Hk " << p_.Hk << " D " << p_.D
         << " M " << p_.M << " Lq " << p_.Lq << " Lk " << p_.Lk << " dtype " << static_cast<int>(p_.dtype) << " scale "
         << p_.scale;
    for (const auto& [name, operand] : {std::pair<const char*, const Operand*>{"q", &q_},
                                        {"k", &k_},
                                        {"v", &v_},
                                        {"out", &out_},
                                        {"alpha", &alpha_},
                                        {"beta", &beta_},
                                        {"gamma", &gamma_},
                                        {"delta", &delta_},
                                        {"readout", &readout_},
                                        {"query labels", &query_labels_},
                                        {"key labels", &key_labels_},
                                        {"key padding", &padding_}}) {
      if (operand->given()) text << "\n  " << name << " " << operand->describe();
    }
    return text.str();
  }

  void clear() override { out_.clear(), maps_.clear(); }
  bool is_invalid() const override { return is_invalid_; }
  std::string result() const override { return out_.bytes() + maps_.bytes(); }

  void call(const std::string& isa, int threads) override {
    weft::AttentionParams p = p_;
    if (!(is_invalid_ && p.num_threads < 1)) p.num_threads = threads;
    weft::attention_workspace_bytes(p, isa);
    weft::attention_fwd_cpu(p, isa);
  }

  std::string fault(Draw& draw) const override {
    if (!out_.is_intact()) return "memory between the rows of `out` was written";
    const int64_t rows = p_.B * p_.Nq, work = p_.H * p_.Nk * (2 * p_.D + p_.M + 8) + 1;
    const int64_t few = std::max<int64_t>(kMostChecked / work, 1);
    for (int64_t i = 0; i < std::min(rows, few); ++i) {
      // the last row is where tiles end
      const int64_t at = rows <= few ? i : i == 0 ? rows - 1 : draw.between(0, rows - 1);
      const std::string found = fault_of_row(at / p_.Nq, at % p_.Nq);
      if (!found.empty()) return found;
    }
    return "";
  }

 private:
  void draw_sizes(Draw& draw) {
    p_.dtype = draw.pick({weft::Dtype::kFloat32, weft::Dtype::kFloat16, weft::Dtype::kBfloat16});
    const auto dimension = [&draw](int64_t high) { return draw.chance(0.02) ? 0 : draw.size(high); };
    p_.B = dimension(4), p_.H = dimension(6), p_.Nq = dimension(150);
    p_.Nk = draw.chance(0.5) ? dimension(520) : dimension(140);
    p_.D = draw.chance(0.3) ? draw.pick<int64_t>({1, 32, 40, 64, 80, 128, 160, 256}) : dimension(256);
    p_.M = draw.chance(0.5) ? 0 : draw.size(40);
    while (p_.B > 1 && p_.B * p_.H * (p_.Nq + p_.Nk) * p_.D > kMostElements) --p_.B;
    while (p_.H > 1 && p_.B * p_.H * (p_.Nq + p_.Nk) * p_.D > kMostElements) --p_.H;
    p_.Nq = std::min(p_.Nq, std::max<int64_t>(kMostWork / (p_.B * p_.H * p_.Nk * (2 * p_.D + p_.M) + 1), 1));
    p_.Hk = p_.H;
    if (p_.H && draw.chance(0.4)) {
      do p_.Hk = draw.between(1, p_.H);
      while (p_.H % p_.Hk != 0);
    }
    p_.scale = static_cast<float>(draw.pick({1.0, -1.0, 0.5, 0.0}) / std::sqrt(static_cast<double>(p_.D + 1)));
    if (draw.chance(0.7)) p_.Lq = draw.size(9), p_.Lk = draw.size(9);
    // more than are expanded for all tiles at once
    if (draw.chance(0.05)) p_.Lq = draw.between(1800, 2300), p_.Lk = draw.between(1, 2);
  }

  void draw_tables(Draw& draw) {
    const bool has_tables = draw.chance(0.6);
    for (const auto& [table, place] : {std::pair<Operand*, const float**>{&alpha_, &p_.alpha},
                                       {&beta_, &p_.beta},
                                       {&gamma_, &p_.gamma},
                                       {&delta_, &p_.delta}}) {
      if (!has_tables || draw.chance(0.5)) continue;
      *table = draw_shared(draw, Kind::kFloat32, p_.B, p_.Lq, p_.Lk);
      const double removed = table == &delta_ ? draw.pick({0.0, 0.1, 0.5, 1.0}) : 0.0;
      table->fill([&draw, removed] { return removed && draw.chance(removed) ? -kInfinity : draw.value(); });
      *place = table->data<float>();
    }
    p_.alpha_batch = alpha_.stride()[0], p_.beta_batch = beta_.stride()[0];
    p_.gamma_batch = gamma_.stride()[0], p_.delta_batch = delta_.stride()[0];
    const bool looks_up = p_.alpha || p_.beta || p_.gamma || p_.delta;

    const auto draw_labels = [&](Operand& labels, int64_t length, int64_t limit) {
      labels = draw_shared(draw, Kind::kInt32, p_.B, length, 1);
      // without a table they are not read
      labels.fill(
          [&] { return static_cast<double>(looks_up ? draw.between(0, limit - 1) : draw.pick({-1, 1 << 30})); });
    };
    if (draw.chance(0.7)) draw_labels(query_labels_, p_.Nq, p_.Lq);
    if (draw.chance(0.7)) draw_labels(key_labels_, p_.Nk, p_.Lk);
    p_.query_labels = query_labels_.data<int32_t>(), p_.query_labels_batch = query_labels_.stride()[0];
    p_.key_labels = key_labels_.data<int32_t>(), p_.key_labels_batch = key_labels_.stride()[0];

    if (draw.chance(0.4)) {
      padding_ = draw_shared(draw, Kind::kByte, p_.B, p_.Nk, 1);
      const double padded = draw.pick({0.0, 0.1, 0.5, 1.0});
      padding_.fill([&] { return draw.chance(padded) ? draw.pick({1.0, 255.0}) : 0.0; });
      p_.key_padding = padding_.data<uint8_t>(), p_.key_padding_batch = padding_.stride()[0];
    }
    if (p_.M) {
      readout_ = draw_shared(draw, Kind::kFloat32, p_.B, p_.Nk, p_.M);
      const double zero = draw.pick({0.0, 0.8, 1.0});
      for (int64_t b = 0; b < p_.B; ++b) {
        for (int64_t key = 0; key < p_.Nk; ++key) {
          const bool picked = !draw.chance(zero);
          for (int64_t m = 0; m < p_.M; ++m) readout_.set(picked ? draw.value() : 0.0, b, key, m);
        }
      }
      p_.readout = readout_.data<float>(), p_.readout_batch = readout_.stride()[0];
    }
    maps_ = Operand(Kind::kFloat32, {p_.B, p_.Nq, p_.M, 1}, {p_.Nq * p_.M, p_.M, 1, 0});
    p_.maps = maps_.data<float>();
  }

  // [B, N, H, D] with tokens or heads outermost, gaps, and for inputs strides of 0.
  Operand draw_head_rows(Draw& draw, int64_t tokens, int64_t heads, bool is_read) {
    const auto gap = [&draw] { return draw.chance(0.3) ? draw.between(1, 13) : 0; };
    const bool heads_within = draw.chance(0.6);
    const int inner = heads_within ? 2 : 1, outer = heads_within ? 1 : 2;
    const Axes size{p_.B, tokens, heads, p_.D};
    Axes stride{0, 0, 0, 1};
    stride[inner] = p_.D + gap();
    stride[outer] = size[inner] * stride[inner] + gap();
    stride[0] = size[outer] * stride[outer] + gap();
    for (int axis = 0; is_read && axis < 3; ++axis) {
      if (draw.chance(0.06)) stride[axis] = 0;
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (size[axis] == 1 && draw.chance(0.2)) stride[axis] = draw.any_stride();
    }
    return Operand(kind_of(p_.dtype), size, stride, draw.chance(0.4) ? draw.between(1, 33) : 0);
  }

  void draw_heads(Draw& draw) {
    const auto value = [&draw] { return draw.value(); };
    q_ = draw_head_rows(draw, p_.Nq, p_.H, true), q_.fill(value);
    k_ = draw_head_rows(draw, p_.Nk, p_.Hk, true), k_.fill(value);
    v_ = draw_head_rows(draw, p_.Nk, p_.Hk, true), v_.fill(value);
    out_ = draw_head_rows(draw, p_.Nq, p_.H, false);
    if (padding_.given() && draw.chance(0.5)) spread_nan(draw);
    const auto place = [](const Operand& x) { return weft::HeadStrides{x.stride()[0], x.stride()[1], x.stride()[2]}; };
    p_.q = q_.data<void>(), p_.k = k_.data<void>(), p_.v = v_.data<void>(), p_.out = out_.data<void>();
    p_.q_stride = place(q_), p_.k_stride = place(k_), p_.v_stride = place(v_), p_.out_stride = place(out_);
  }

  // Padding is often uninitialised memory.
  void spread_nan(Draw& draw) {
    const auto owns_its_keys = [](const Operand& x) { return x.stride()[0] && x.stride()[1] && x.stride()[2]; };
    for (int64_t b = 0; b < p_.B; ++b) {
      for (int64_t key = 0; key < p_.Nk; ++key) {
        if (!padding_.get(b, key) || draw.chance(0.3)) continue;
        for (int64_t head = 0; head < p_.Hk && p_.D; ++head) {
          for (Operand* x : {&k_, &v_}) {
            if (owns_its_keys(*x)) x->set(kNan, b, key, head, draw.between(0, p_.D - 1));
          }
        }
      }
    }
  }

  // One thing that must be refused before a pointer is followed.
  void spoil(Draw& draw) {
    constexpr int64_t kHuge = std::numeric_limits<int64_t>::max() / 2;
    is_invalid_ = true;
    const bool walks = p_.B > 1 && p_.Nq > 1 && p_.Nk;
    switch (draw.between(0, walks ? 8 : 6)) {
      case 0:
        p_.D = weft::kMaxHeadWidth + 1;
        break;
      case 1:
        p_.Nk = -1;
        break;
      case 2:
        p_.Nq = int64_t{1} << 31;
        break;
      case 3:
        p_.num_threads = 0;
        break;
      case 4:
        p_.scale = std::numeric_limits<float>::infinity();
        break;
      case 5:
        p_.dtype = static_cast<weft::Dtype>(draw.pick({-1, 3}));
        break;
      case 6:
        p_.Hk = p_.H ? p_.H + 1 : -1;  // no heads at all are a multiple of any number
        break;
      case 7:
        p_.out_stride.token = -1;
        break;
      default:
        p_.k_stride.batch = kHuge;
    }
  }

  static double look_up(const Operand& table, double absent, int64_t b, int64_t row, int64_t column) {
    return table.given() ? table.get(b, row, column) : absent;
  }

  std::string fault_of_row(int64_t b, int64_t query) const {
    const bool looks_up = p_.alpha || p_.beta || p_.gamma || p_.delta;
    const int64_t row = looks_up && query_labels_.given() ? static_cast<int64_t>(query_labels_.get(b, query)) : 0;
    std::vector<double> maps(p_.M), map_size(p_.M);
    for (int64_t head = 0; head < p_.H; ++head) {
      const int64_t key_head = head / (p_.H / p_.Hk);
      std::vector<double> logits(p_.Nk, -kInfinity);
      double high = -kInfinity, low = kInfinity;
      const auto column_of = [&](int64_t key) {
        return looks_up && key_labels_.given() ? static_cast<int64_t>(key_labels_.get(b, key)) : 0;
      };
      for (int64_t key = 0; key < p_.Nk; ++key) {
        if (padding_.given() && padding_.get(b, key)) continue;
        if (look_up(delta_, 0.0, b, row, column_of(key)) == -kInfinity) continue;
        double sum = 0;
        for (int64_t i = 0; i < p_.D; ++i) sum += q_.get(b, query, head, i) * k_.get(b, key, key_head, i);
        logits[key] = p_.scale * sum;
        high = std::max(high, logits[key]), low = std::min(low, logits[key]);
      }
      double largest = -kInfinity, total = 0;
      for (int64_t key = 0; key < p_.Nk; ++key) {
        if (logits[key] == -kInfinity) continue;
        const int64_t column = column_of(key);
        logits[key] = look_up(alpha_, 1.0, b, row, column) * logits[key] + look_up(delta_, 0.0, b, row, column) +
                      look_up(beta_, 0.0, b, row, column) * high + look_up(gamma_, 0.0, b, row, column) * low;
        largest = std::max(largest, logits[key]);
      }
      std::vector<double> out(p_.D), out_size(p_.D);
      for (double logit : logits) total += logit == -kInfinity ? 0.0 : std::exp(logit - largest);
      for (int64_t key = 0; key < p_.Nk; ++key) {
        if (logits[key] == -kInfinity) continue;
        const double share = std::exp(logits[key] - largest) / total;
        for (int64_t i = 0; i < p_.D; ++i) {
          out[i] += share * v_.get(b, key, key_head, i), out_size[i] += share * std::fabs(v_.get(b, key, key_head, i));
        }
        for (int64_t m = 0; m < p_.M; ++m) {
          const double term = share * readout_.get(b, key, m) / static_cast<double>(p_.H);
          maps[m] += term, map_size[m] += std::fabs(term);
        }
      }
      for (int64_t i = 0; i < p_.D; ++i) {
        const std::string where = "out[" + std::to_string(b) + ", " + std::to_string(query) + ", " +
                                  std::to_string(head) + ", " + std::to_string(i) + "]";
        const std::string found = compare(where, out_.get(b, query, head, i), out[i], out_size[i], step());
        if (!found.empty()) return found;
      }
    }
    for (int64_t m = 0; m < p_.M; ++m) {
      const std::string where =
          "maps[" + std::to_string(b) + ", " + std::to_string(query) + ", " + std::to_string(m) + "]";
      const std::string found = compare(where, maps_.get(b, query, m), maps[m], map_size[m], 1e-4);
      if (!found.empty()) return found;
    }
    return "";
  }

  // Logits of sizes up to 16 and their weights are rounded on the way, and the result.
  double step() const {
    return p_.dtype == weft::Dtype::kFloat32 ? 1e-4 : p_.dtype == weft::Dtype::kFloat16 ? 0x1p-10 : 0x1p-6;
  }

  static std::string compare(const std::string& where, double found, double right, double size, double step) {
    // a tiny sum may be a denormal number of the result's type, which is 0 to some processors' instructions
    if (std::fabs(found - right) <= step * size + 1e-7) return "";  // never true of a NaN
    std::ostringstream text;
    text << where << " is " << found << ", must be " << right << " within " << step * size;
    return text.str();
  }

  weft::AttentionParams p_;
  bool is_invalid_ = false;
  Operand q_, k_, v_, out_, alpha_, beta_, gamma_, delta_, readout_, query_labels_, key_labels_, padding_, maps_;
};

}  // namespace

std::unique_ptr<Case> draw_attention(Draw& draw) { return std::make_unique<AttentionCase>(draw); }

}  // namespace sanitize
