// Loads and launches kernels compiled ahead of time; needs only the CUDA driver at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace attngen {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Dtype { f16, bf16, f32, i8, i32, i64, boolean };
size_t bytes_of(Dtype dtype);

// Memory on the device; strides in elements.
struct Tensor {
  void *data;
  Dtype dtype;
  std::vector<int64_t> shape, strides;
};

// Gives memory on the device for a result or for scratch, a multiple of 256 bytes; the caller owns it.
using Allocate = std::function<void *(size_t bytes)>;

struct Kernel {
  const char *file, *symbol;
  size_t bytes;
  uint64_t hash;  // FNV-1a of the file: damage is refused, an attacker is not
  unsigned threads, shared, clusters;
  bool dependent;
};

struct Map {  // how a tensor descriptor moves blocks
  unsigned element_bytes, type, swizzle;
  std::vector<uint32_t> box;
};

struct Parameter {
  alignas(64) unsigned char bytes[128];
};

// One call: the device and stream it goes to, and where its memory comes from.
class Call {
 public:
  Call(const std::string &folder, void *stream, const Allocate &allocate);
  int arch() const { return arch_; }  // 90 for sm_90
  Tensor make(const std::vector<int64_t> &shape, Dtype dtype, bool zero = false);
  std::vector<Parameter> map(const Tensor &t, const std::vector<int64_t> &shape,
                             const std::vector<int64_t> &strides, const Map &how);
  std::vector<Parameter> pointer(const Tensor &t, bool divisible);
  std::vector<Parameter> i32(int64_t value, bool divisible = false);
  std::vector<Parameter> i64(int64_t value);
  std::vector<Parameter> fp32(double value);
  std::vector<Parameter> i1(bool value);
  void launch(const Kernel &kernel, const std::vector<int64_t> &grid,
              const std::vector<std::vector<Parameter>> &parameters);

 private:
  std::string folder_;
  void *stream_;
  const Allocate &allocate_;
  int arch_ = 0;
};

bool runs(int target, int arch);
void require(bool holds, const std::string &problem);

inline int64_t cdiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t low_bit(int64_t a) { return a & -a; }
inline int64_t power2(int64_t a) {
  int64_t p = 1;
  while (2 * p <= a) p *= 2;
  return p;
}

}  // namespace attngen
