// The accesses that device code asks for by name, and those that -fsanitize=thread puts before each load and store.
#include <cstring>
#include <initializer_list>

#include "launch.h"

namespace host {

template <int bytes>
device::vector<bytes> load(const void* from, Space space) {
  const Site site = site_of(__builtin_return_address(0));
  require_aligned(from, bytes, site);
  look(from, bytes, space, Mode::read, site);
  device::vector<bytes> value;
  std::memcpy(&value, from, bytes);
  return value;
}

template <int bytes>
void store(void* to, device::vector<bytes> value, Space space) {
  const Site site = site_of(__builtin_return_address(0));
  require_aligned(to, bytes, site);
  look(to, bytes, space, Mode::write, site);
  std::memcpy(to, &value, bytes);
}

template device::vector<4> load(const void*, Space);
template device::vector<8> load(const void*, Space);
template device::vector<16> load(const void*, Space);
template void store(void*, device::vector<4>, Space);
template void store(void*, device::vector<8>, Space);
template void store(void*, device::vector<16>, Space);

namespace {

template <class T>
T add(T* to, T value, Site site) {
  require_aligned(to, sizeof(T), site);
  look(to, sizeof(T), Space::any, Mode::atomic, site);
  const T before = *to;
  *to = before + value;
  return before;
}

}  // namespace

int atomic_add(int* to, int value) { return add(to, value, site_of(__builtin_return_address(0))); }
unsigned atomic_add(unsigned* to, unsigned value) { return add(to, value, site_of(__builtin_return_address(0))); }
float atomic_add(float* to, float value) { return add(to, value, site_of(__builtin_return_address(0))); }

// The bytes come when they are waited for; until then they are NaN to who looks too early.
void copy_async(void* to, const void* from, int bytes, bool real) {
  const Site site = site_of(__builtin_return_address(0));
  Copy copy = {static_cast<char*>(to), {}, static_cast<unsigned>(bytes), self->groups};
  require_aligned(to, bytes, site);
  if (real) {
    require_aligned(from, bytes, site);
    look(from, bytes, Space::global, Mode::read, site);
    std::memcpy(copy.data, from, bytes);
  }
  note(find(to, bytes, Space::shared, Mode::write, site), to, bytes, Mode::write, site, true);
  std::memset(to, 0xff, bytes);
  self->copies.push_back(copy);
}

void commit() { ++self->groups; }

void wait(int groups) {
  auto& copies = self->copies;
  size_t left = 0;
  for (const Copy& copy : copies) {
    if (copy.group + groups < self->groups) {
      std::memcpy(copy.to, copy.data, copy.bytes);
      arrive(launched->shared(), copy.to, copy.bytes);
    } else {
      copies[left++] = copy;
    }
  }
  copies.resize(left);
}

}  // namespace host

// What the compiler calls. Code that runs outside a launch is no device code.
#define HOOK extern "C" __attribute__((visibility("hidden")))
#define SITE host::site_of(__builtin_return_address(0))

namespace {

bool is_index(const void* address) { return address >= &host::indices && address < &host::indices + 1; }

// Local variables, and threadIdx and its like, are a thread's own.
inline void hook(const void* address, size_t bytes, host::Mode mode, bool aligned, host::Site site) {
  if (!host::self || host::self->fiber.holds(address) || is_index(address)) return;
  if (aligned) host::require_aligned(address, bytes, site);
  host::look(address, bytes, host::Space::any, mode, site);
}

}  // namespace

#define ACCESSES(N) \
  HOOK void __tsan_read##N(void* at) { hook(at, N, host::Mode::read, true, SITE); } \
  HOOK void __tsan_write##N(void* at) { hook(at, N, host::Mode::write, true, SITE); } \
  HOOK void __tsan_unaligned_read##N(void* at) { hook(at, N, host::Mode::read, false, SITE); } \
  HOOK void __tsan_unaligned_write##N(void* at) { hook(at, N, host::Mode::write, false, SITE); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

HOOK void __tsan_read_range(void* at, size_t bytes) { hook(at, bytes, host::Mode::read, false, SITE); }
HOOK void __tsan_write_range(void* at, size_t bytes) { hook(at, bytes, host::Mode::write, false, SITE); }
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
