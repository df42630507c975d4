// The door between Python and the compiled kernels. Importing it starts no device and no thread.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "weft/build_config.h"
#include "weft/cpu_features.h"
#ifdef WEFT_HAS_CUDA
#include "device/device.h"
#endif

namespace py = pybind11;

namespace {

#ifdef __clang__
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

py::dict cpu_features() {
  py::dict features;
  for (const auto& feature : weft::cpu_features()) features[feature.name] = feature.usable;
  return features;
}

py::dict instruction_sets() {
  py::dict sets;
  for (const auto& set : weft::instruction_sets()) sets[set.name] = set.usable;
  return sets;
}

py::tuple split(const std::string& words) { return py::tuple(py::str(words).attr("split")()); }

py::dict build_info() {
  py::dict info;
  info["compiler"] = kCompiler;
  info["instruction_sets"] = py::tuple(instruction_sets().attr("keys")());
#ifdef WEFT_HAS_CUDA
  info["cuda"] = WEFT_CUDA_VERSION;
  info["cuda_archs"] = split(WEFT_CUDA_ARCHS);
#else
  info["cuda"] = py::none();
  info["cuda_archs"] = split("");
#endif
  return info;
}

#ifdef WEFT_HAS_CUDA
int value_or_throw(const weft::CudaAnswer& answer) {
  if (answer.error) throw std::runtime_error(answer.error);
  return answer.value;
}
#endif

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of weft. Pointers, sizes, strides and a stream come in; no torch header is included.";

  m.def("cpu_features", &cpu_features, "Extensions of this processor by compiler name: {name: usable}.");
  m.def("instruction_sets", &instruction_sets, "Instruction sets built, weakest first: {name: usable here}.");
  m.def("build_info", &build_info, "How this module was built: compiler, instruction sets, CUDA version and archs.");
#ifdef WEFT_HAS_CUDA
  m.def(
      "cuda_runtime_version", [] { return value_or_throw(weft::cuda_runtime_version()); },
      "1000 * major + 10 * minor of the CUDA runtime linked in.");
  m.def(
      "cuda_driver_version", [] { return value_or_throw(weft::cuda_driver_version()); },
      "Newest CUDA version the driver takes, same scale; 0 without a driver.");
  m.def(
      "cuda_device_count", [] { return value_or_throw(weft::cuda_device_count()); },
      "Number of CUDA devices; RuntimeError with the runtime's message when it cannot tell.");
#endif
}
