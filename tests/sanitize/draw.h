// Random choices of one case: a function of (seed, op, index) alone, the same on every machine.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace sanitize {

// splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195), public domain.
class Draw {
 public:
  Draw(uint64_t seed, const std::string& op, int64_t index) : state_(seed) {
    for (char letter : op) state_ = next() ^ static_cast<unsigned char>(letter);
    state_ = next() ^ static_cast<uint64_t>(index);
  }

  // Both ends included.
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(double probability) { return static_cast<double>(next() >> 11) * 0x1p-53 < probability; }

  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }

  // Mostly small, now and then up to `high`: most faults need an edge, not a size.
  int64_t size(int64_t high) { return chance(0.7) ? between(1, high < 20 ? high : 20) : between(1, high); }

  // The distance along an axis that is never used means nothing: it may be anything but 1, which would pick an order.
  int64_t any_stride() { return pick<int64_t>({0, 9, -5, int64_t{1} << 60}); }

  // A multiple of 1/64 in [-1, 1], which every storage type holds exactly.
  double value() { return static_cast<double>(between(-64, 64)) / 64; }

 private:
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace sanitize
