// parallel_for: every task once, no two at a time on one worker, and what a task throws reaches the caller. Cells are
// plain memory, so a task that runs twice and two threads with one number are a race.
#include <vector>

#include "case.h"
#include "weft/parallel.h"

namespace sanitize {
namespace {

struct Failure {};

class ParallelForCase : public Case {
 public:
  explicit ParallelForCase(Draw& draw) : tasks_(draw.chance(0.1) ? 0 : draw.size(300)) {
    if (tasks_ && draw.chance(0.2)) failing_ = draw.between(0, tasks_ - 1);
    clear();
  }

  std::string describe() const override {
    return "tasks " + std::to_string(tasks_) + " failing " + std::to_string(failing_);
  }

  void clear() override {
    runs_.assign(tasks_, 0);
    of_worker_.clear();
    has_failed_ = false;
  }

  void call(const std::string&, int threads) override {
    of_worker_.assign(threads, 0);
    try {
      weft::parallel_for(tasks_, threads, this, run);
    } catch (const Failure&) {
      has_failed_ = true;
    }
  }

  std::string fault(Draw&) const override {
    if (has_failed_ != (failing_ >= 0)) return "what a task threw did not reach the caller";
    int64_t total = 0, counted = 0;
    for (int64_t runs : runs_) {
      // after a failure the rest may be left out
      if (runs > 1 || (runs < 1 && !has_failed_)) return "a task ran " + std::to_string(runs) + " times";
      total += runs;
    }
    for (int64_t runs : of_worker_) counted += runs;
    return counted == total ? "" : "workers counted other tasks than ran";
  }

  std::string result() const override { return has_failed_ ? "" : std::string(runs_.begin(), runs_.end()); }

 private:
  static void run(void* context, int64_t task, int worker) {
    auto& self = *static_cast<ParallelForCase*>(context);
    ++self.runs_.at(task);
    ++self.of_worker_.at(worker);
    if (task == self.failing_) throw Failure{};
  }

  int64_t tasks_, failing_ = -1;
  bool has_failed_ = false;
  std::vector<int64_t> runs_, of_worker_;
};

}  // namespace

std::unique_ptr<Case> draw_parallel_for(Draw& draw) { return std::make_unique<ParallelForCase>(draw); }

}  // namespace sanitize
