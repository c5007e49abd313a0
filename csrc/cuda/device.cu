#include "cuda/device.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace dhvt {
namespace {

// Throws what went wrong; where the device has no code, with what was built and what was found.
void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else the next check would find it again
  int device;
  cudaDeviceProp found;
  if ((error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) &&
      cudaGetDevice(&device) == cudaSuccess && cudaGetDeviceProperties(&found, device) == cudaSuccess)
    STD_TORCH_CHECK(false, "dhvt_kernels: the library has no code for device ", device, " (", found.name, ", sm_",
                    found.major, found.minor, "); it was built for ", DHVT_CUDA_ARCHITECTURES,
                    ". Build it again with TORCH_CUDA_ARCH_LIST=", found.major, ".", found.minor);
  STD_TORCH_CHECK(false, "dhvt_kernels: ", doing, ": ", cudaGetErrorString(error));
}

// libtorch_cuda is there already when a CUDA tensor is; linking it would tie the library to it.
void* current_stream(int device) {
  using Get = int32_t (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    STD_TORCH_CHECK(symbol, "dhvt_kernels: torch has no aoti_torch_get_current_cuda_stream; is it a build with CUDA?");
    return reinterpret_cast<Get>(symbol);
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == 0, "dhvt_kernels: no current stream on device ", device);
  return stream;
}

}  // namespace

DeviceScope::DeviceScope(const Tensor& on) : device_(on.get_device_index()) {
  stream_ = current_stream(device_);
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (before_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
  if (before_ != device_) cudaSetDevice(before_);
}

void DeviceScope::allow_shared(const void* kernel, size_t bytes) const {
  constexpr size_t kAlways = 48 << 10;
  if (bytes <= kAlways) return;
  // All that there is: another thread may be about to launch the same kernel with more.
  const int most = int(std::max(bytes, most_shared()));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "shared memory");
}

size_t DeviceScope::most_shared() const {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_), "shared memory");
  return size_t(bytes);
}

int64_t DeviceScope::cache() const {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device_), "cudaDeviceGetAttribute");
  return bytes;
}

int64_t DeviceScope::resident(const void* kernel, int threads, size_t shared) const {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int, size_t>, int64_t> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::tuple key{device_, kernel, threads, shared};
  if (const auto found = known.find(key); found != known.end()) return found->second;
  int cooperative = 0, processors = 0, blocks = 0;
  check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device_), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device_), "cudaDeviceGetAttribute");
  allow_shared(kernel, shared);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared), "occupancy");
  STD_TORCH_CHECK(cooperative && blocks > 0, "dhvt_kernels: device ", device_, " takes no cooperative launches");
  return known[key] = int64_t(blocks) * processors;
}

void DeviceScope::check_launch() const { check(cudaGetLastError(), "launch"); }

}  // namespace dhvt

extern "C" __attribute__((visibility("default"))) const char* dhvt_cuda_architectures() {
  return DHVT_CUDA_ARCHITECTURES;
}
#endif
