/* Stands for the runtime that host functions compiled by the CuTe DSL call, so that they run without
   a GPU: what they launch is recorded as the driver would see it. Linked with their object files. */
#include "fakecuda.c"

struct dsl_config { unsigned grid[3], block[3]; long long shared; void *stream; void *attributes; unsigned count; };

int _cudaLibraryLoadData(void **library, const void *image, void *a, void *b, int c, void *d, void *e, int f) {
  *library = (void *)1;
  return 0;
}
int _cudaLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = strdup(name); return 0; }
int _cudaGetDevice(int *device) { *device = 0; return 0; }
int _cudaDeviceGetAttribute(int *value, int number, int device) { return cuDeviceGetAttribute(value, number, device); }
int _cuKernelGetAttribute(int *value, int number, void *kernel, int device) { *value = 1024; return 0; }
int _cudaFuncSetAttribute(void *kernel, int number, int value) { return 0; }
int _cudaKernelSetAttributeForDevice(void *kernel, int number, int value, int device) { return 0; }
int _cudaLaunchKernelEx(const struct dsl_config *given, void *kernel, void **parameters) {
  struct config config;
  memcpy(config.grid, given->grid, 12);
  memcpy(config.block, given->block, 12);
  config.shared = given->shared;
  config.stream = given->stream;
  config.attributes = given->attributes;
  config.count = given->count;
  return cuLaunchKernelEx(&config, kernel, parameters, 0);
}
