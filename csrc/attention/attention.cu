// Chooses the kernels of one attention and queues them: [mark what is read] -> attend -> [mean over heads].
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>

#include "attention/attention_cuda.h"
#include "attention/cuda/instance.h"
#include "attention/cuda/instances/instances.h"
#include "attention/cuda/readout.cuh"
#include "weft/workspace.h"

namespace weft {

#define WEFT_DECLARE(scalar, width, name) extern const CudaInstance name;
WEFT_FOR_EACH_CUDA_INSTANCE(WEFT_DECLARE)
#undef WEFT_DECLARE

namespace {

// What the system keeps of each block's shared memory (CUDA programming guide, "Shared Memory", 8.x and newer).
constexpr int64_t kReservedBytes = 1 << 10;
// Offsets inside a tile of at most 256 rows are int.
constexpr int64_t kMaxTokenStride = INT32_MAX / 256, kMaxColumns = 1 << 16;
constexpr int kMaxDevices = 64;

int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

std::string number(int64_t x) { return std::to_string(x); }

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("attention: " + what); }

void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  // the error is reported once; the next caller that asks CUDA for the last one must not find it
  cudaGetLastError();
  throw std::runtime_error(std::string("attention: CUDA: ") + doing + ": " + cudaGetErrorString(status));
}

struct Device {
  int multiprocessors, shared_per_block, shared_per_multiprocessor, major;
};

const Device& device_properties(int device) {
  static Device known[kMaxDevices];
  static std::once_flag asked[kMaxDevices];
  std::call_once(asked[device], [device] {
    const auto ask = [device](cudaDeviceAttr attribute) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, attribute, device), "asking for the device's limits");
      return value;
    };
    known[device] = {ask(cudaDevAttrMultiProcessorCount), ask(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                     ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor), ask(cudaDevAttrComputeCapabilityMajor)};
  });
  return known[device];
}

// Makes `device` current for as long as it lives.
class DeviceScope {
 public:
  explicit DeviceScope(int device) : wanted_(device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != wanted_) check(cudaSetDevice(wanted_), "choosing the device");
  }
  ~DeviceScope() {
    if (before_ != wanted_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0, wanted_;
};

// Lets a CUDA graph capture a first call, for as long as it lives. What such a call prepares (attributes of a kernel,
// code that the runtime loads late) goes to no stream and is harmless; CUDA refuses it all the same while it captures.
class RelaxedCapture {
 public:
  RelaxedCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "relaxing the capture of a graph"); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

const CudaInstance& find_instance(const AttentionParams& p) {
  constexpr Dtype Half = Dtype::kFloat16, Bfloat = Dtype::kBfloat16;
#define WEFT_MATCH(scalar, width, name) \
  if (p.dtype == scalar && p.D == width) return name;
  WEFT_FOR_EACH_CUDA_INSTANCE(WEFT_MATCH)
#undef WEFT_MATCH
  refuse("no CUDA kernel for D = " + number(p.D) + " and dtype code " + number(static_cast<int>(p.dtype)) +
         "; D may be 40, 64, 72, 80, 88, 96, 112, 128, 160 or 256, dtype float16 or bfloat16");
}

bool is_ranged(const AttentionParams& p) { return p.beta || p.gamma; }

bool is_edited(const AttentionParams& p) { return is_ranged(p) || p.alpha || p.delta || p.key_padding; }

// What edit.cuh lays out.
int64_t table_bytes(const AttentionParams& p) {
  return is_edited(p) ? p.Lq * (p.Lk + 1) * (is_ranged(p) ? 2 : 1) * static_cast<int64_t>(sizeof(float2)) : 0;
}

void check_limits(const AttentionParams& p) {
  if (p.M > kMaxColumns) refuse("M must be at most " + number(kMaxColumns) + " on CUDA; got " + number(p.M));
  for (const HeadStrides& strides : {p.q_stride, p.k_stride, p.v_stride, p.out_stride}) {
    if (strides.token <= kMaxTokenStride) continue;
    refuse("strides from token to token must be at most " + number(kMaxTokenStride) + " on CUDA; got " +
           number(strides.token));
  }
  // either could overflow the product
  if (p.Lq < 1 || p.Lk < 1 || p.Lq > kMaxCudaTableBytes || p.Lk > kMaxCudaTableBytes ||
      table_bytes(p) > kMaxCudaTableBytes) {
    refuse("tables must fit " + number(kMaxCudaTableBytes) +
           " bytes of shared memory on CUDA; got Lq = " + number(p.Lq) + ", Lk = " + number(p.Lk));
  }
}

bool is_aligned(const void* pointer, const HeadStrides& strides) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address % 16 == 0 && strides.batch % 8 == 0 && strides.token % 8 == 0 && strides.head % 8 == 0;
}

int64_t read_words(const AttentionParams& p) { return ceil_div(p.Nk, kKeysPerWord); }

// A word says which keys are read, the next word which of them are not finite.
int64_t read_mask_words(const AttentionParams& p) { return 2 * read_words(p); }

struct Workspace {
  Span<float> head_maps;     // [B, H, Nq, M], empty for one head, whose maps are the result
  Span<uint32_t> read_mask;  // [B, words, 2], of long keys

  Workspace(const AttentionParams& p, Carver& carver) {
    const int64_t rows = multiply_sizes(multiply_sizes(p.B, p.H), p.Nq);
    head_maps = carver.take<float>(p.H > 1 ? rows : 0, p.M);
    read_mask = carver.take<uint32_t>(p.M ? p.B : 0, read_mask_words(p));
  }
};

// Lets a kernel have all the shared memory there is, once a device.
void prepare(const CudaKernel& kernel, const Device& limits, int device) {
  const uint64_t bit = uint64_t{1} << device;
  if (kernel.prepared.load(std::memory_order_acquire) & bit) return;
  const void* function = reinterpret_cast<const void*>(kernel.function);
  const char* doing = "asking for shared memory";
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.shared_per_block), doing);
  check(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, 100), doing);
  kernel.prepared.fetch_or(bit, std::memory_order_release);
}

template <class... Expected, class... Given>
void launch(void (*kernel)(Expected...), int64_t blocks, int64_t shared_bytes, cudaStream_t stream,
            Given... arguments) {
  if (blocks > INT32_MAX) refuse("B * H * Nq needs more thread blocks than CUDA can number: " + number(blocks));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "launching");
}

struct Choice {
  const CudaKernel& kernel;
  bool is_short;
  int64_t shared_bytes;
};

// The first kernel that holds the keys and fits. The tables always fit with the long one (kMaxCudaTableBytes).
Choice choose(const CudaInstance& instance, const AttentionParams& p, const Device& limits) {
  const CudaKernels& kernels = is_edited(p) ? instance.edited : instance.plain;
  for (const CudaKernel& kernel : kernels.short_kernels) {
    const int64_t weights = ceil_div(p.M, 8) * 8 * (kernel.keys + 8) * static_cast<int64_t>(sizeof(float));
    const int64_t bytes = kernel.shared_bytes + table_bytes(p) + weights;
    if (p.Nk <= kernel.keys && bytes <= limits.shared_per_block) return {kernel, true, bytes};
  }
  return {kernels.long_kernel, false, kernels.long_kernel.shared_bytes + table_bytes(p)};
}

void take_mean(const float* head_maps, const AttentionParams& p, cudaStream_t stream) {
  const int heads = static_cast<int>(p.H);
  const int64_t size = p.Nq * p.M;
  if (size % 4 == 0 && reinterpret_cast<uintptr_t>(p.maps) % 16 == 0) {
    launch(&mean_over_heads_kernel<float4>, ceil_div(p.B * size / 4, kThreads), 0, stream,
           reinterpret_cast<const float4*>(head_maps), reinterpret_cast<float4*>(p.maps), size / 4, heads,
           p.B * size / 4);
  } else {
    launch(&mean_over_heads_kernel<float>, ceil_div(p.B * size, kThreads), 0, stream, head_maps, p.maps, size, heads,
           p.B * size);
  }
}

}  // namespace

int64_t attention_cuda_workspace_bytes(const AttentionParams& p) {
  Carver carver;
  Workspace(p, carver);
  return carver.bytes();
}

void attention_fwd_cuda(const AttentionParams& p, void* workspace, int64_t workspace_bytes, int device,
                        void* stream_address) {
  check_attention_layout(p);
  check_limits(p);
  const CudaInstance& instance = find_instance(p);
  const int64_t needed = attention_cuda_workspace_bytes(p);
  if (workspace_bytes < needed || (needed && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 16))) {
    refuse("`workspace` must have " + number(needed) + " bytes at a multiple of 16; got " + number(workspace_bytes));
  }
  if (device < 0 || device >= kMaxDevices) {
    refuse("`device` must be 0 to " + number(kMaxDevices - 1) + "; got " + number(device));
  }
  if (p.B == 0 || p.Nq == 0 || p.H == 0) return;

  const DeviceScope scope(device);
  const RelaxedCapture relaxed;
  const Device& limits = device_properties(device);
  if (limits.major < 8) {
    throw std::runtime_error("attention: CUDA: needs compute capability 8.0; device " + number(device) + " has " +
                             number(limits.major) + ".x");
  }
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_address);

  CudaCall call{};
  call.p = p;
  call.heads_per_key_head = static_cast<int>(p.H / p.Hk);
  call.ranged = is_ranged(p);
  call.tables_bytes = static_cast<int>(table_bytes(p));
  call.aligned = is_aligned(p.q, p.q_stride) && is_aligned(p.k, p.k_stride) && is_aligned(p.v, p.v_stride) &&
                 is_aligned(p.out, p.out_stride);
  const bool one_head = p.H == 1;
  Carver carver(Span<char>{static_cast<char*>(workspace), needed});
  const Workspace parts(p, carver);
  call.head_maps = one_head ? p.maps : parts.head_maps.data;
  call.read_mask = parts.read_mask.data;
  call.read_mask_batch = p.readout_batch ? read_mask_words(p) : 0;

  const Choice choice = choose(instance, p, limits);
  const CudaKernel& kernel = choice.kernel;
  const int64_t pairs = p.B * p.H;
  if (!choice.is_short) {
    call.chunks = static_cast<int>(ceil_div(p.Nq, kernel.rows));
    if (p.M) {
      launch(&mark_read_blocks_kernel<uint32_t>, read_words(p) * (p.readout_batch ? p.B : 1), 2 * sizeof(uint32_t),
             stream, p.readout, p.readout_batch, static_cast<int>(p.Nk), static_cast<int>(p.M), parts.read_mask.data);
    }
  } else {
    // as many blocks as the device holds at once, each with its share of the queries
    const int64_t fitting = limits.shared_per_multiprocessor / (choice.shared_bytes + kReservedBytes);
    const int64_t resident = limits.multiprocessors * std::clamp<int64_t>(fitting, 1, kernel.blocks);
    const int64_t useful = ceil_div(p.Nq, kWarps * kernel.rows);
    call.chunks = static_cast<int>(std::clamp<int64_t>(resident / pairs, 1, useful));
  }

  prepare(kernel, limits, device);
  launch(kernel.function, pairs * call.chunks, choice.shared_bytes, stream, call);
  if (p.M && !one_head) take_mean(call.head_maps, p, stream);
}

}  // namespace weft
