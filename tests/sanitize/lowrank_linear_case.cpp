// Calls of lowrank_linear: kernels/lowrank_linear/reference.py says what they mean.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include "case.h"
#include "lowrank_linear/lowrank_linear.h"
#include "operand.h"

namespace sanitize {
namespace {

// Most multiply-adds of a case, elements of A and B, and multiply-adds that are done again in double.
constexpr int64_t kMostWork = 3'000'000, kMostElements = 60'000, kMostChecked = 60'000;

struct Layout {
  Axes stride{};
  int64_t offset = 0;
};

// Distances of [samples, rows, columns]. Where `by_row`, columns have stride 1, else rows. An operand that is only
// read may repeat entries by a stride of 0.
Layout draw_layout(Draw& draw, Axes size, bool by_row, bool is_read) {
  Layout layout;
  const int inner = by_row ? 2 : 1, outer = by_row ? 1 : 2;
  layout.stride[inner] = 1;
  layout.stride[outer] = size[inner] + (draw.chance(0.4) ? draw.between(1, 19) : 0);
  layout.stride[0] = size[outer] * layout.stride[outer] + (draw.chance(0.3) ? draw.between(1, 35) : 0);
  if (is_read && draw.chance(0.1)) layout.stride[0] = 0;
  if (is_read && draw.chance(0.05)) layout.stride[outer] = draw.pick<int64_t>({0, 1});
  for (int axis : {0, outer}) {
    if (size[axis] == 1 && draw.chance(0.3)) layout.stride[axis] = draw.any_stride();
  }
  if (draw.chance(0.4)) layout.offset = draw.between(1, 33);
  return layout;
}

class LowrankLinearCase : public Case {
 public:
  explicit LowrankLinearCase(Draw& draw) {
    draw_sizes(draw);
    draw_operands(draw);
    if (draw.chance(0.03)) spoil(draw);
  }

  std::string describe() const override {
    std::ostringstream text;
    text << "B " << p_.B << " N " << p_.N << " Cin " << p_.Cin << " Cout " << p_.Cout << " dtype "
         << static_cast<int>(p_.dtype) << " ranks";
    for (int64_t rank : p_.ranks) text << " " << rank;
    for (const auto& [name, operand] : {std::pair<const char*, const Operand*>{"x", &x_},
                                        {"weight", &weight_},
                                        {"bias", &bias_},
                                        {"down", &down_},
                                        {"up", &up_},
                                        {"gate", &gate_},
                                        {"residual", &residual_},
                                        {"base", &base_},
                                        {"out", &out_}}) {
      if (operand->given()) text << "\n  " << name << " " << operand->describe();
    }
    return text.str();
  }

  void clear() override { out_.clear(); }
  bool is_invalid() const override { return is_invalid_; }
  std::string result() const override { return out_.bytes(); }

  void call(const std::string& isa, int threads) override {
    weft::LowrankLinearParams p = p_;
    if (!(is_invalid_ && p.num_threads < 1)) p.num_threads = threads;
    weft::lowrank_linear_fwd_cpu(p, isa);
  }

  std::string fault(Draw& draw) const override {
    if (!out_.is_intact()) return "memory between the rows of `out` was written";
    if (p_.B == 0 || p_.N == 0) return "";
    const int64_t work = p_.Cin * (p_.Cout + ranks_) + ranks_ * p_.Cout + 1;
    const int64_t rows = p_.B * p_.N, few = std::max<int64_t>(kMostChecked / work, 1);
    for (int64_t i = 0; i < std::min(rows, few); ++i) {
      // the last row is where tiles end
      const int64_t at = rows <= few ? i : i == 0 ? rows - 1 : draw.between(0, rows - 1);
      const std::string found = fault_of_row(at / p_.N, at % p_.N);
      if (!found.empty()) return found;
    }
    return "";
  }

 private:
  void draw_sizes(Draw& draw) {
    p_.dtype = draw.pick({weft::Dtype::kFloat32, weft::Dtype::kFloat16, weft::Dtype::kBfloat16});
    const auto dimension = [&draw](int64_t high) { return draw.chance(0.02) ? 0 : draw.size(high); };
    p_.Cin = dimension(140), p_.Cout = dimension(200), p_.B = dimension(4);
    p_.N = draw.chance(0.4) ? draw.between(60, 300) : dimension(300);
    // so many tiles that W is packed as a whole
    if (draw.chance(0.15)) p_.B = draw.between(17, 24), p_.N = std::min<int64_t>(p_.N, 9);
    if (draw.chance(0.8)) {
      const int64_t concepts = draw.chance(0.7) ? draw.between(1, 8) : draw.between(1, 80);
      const int64_t most = draw.pick<int64_t>({1, 3, 4, 16, 40}), equal = draw.chance(0.5) ? draw.between(1, most) : 0;
      for (int64_t i = 0; i < concepts; ++i) p_.ranks.push_back(equal ? equal : draw.between(1, most));
    }
    for (int64_t rank : p_.ranks) ranks_ += rank;
    while (ranks_ * (p_.Cin + p_.Cout) > kMostElements) p_.Cin = (p_.Cin + 1) / 2, p_.Cout = (p_.Cout + 1) / 2;
    const int64_t work = p_.B * (p_.Cin * (p_.Cout + ranks_) + ranks_ * p_.Cout) + 1;
    p_.N = std::min(p_.N, std::max<int64_t>(kMostWork / work, 1));
  }

  Operand draw_matrix(Draw& draw, Axes size, bool by_row, bool is_read = true) {
    const Layout layout = draw_layout(draw, size, by_row, is_read);
    return Operand(kind_of(p_.dtype), size, layout.stride, layout.offset);
  }

  void draw_operands(Draw& draw) {
    const auto value = [&draw] { return draw.value(); };
    const auto filled = [&value](Operand operand) {
      operand.fill(value);
      return operand;
    };
    const Axes result{p_.B, p_.N, p_.Cout, 1};
    const bool as_rows = draw.chance(0.6) || p_.N <= 1;  // an image of one cell lies as rows do
    x_ = filled(draw_matrix(draw, {p_.B, p_.N, p_.Cin, 1}, draw.chance(0.6)));
    out_ = draw_matrix(draw, result, as_rows, false);
    if (draw.chance(0.8)) {
      weight_ = filled(draw_matrix(draw, {1, p_.Cout, p_.Cin, 1}, draw.chance(0.7)));
      if (draw.chance(0.5)) bias_ = filled(Operand(kind_of(p_.dtype), {p_.Cout, 1, 1, 1}, {1}, draw.between(0, 3)));
    } else {
      base_ = filled(draw_matrix(draw, result, as_rows));
    }
    if (draw.chance(0.3)) residual_ = filled(draw_matrix(draw, result, as_rows));
    if (ranks_) {
      down_ = filled(draw_matrix(draw, {1, ranks_, p_.Cin, 1}, draw.chance(0.7)));
      up_ = filled(draw_matrix(draw, {1, p_.Cout, ranks_, 1}, draw.chance(0.7)));
      if (draw.chance(0.85)) draw_gate(draw);
    }
    p_.x = matrices(x_), p_.weight = matrices(weight_), p_.down = matrices(down_), p_.up = matrices(up_);
    p_.gate = matrices(gate_), p_.residual = matrices(residual_), p_.base = matrices(base_), p_.out = matrices(out_);
    p_.bias = bias_.data<void>();
  }

  static weft::Matrices matrices(const Operand& operand) {
    if (!operand.given()) return {};
    return {operand.data<void>(), operand.stride()[0], operand.stride()[1], operand.stride()[2]};
  }

  // [B, N, K], any of the axes shared by a stride of 0, in any order of axes.
  void draw_gate(Draw& draw) {
    const int64_t concepts = static_cast<int64_t>(p_.ranks.size());
    const Axes size{p_.B, p_.N, concepts, 1};
    const bool shares_sample = draw.chance(0.3), shares_row = draw.chance(0.3), shares_concept = draw.chance(0.03);
    std::array<int, 3> order{0, 1, 2};
    if (draw.chance(0.4)) std::swap(order[1], order[2]);
    if (draw.chance(0.2)) std::swap(order[0], order[1]);
    Axes stride{};
    int64_t step = draw.chance(0.8) ? 1 : draw.between(2, 5);
    for (int axis = 2; axis >= 0; --axis) {
      const int which = order[axis];
      if ((which == 0 && shares_sample) || (which == 1 && shares_row) || (which == 2 && shares_concept)) continue;
      stride[which] = step;
      step = step * size[which] + (draw.chance(0.2) ? draw.between(1, 7) : 0);
    }
    for (int axis = 0; axis < 3; ++axis) {
      if (size[axis] == 1 && draw.chance(0.2)) stride[axis] = draw.any_stride();
    }
    gate_ = Operand(Kind::kFloat32, size, stride, draw.chance(0.3) ? draw.between(1, 9) : 0);
    const double open = draw.pick({0.0, 1.0, 0.02, 0.1, 0.3, 0.5, 0.55, 0.6, 0.65, 0.7, 0.9});
    const bool in_boxes = draw.chance(0.5), is_mask = draw.chance(0.5), varies = draw.chance(0.3);
    for (int64_t k = 0; k < concepts; ++k) {
      const double share = varies ? draw.pick({0.0, open, 1.0}) : open;
      for (int64_t b = 0; b < p_.B; ++b) {
        const int64_t begin = p_.N ? draw.between(0, p_.N - 1) : 0, end = begin + static_cast<int64_t>(share * p_.N);
        for (int64_t n = 0; n < p_.N; ++n) {
          const bool is_open = in_boxes ? n >= begin && n < end : draw.chance(share);
          gate_.set(is_open ? (is_mask ? 1.0 : draw.value()) : 0.0, b, n, k);
        }
      }
    }
  }

  // One thing that must be refused before a pointer is followed.
  void spoil(Draw& draw) {
    constexpr int64_t kHuge = std::numeric_limits<int64_t>::max() / 2;
    is_invalid_ = true;
    const bool walks_samples = p_.B > 1 && p_.N && p_.Cin && p_.Cout;
    switch (draw.between(0, walks_samples ? 7 : 4)) {
      case 0:
        p_.B = -1;
        break;
      case 1:
        p_.Cout = std::numeric_limits<int64_t>::min();
        break;
      case 2:
        p_.ranks.push_back(draw.pick<int64_t>({0, -3, kHuge}));
        break;
      case 3:
        p_.num_threads = 0;
        break;
      case 4:
        p_.dtype = static_cast<weft::Dtype>(draw.pick({-1, 3}));
        break;
      case 5:
        p_.x.row = p_.x.column = 2;
        break;
      case 6:
        p_.out.batch = -1;
        break;
      default:
        p_.x.batch = kHuge;
    }
  }

  double gate(int64_t b, int64_t n, int64_t k) const { return gate_.given() ? gate_.get(b, n, k) : 1.0; }

  std::string fault_of_row(int64_t b, int64_t n) const {
    // each value with the sum of its terms' sizes, which is what rounding is measured by
    std::vector<double> h(ranks_), h_size(ranks_);
    int64_t r = 0;
    for (size_t k = 0; k < p_.ranks.size(); ++k) {
      for (int64_t i = 0; i < p_.ranks[k]; ++i, ++r) {
        const double factor = gate(b, n, static_cast<int64_t>(k));
        for (int64_t c = 0; factor && c < p_.Cin; ++c) {
          const double term = x_.get(b, n, c) * down_.get(0, r, c) * factor;
          h[r] += term, h_size[r] += std::fabs(term);
        }
      }
    }
    const bool is_narrow = p_.dtype != weft::Dtype::kFloat32;
    const double step = !is_narrow ? 1e-5 : p_.dtype == weft::Dtype::kFloat16 ? 0x1p-10 : 0x1p-7;
    for (int64_t c = 0; c < p_.Cout; ++c) {
      double y = 0, size = 0;
      const auto add = [&y, &size](double term, double its_size) { y += term, size += its_size; };
      for (const Operand* addend : {&residual_, &base_}) {
        if (addend->given()) add(addend->get(b, n, c), std::fabs(addend->get(b, n, c)));
      }
      if (bias_.given()) add(bias_.get(c), std::fabs(bias_.get(c)));
      for (int64_t i = 0; weight_.given() && i < p_.Cin; ++i) {
        const double term = x_.get(b, n, i) * weight_.get(0, c, i);
        add(term, std::fabs(term));
      }
      for (int64_t i = 0; i < ranks_; ++i) {
        if (h_size[i]) add(h[i] * up_.get(0, c, i), h_size[i] * std::fabs(up_.get(0, c, i)));
      }
      const double found = out_.get(b, n, c);
      if (std::fabs(found - y) <= step * size) continue;  // never true of a NaN
      std::ostringstream text;
      text << "out[" << b << ", " << n << ", " << c << "] is " << found << ", must be " << y << " within "
           << step * size;
      return text.str();
    }
    return "";
  }

  weft::LowrankLinearParams p_;
  int64_t ranks_ = 0;
  bool is_invalid_ = false;
  Operand x_, weight_, bias_, down_, up_, gate_, residual_, base_, out_;
};

}  // namespace

std::unique_ptr<Case> draw_lowrank_linear(Draw& draw) { return std::make_unique<LowrankLinearCase>(draw); }

}  // namespace sanitize
