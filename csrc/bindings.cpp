// The bindings between Python and the compiled kernels. Importing them starts no device and no thread.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "lowrank_linear/lowrank_linear.h"
#include "weft/build_config.h"
#include "weft/cpu_features.h"
#include "weft/parallel.h"
#ifdef WEFT_HAS_CUDA
#include "attention/attention_cuda.h"
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

using Strides = std::array<int64_t, 4>;     // batch, token, head, last axis
using BatchTable = std::array<int64_t, 2>;  // pointer (0 = absent), batch stride (0 = shared)
template <class T>
T* pointer(int64_t address) {
  return reinterpret_cast<T*>(static_cast<intptr_t>(address));
}

weft::HeadStrides head_strides(const char* name, const Strides& s) {
  if (s[3] != 1) throw std::invalid_argument(std::string("attention: `") + name + "` must have unit last stride");
  return {s[0], s[1], s[2]};
}

using Pointers = std::array<int64_t, 4>;    // q, k, v, out
using AllStrides = std::array<Strides, 4>;  // likewise
using Sizes = std::array<int64_t, 9>;       // B, Nq, Nk, H, Hk, D, M, Lq, Lk
using Tables = std::array<BatchTable, 8>;   // alpha, beta, gamma, delta, readout, two labels, key_padding

void set_sizes(weft::AttentionParams& p, const Sizes& sizes) {
  const auto& [B, Nq, Nk, H, Hk, D, M, Lq, Lk] = sizes;
  p.B = B, p.Nq = Nq, p.Nk = Nk, p.H = H, p.Hk = Hk, p.D = D, p.M = M, p.Lq = Lq, p.Lk = Lk;
}

weft::AttentionParams attention_params(const Pointers& pointers, const AllStrides& strides, const Sizes& sizes,
                                       const Tables& tables, int64_t maps, float scale, int dtype) {
  weft::AttentionParams p;
  p.q = pointer<void>(pointers[0]);
  p.k = pointer<void>(pointers[1]);
  p.v = pointer<void>(pointers[2]);
  p.out = pointer<void>(pointers[3]);
  p.q_stride = head_strides("q", strides[0]);
  p.k_stride = head_strides("k", strides[1]);
  p.v_stride = head_strides("v", strides[2]);
  p.out_stride = head_strides("out", strides[3]);
  set_sizes(p, sizes);
  p.alpha = pointer<float>(tables[0][0]), p.alpha_batch = tables[0][1];
  p.beta = pointer<float>(tables[1][0]), p.beta_batch = tables[1][1];
  p.gamma = pointer<float>(tables[2][0]), p.gamma_batch = tables[2][1];
  p.delta = pointer<float>(tables[3][0]), p.delta_batch = tables[3][1];
  p.readout = pointer<float>(tables[4][0]), p.readout_batch = tables[4][1];
  p.query_labels = pointer<int32_t>(tables[5][0]), p.query_labels_batch = tables[5][1];
  p.key_labels = pointer<int32_t>(tables[6][0]), p.key_labels_batch = tables[6][1];
  p.key_padding = pointer<uint8_t>(tables[7][0]), p.key_padding_batch = tables[7][1];
  p.maps = pointer<float>(maps);
  p.scale = scale;
  p.dtype = static_cast<weft::Dtype>(dtype);
  return p;
}

void attention_fwd_cpu(const Pointers& pointers, const AllStrides& strides, const Sizes& sizes, const Tables& tables,
                       int64_t maps, float scale, int dtype, int num_threads, const std::string& isa) {
  weft::AttentionParams p = attention_params(pointers, strides, sizes, tables, maps, scale, dtype);
  p.num_threads = num_threads;
  weft::attention_fwd_cpu(p, isa);
}

using Stack = std::array<int64_t, 4>;  // pointer (0 = absent), strides of batch, row, column

weft::Matrices matrices(const Stack& s) { return {pointer<void>(s[0]), s[1], s[2], s[3]}; }

void lowrank_linear_fwd_cpu(const std::array<Stack, 8>& stacks, int64_t bias, const std::array<int64_t, 4>& sizes,
                            const std::vector<int64_t>& ranks, int dtype, int num_threads, const std::string& isa) {
  weft::LowrankLinearParams p;
  weft::Matrices* const places[] = {&p.x, &p.weight, &p.down, &p.up, &p.gate, &p.residual, &p.base, &p.out};
  for (size_t i = 0; i < stacks.size(); ++i) *places[i] = matrices(stacks[i]);
  p.bias = pointer<void>(bias);
  const auto& [B, N, Cin, Cout] = sizes;
  p.B = B, p.N = N, p.Cin = Cin, p.Cout = Cout;
  p.ranks = ranks;
  p.dtype = static_cast<weft::Dtype>(dtype);
  p.num_threads = num_threads;
  weft::lowrank_linear_fwd_cpu(p, isa);
}

#ifdef WEFT_HAS_CUDA
void attention_fwd_cuda(const Pointers& pointers, const AllStrides& strides, const Sizes& sizes, const Tables& tables,
                        int64_t maps, float scale, int dtype, int64_t workspace, int64_t workspace_bytes, int device,
                        int64_t stream) {
  weft::attention_fwd_cuda(attention_params(pointers, strides, sizes, tables, maps, scale, dtype),
                           pointer<void>(workspace), workspace_bytes, device, pointer<void>(stream));
}

int64_t attention_cuda_workspace_bytes(const Sizes& sizes) {
  weft::AttentionParams p;
  set_sizes(p, sizes);
  return weft::attention_cuda_workspace_bytes(p);
}

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
  m.def("limit_instruction_sets", &weft::limit_instruction_sets, py::arg("strongest"),
        "Count every instruction set beyond this one as unusable, in the whole process and for good.");
  m.def("build_info", &build_info, "How this module was built: compiler, instruction sets, CUDA version and archs.");
  m.def("parallel_runtime", &weft::parallel_runtime,
        "Who runs CPU kernels' threads: the path of the process's OpenMP runtime, or 'std::thread'.");
  m.def("attention_fwd_cpu", &attention_fwd_cpu, py::arg("pointers"), py::arg("strides"), py::arg("sizes"),
        py::arg("tables"), py::arg("maps"), py::arg("scale"), py::arg("dtype"), py::arg("num_threads"),
        py::arg("isa") = "auto", py::call_guard<py::gil_scoped_release>(),
        "Fills out and maps. pointers and strides: q, k, v, out; sizes: B, Nq, Nk, H, D, M, Lq, Lk; tables: (pointer, "
        "batch stride) of alpha, beta, gamma, delta, readout, query_labels, key_labels, key_padding; dtype: 0 fp32, "
        "1 fp16, 2 bf16.");
  m.def("lowrank_linear_fwd_cpu", &lowrank_linear_fwd_cpu, py::arg("stacks"), py::arg("bias"), py::arg("sizes"),
        py::arg("ranks"), py::arg("dtype"), py::arg("num_threads"), py::arg("isa") = "auto",
        py::call_guard<py::gil_scoped_release>(),
        "Fills out. stacks: (pointer, strides of batch, row and column) of x, weight, down, up, gate, residual, base, "
        "out; a pointer of 0 is an absent one; sizes: B, N, Cin, Cout; dtype: 0 fp32, 1 fp16, 2 bf16.");
#ifdef WEFT_HAS_CUDA
  m.def("attention_fwd_cuda", &attention_fwd_cuda, py::arg("pointers"), py::arg("strides"), py::arg("sizes"),
        py::arg("tables"), py::arg("maps"), py::arg("scale"), py::arg("dtype"), py::arg("workspace"),
        py::arg("workspace_bytes"), py::arg("device"), py::arg("stream"), py::call_guard<py::gil_scoped_release>(),
        "Queues out and maps on a stream of a device. Arguments as attention_fwd_cpu; dtype: 1 fp16, 2 bf16; "
        "workspace: device memory of attention_cuda_workspace_bytes(sizes); stream: a cudaStream_t.");
  m.def("attention_cuda_workspace_bytes", &attention_cuda_workspace_bytes, py::arg("sizes"),
        "Bytes of device memory that attention_fwd_cuda needs beside its arguments.");
  m.def(
      "cuda_runtime_version", [] { return value_or_throw(weft::cuda_runtime_version()); },
      "1000 * major + 10 * minor of the CUDA runtime linked in.");
  m.def(
      "cuda_driver_version", [] { return value_or_throw(weft::cuda_driver_version()); },
      "Newest CUDA version the driver takes, same scale; 0 without a driver.");
  m.def(
      "cuda_device_count", [] { return value_or_throw(weft::cuda_device_count()); },
      "Number of CUDA devices; RuntimeError with the runtime's message when it cannot count them.");
#endif
}
