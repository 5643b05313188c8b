/* Stands for libcuda.so.1: records what a launcher asks of the driver. Sizes of parameters are not
   part of a launch, so the test says them beforehand, by the name of the kernel. */
#include <stdlib.h>
#include <string.h>

enum { KERNELS = 64, PARAMETERS = 128, LAUNCHES = 64, NAME = 256 };

struct config { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; };
struct record { char name[NAME]; unsigned grid[3], block[3], shared, count; unsigned long long stream;
                unsigned char data[4096]; int bytes; unsigned dependent, cooperative, others; };
struct attribute { int id; char pad[4]; unsigned value[16]; };

static struct { char name[NAME]; int sizes[PARAMETERS], count; } known[KERNELS];
static struct record records[LAUNCHES];
static int kernels, launches, loads, major = 9, minor = 0, most_shared = 232448, fail_with, encodes, cuda = 13000;

void fake_reset(int a, int b, int shared) { major = a; minor = b; most_shared = shared; launches = loads = encodes = fail_with = 0; }
void fake_fail(int status) { fail_with = status; }
int fake_launches(void) { return launches; }
int fake_loads(void) { return loads; }
int fake_encodes(void) { return encodes; }
const struct record *fake_record(int i) { return &records[i % LAUNCHES]; }
void fake_sizes(const char *name, const int *sizes, int count) {
  int i = 0;
  while (i < kernels && strcmp(known[i].name, name)) i++;
  if (i == kernels) kernels++;
  strncpy(known[i].name, name, NAME - 1);
  memcpy(known[i].sizes, sizes, count * sizeof(int));
  known[i].count = count;
}

int cuInit(unsigned flags) { return 0; }
void fake_version(int version) { cuda = version; }
int cuDriverGetVersion(int *version) { *version = cuda; return 0; }
int cuDeviceGet(int *device, int i) { *device = i; return 0; }
int cuDeviceGetAttribute(int *value, int number, int device) {
  *value = number == 75 ? major : number == 76 ? minor : number == 97 ? most_shared : 0;
  return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(long)(0x1000 + device); return 0; }
static __thread void *current;
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuMemsetD8Async(void *memory, unsigned char value, size_t count, void *stream) { return 0; }
int cuModuleLoadData(void **module, const void *image) {
  if (memcmp(image, "\177ELF", 4)) return 200;
  loads++;
  *module = malloc(8);
  return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = strdup(name); return 0; }
int cuFuncSetAttribute(void *function, int number, int value) { return number == 8 && value > most_shared ? 1 : 0; }
int cuFuncGetAttribute(int *value, int number, void *function) { *value = 1024; return 0; }
int cuGetErrorString(int status, const char **text) { *text = "as the fake was told"; return 0; }

int cuLaunchKernelEx(const struct config *config, void *function, void **parameters, void **extra) {
  if (fail_with) { int status = fail_with; fail_with = 0; return status; }
  struct record *r = &records[launches % LAUNCHES];
  memset(r, 0, sizeof *r);
  strncpy(r->name, function, NAME - 1);
  memcpy(r->grid, config->grid, 12);
  memcpy(r->block, config->block, 12);
  r->shared = config->shared;
  r->count = config->count;
  r->stream = (unsigned long long)config->stream;
  const struct attribute *attributes = config->attributes;
  for (unsigned i = 0; i < config->count; i++) {
    if (attributes[i].id == 6) r->dependent = attributes[i].value[0];
    else if (attributes[i].id == 2) r->cooperative = attributes[i].value[0];
    else r->others += attributes[i].value[0] != 0;
  }
  for (int i = 0; i < kernels; i++)
    if (!strcmp(known[i].name, r->name))
      for (int j = 0; j < known[i].count; j++) {
        memcpy(r->data + r->bytes, parameters[j], known[i].sizes[j]);
        r->bytes += known[i].sizes[j];
      }
  __sync_fetch_and_add(&launches, 1);
  return 0;
}

/* what a test wants to see of a descriptor, in its 128 bytes: address, rank, sizes, strides, box */
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const unsigned long long *sizes,
                           const unsigned long long *strides, const unsigned *box, const unsigned *steps,
                           int interleave, int swizzle, int promotion, int fill) {
  if ((unsigned long long)map % 64 || (unsigned long long)address % 16 || !address) return 1;
  unsigned long long *w = map;
  memset(map, 0, 128);
  w[0] = (unsigned long long)address;
  w[1] = (unsigned long long)type;
  w[2] = rank;
  for (unsigned i = 0; i < rank; i++) { w[3 + i] = sizes[i]; w[11 + i] = box[i]; }
  for (unsigned i = 0; i + 1 < rank; i++) { if (strides[i] % 16) return 1; w[7 + i] = strides[i]; }
  encodes++;
  return 0;
}

/* as much of libamdhip64 */
int hipInit(unsigned flags) { return 0; }
int hipModuleLoadData(void **module, const void *image) { return cuModuleLoadData(module, image); }
int hipModuleGetFunction(void **function, void *module, const char *name) { return cuModuleGetFunction(function, module, name); }
int hipModuleLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *stream, void **parameters, void **extra) {
  struct config config = {{gx, gy, gz}, {bx, by, bz}, shared, stream, 0, 0};
  return cuLaunchKernelEx(&config, function, parameters, extra);
}
