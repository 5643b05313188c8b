// Calls a packaged kernel; the driver is the stand-in, found where libcuda.so.1 would be.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "acme_kernels.hpp"

using attngen::Dtype;
using attngen::Tensor;

template <typename F>
F symbol(const char *name) {
  return reinterpret_cast<F>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

static Tensor tensor(int64_t b, int64_t s, int64_t h, int64_t d, int64_t shift = 0) {
  char *memory = static_cast<char *>(std::aligned_alloc(256, b * s * h * d * 2 + 256));
  return {memory + shift, Dtype::bf16, {b, s, h, d}, {s * h * d, h * d, d, 1}};
}

static void refused(const char *what, const Tensor &q, const Tensor &k, const char *folder) {
  try {
    acme_kernels::gemma2(q, k, k, folder, nullptr, [](size_t n) { return std::malloc(n); });
    std::printf("%s: not refused\n", what);
  } catch (const attngen::Error &error) {
    std::printf("%s: %s\n", what, error.what());
  }
}

int main(int count, char **arguments) {
  if (count < 2) return 2;
  Tensor q = tensor(2, 300, 4, 128), k = tensor(2, 333, 2, 128), v = tensor(2, 333, 2, 128);
  auto allocate = [](size_t n) { return std::aligned_alloc(256, n); };
  refused("no context", q, k, arguments[1]);
  symbol<int (*)(void *)>("cuCtxSetCurrent")(arguments);
  auto out = acme_kernels::gemma2(q, k, v, arguments[1], nullptr, allocate);
  auto launches = symbol<int (*)()>("fake_launches");
  std::printf("prefill: %d launch, %zu result, %ld rows\n", launches(), out.size(),
              static_cast<long>(out[0].shape[1]));
  Tensor one = tensor(2, 1, 4, 128), many = tensor(2, 600, 2, 128);
  acme_kernels::gemma2(one, many, many, arguments[1], nullptr, allocate);
  std::printf("decode: %d launches in all\n", launches());
  auto kept = acme_kernels::gemma2_training(q, k, v, arguments[1], nullptr, allocate);
  auto gradients = acme_kernels::gemma2_backward(q, k, v, kept[1], kept[0], kept[0], arguments[1],
                                                 nullptr, allocate);
  std::printf("gradients: %zu, %d launches in all\n", gradients.size(), launches());
  refused("address", tensor(2, 300, 4, 128, 2), k, arguments[1]);
  refused("head size", tensor(2, 300, 4, 64), k, arguments[1]);
  refused("rank", {q.data, Dtype::bf16, {300, 4, 128}, {512, 128, 1}}, k, arguments[1]);
  refused("folder", tensor(1, 16, 2, 128), tensor(1, 16, 2, 128), "/nowhere");
  return 0;
}
