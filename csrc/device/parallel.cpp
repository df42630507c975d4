// The host's OpenMP runtime, found in the process rather than linked; std::thread where there is none.
#include "weft/parallel.h"

#include <dlfcn.h>
#if defined(__linux__)
#include <link.h>
#endif

#include <atomic>
#include <cstring>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace weft {
namespace {

// the entry point compilers call for `#pragma omp parallel`; part of libgomp's stable interface
using EnterParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Runtime {
  EnterParallel enter = nullptr;
  std::string path;
};

#if defined(__linux__)
int note_runtime(dl_phdr_info* info, size_t, void* found) {
  const char* name = info->dlpi_name;
  const char* file = std::strrchr(name, '/');
  file = file ? file + 1 : name;
  const bool is_openmp =
      !std::strncmp(file, "libgomp", 7) || !std::strncmp(file, "libomp", 6) || !std::strncmp(file, "libiomp", 7);
  if (is_openmp) static_cast<std::vector<std::string>*>(found)->push_back(name);
  return 0;
}

std::vector<std::string> loaded_runtimes() {
  std::vector<std::string> found;
  dl_iterate_phdr(note_runtime, &found);
  // several packages bring their own copy; the one beside torch is the one whose threads are warm
  for (size_t i = 1; i < found.size(); ++i) {
    if (found[i].find("/torch") != std::string::npos) std::swap(found[0], found[i]);
  }
  return found;
}
#else
std::vector<std::string> loaded_runtimes() { return {}; }
#endif

Runtime find_runtime() {
  for (const std::string& path : loaded_runtimes()) {
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!library) continue;
    // never closed: the workers may outlive every other holder of the library
    if (void* symbol = dlsym(library, "GOMP_parallel")) return {reinterpret_cast<EnterParallel>(symbol), path};
    dlclose(library);
  }
  if (void* symbol = dlsym(RTLD_DEFAULT, "GOMP_parallel")) {
    Dl_info info;
    return {reinterpret_cast<EnterParallel>(symbol), dladdr(symbol, &info) ? info.dli_fname : "OpenMP"};
  }
  return {};
}

// Found once and kept; a process that has none yet is asked again, since torch may be imported later.
const Runtime& runtime() {
  static std::atomic<const Runtime*> kept{nullptr};
  if (const Runtime* known = kept.load(std::memory_order_acquire)) return *known;
  static const Runtime none;
  Runtime now = find_runtime();
  if (!now.enter) return none;
  const Runtime* fresh = new Runtime(std::move(now));
  const Runtime* before = nullptr;
  if (kept.compare_exchange_strong(before, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *before;
}

struct Region {
  int64_t tasks;
  void* context;
  Task run;
  std::atomic<int64_t> next{0};
  std::atomic<int> workers{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error{};  // of the first task that failed
};

void work(void* data) {
  Region& region = *static_cast<Region*>(data);
  const int worker = region.workers.fetch_add(1, std::memory_order_relaxed);
  try {
    while (!region.failed.load(std::memory_order_relaxed)) {
      const int64_t task = region.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= region.tasks) return;
      region.run(region.context, task, worker);
    }
  } catch (...) {
    // whatever it is: nothing may leave a thread of the runtime, or the process ends
    if (!region.failed.exchange(true)) region.error = std::current_exception();
  }
}

void start_threads(int threads, Region& region) {
  std::vector<std::thread> workers;
  try {
    for (int i = 1; i < threads; ++i) workers.emplace_back(work, &region);
  } catch (const std::system_error&) {
    // the system gives no more threads: those that run take all tasks
  }
  work(&region);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace

void parallel_for(int64_t tasks, int threads, void* context, Task run) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) run(context, task, 0);
    return;
  }
  Region region{tasks, context, run};
  if (EnterParallel enter = runtime().enter) {
    enter(work, &region, static_cast<unsigned>(threads), 0);
  } else {
    start_threads(threads, region);
  }
  if (region.error) std::rethrow_exception(region.error);
}

const char* parallel_runtime() { return runtime().enter ? runtime().path.c_str() : "std::thread"; }

}  // namespace weft
