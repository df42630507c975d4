// One call of a native entry point, with its operands and what must come of it.
#pragma once

#include <memory>
#include <string>

#include "draw.h"

namespace sanitize {

class Case {
 public:
  virtual ~Case() = default;

  virtual std::string describe() const = 0;
  // Sets the outputs back to what no kernel writes.
  virtual void clear() = 0;
  // Calls the entry point; what it throws comes through.
  virtual void call(const std::string& isa, int threads) = 0;
  // Says what is wrong with the outputs, by sums in double over some rows; empty if nothing is.
  virtual std::string fault(Draw& draw) const = 0;
  // The outputs' bytes, which no thread count may change.
  virtual std::string result() const = 0;
  // Whether the call must be refused by std::invalid_argument.
  virtual bool is_invalid() const { return false; }
};

std::unique_ptr<Case> draw_attention(Draw& draw);
std::unique_ptr<Case> draw_lowrank_linear(Draw& draw);
std::unique_ptr<Case> draw_parallel_for(Draw& draw);

}  // namespace sanitize
