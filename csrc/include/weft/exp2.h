// Coefficients shared by every width's exp2.
#pragma once

namespace weft {
namespace {

// 2^f = 1 + f (c0 + f (c1 + ...)) on [0, 1): least largest relative error with the value at 0 held at exactly 1,
// 2.0e-9 in exact arithmetic and 6.5e-8 evaluated in fp32. One degree less gives 1.4e-7, more than a rounding step.
constexpr float kExp2[6] = {0.693147063f, 0.240229309f, 0.0554852821f, 0.00967545155f, 0.0012467847f, 0.000216129149f};

}  // namespace
}  // namespace weft
