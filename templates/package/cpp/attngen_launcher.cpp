// The driver is found at run time: nothing of CUDA is needed to build this.
#include "attngen_launcher.hpp"

#include <dlfcn.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>

namespace attngen {
namespace {

struct Attribute {
  int id;
  char pad[4];
  uint32_t value[16];
};
struct Config {
  unsigned grid[3], block[3], shared;
  void *stream;
  Attribute *attributes;
  unsigned count;
};

void *symbol(const char *name) {
  static void *library = dlopen("libcuda.so.1", RTLD_NOW);
  require(library, "this machine has no NVIDIA driver (libcuda.so.1)");
  void *found = dlsym(library, name);
  require(found, std::string("the driver is too old: it has no ") + name);
  return found;
}

template <typename... A>
void driver(const char *name, A... arguments) {
  int status = reinterpret_cast<int (*)(A...)>(symbol(name))(arguments...);
  require(status == 0, std::string(name) + " failed with error " + std::to_string(status));
}

void *load(const std::string &folder, const Kernel &kernel) {
  static std::mutex lock;
  static std::map<std::string, void *> loaded;
  void *context = nullptr;
  driver("cuCtxGetCurrent", &context);
  require(context, "no CUDA context is current: call cudaSetDevice or cuCtxSetCurrent first");
  std::lock_guard<std::mutex> guard(lock);
  std::string path = folder + "/" + kernel.file;
  void *&function = loaded[std::to_string(reinterpret_cast<uintptr_t>(context)) + path];
  if (function) return function;
  std::ifstream file(path, std::ios::binary);
  std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  uint64_t hash = 14695981039346656037ull;
  for (unsigned char c : image) hash = (hash ^ c) * 1099511628211ull;
  require(image.size() == kernel.bytes && hash == kernel.hash,
          path + " is missing or damaged");
  void *module = nullptr, *found = nullptr;
  driver("cuModuleLoadData", &module, static_cast<const void *>(image.data()));
  driver("cuModuleGetFunction", &found, module, kernel.symbol);
  if (kernel.shared > 49152) driver("cuFuncSetAttribute", found, 8, static_cast<int>(kernel.shared));
  return function = found;
}

template <typename T>
std::vector<Parameter> one(T value) {
  std::vector<Parameter> made(1);
  std::memcpy(made[0].bytes, &value, sizeof value);
  return made;
}

}  // namespace

void require(bool holds, const std::string &problem) {
  if (!holds) throw Error(problem);
}

size_t bytes_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::i8: case Dtype::boolean: return 1;
    case Dtype::f16: case Dtype::bf16: return 2;
    case Dtype::i64: return 8;
    default: return 4;
  }
}

bool runs(int target, int arch) {
  return target == arch || (target / 10 == arch / 10 && target <= arch && target / 10 != 9);
}

Call::Call(const std::string &folder, void *stream, const Allocate &allocate)
    : folder_(folder), stream_(stream), allocate_(allocate) {
  int device = 0, major = 0, minor = 0;
  driver("cuInit", 0u);
  driver("cuCtxGetDevice", &device);
  driver("cuDeviceGetAttribute", &major, 75, device);
  driver("cuDeviceGetAttribute", &minor, 76, device);
  arch_ = 10 * major + minor;
}

Tensor Call::make(const std::vector<int64_t> &shape, Dtype dtype, bool zero) {
  Tensor t{nullptr, dtype, shape, std::vector<int64_t>(shape.size())};
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= shape[i]) t.strides[i] = step;
  size_t bytes = (step * bytes_of(dtype) + 255) / 256 * 256;
  t.data = allocate_(bytes);
  if (zero) driver("cuMemsetD8Async", t.data, static_cast<unsigned char>(0), bytes, stream_);
  return t;
}

std::vector<Parameter> Call::map(const Tensor &t, const std::vector<int64_t> &shape,
                                 const std::vector<int64_t> &strides, const Map &how) {
  size_t rank = shape.size();
  std::vector<uint64_t> sizes(shape.rbegin(), shape.rend()), steps;
  std::vector<uint32_t> box(how.box.rbegin(), how.box.rend()), ones(rank, 1);
  for (size_t i = rank - 1; i-- > 0;) steps.push_back(strides[i] * how.element_bytes);
  bool fits = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && strides[rank - 1] == 1;
  for (uint64_t step : steps) fits = fits && step > 0 && step % 16 == 0;
  require(fits, "a tensor's address and strides must be multiples of 16 bytes, its last stride 1");
  std::vector<Parameter> made(1);
  driver("cuTensorMapEncodeTiled", static_cast<void *>(made[0].bytes), static_cast<int>(how.type),
         static_cast<unsigned>(rank), t.data, sizes.data(), steps.data(), box.data(), ones.data(), 0,
         static_cast<int>(how.swizzle), 2, 0);
  for (int64_t size : shape) made.push_back(i32(size)[0]);
  for (int64_t step : strides) made.push_back(i64(step)[0]);
  return made;
}

std::vector<Parameter> Call::pointer(const Tensor &t, bool divisible) {
  require(!divisible || reinterpret_cast<uintptr_t>(t.data) % 16 == 0,
          "a tensor's address must be a multiple of 16 bytes");
  return one(t.data);
}

std::vector<Parameter> Call::i32(int64_t value, bool divisible) {
  require(value >= INT32_MIN && value <= INT32_MAX, std::to_string(value) + " is too large");
  require(!divisible || value % 16 == 0, "a stride must be a multiple of 16 elements");
  return one(static_cast<int32_t>(value));
}

std::vector<Parameter> Call::i64(int64_t value) { return one(value); }
std::vector<Parameter> Call::fp32(double value) { return one(static_cast<float>(value)); }
std::vector<Parameter> Call::i1(bool value) { return one(static_cast<int8_t>(value)); }

void Call::launch(const Kernel &kernel, const std::vector<int64_t> &grid,
                  const std::vector<std::vector<Parameter>> &parameters) {
  std::vector<const void *> pointers;
  for (const auto &group : parameters)
    for (const Parameter &p : group) pointers.push_back(p.bytes);
  const Parameter scratch{};  // two pointers to memory that these kernels do not use
  pointers.insert(pointers.end(), {scratch.bytes, scratch.bytes});
  Attribute attributes[2] = {};
  unsigned count = 0;
  if (kernel.dependent) attributes[count].id = 6, attributes[count++].value[0] = 1;
  if (kernel.clusters > 1) {
    attributes[count].id = 4;
    for (int i = 0; i < 3; i++) attributes[count].value[i] = i ? 1 : kernel.clusters;
    count++;
  }
  Config config{{1, 1, 1}, {kernel.threads, 1, 1}, kernel.shared, stream_, attributes, count};
  for (size_t i = 0; i < grid.size(); i++) {
    if (grid[i] == 0) return;
    require(grid[i] <= (i ? 65535 : INT32_MAX), "there are more programs than a GPU starts");
    config.grid[i] = static_cast<unsigned>(grid[i]) * (i ? 1 : kernel.clusters);
  }
  void *function = load(folder_, kernel);
  driver("cuLaunchKernelEx", static_cast<const void *>(&config), function, pointers.data(),
         static_cast<void **>(nullptr));
}

}  // namespace attngen
