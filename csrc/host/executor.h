// Runs device code on the CPU: a fiber for each thread, one block after the other, and a look at each access.
//
// What includes this file is compiled with -fsanitize=thread, whose hooks the executor implements; the executor's own
// files are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "numbers.h"

namespace host {

struct Index {
  unsigned x;
};

// As the fiber that runs sees them.
struct Indices {
  Index thread, block, threads, blocks;
};
extern Indices indices;

// What a kernel may do with a buffer: read it; write all of it before reading it; both; write some of it, read that.
enum class Use { in, out, inout, scratch };

struct Buffer {
  std::string name;
  void* address;
  size_t bytes;
  Use use;
};

struct Report {
  std::string kind, message, file;
  int line = 0;
  unsigned block = 0;
  int thread = -1;         // none where the report is of the launch
  std::string other_file;  // the other side of a conflict
  int other_line = 0;
};

using Function = void (*)(const void*);
std::vector<Report> run(
    Function function, const void* captured, size_t captured_bytes, unsigned grid, unsigned block,
    size_t shared_bytes, const std::vector<Buffer>& buffers);

// Runs a lambda that calls the device function. It captures by value: as on a GPU, the host's memory is out of reach.
template <class F>
std::vector<Report> launch(
    const F& function, unsigned grid, unsigned block, size_t shared_bytes, const std::vector<Buffer>& buffers) {
  const Function call = [](const void* captured) { (*static_cast<const F*>(captured))(); };
  return run(call, &function, sizeof(F), grid, block, shared_bytes, buffers);
}

// What Python asks for.
struct Call {
  unsigned grid, block;
  size_t shared_bytes;
  std::vector<Buffer> buffers;
  std::map<std::string, double> scalars;

  void* address(const std::string& name) const;  // null where Python gave None
  double number(const std::string& name) const;

  template <class T>
  T* pointer(const std::string& name) const {
    return static_cast<T*>(address(name));
  }
  template <class T>
  T scalar(const std::string& name) const {
    return static_cast<T>(number(name));
  }
  template <class F>
  std::vector<Report> launch(const F& function) const {
    return host::launch(function, grid, block, shared_bytes, buffers);
  }
};

// A kernel that Python can call: `static const host::Kernel name("name", [](const host::Call& call) { … });`.
struct Kernel {
  using Body = std::vector<Report> (*)(const Call&);
  Kernel(const char* name, Body body);
};
std::map<std::string, Kernel::Body>& kernels();

// What device.h calls. Each takes its return address for the place in the device code.
enum class Space { any, global, shared };
enum class Vote { ballot, any, all };
enum class Shuffle { from, exclusive_or, down };
enum class Format { half, bfloat16 };

char* shared_memory();
void synchronize_block();
void synchronize_warp(unsigned mask);
uint32_t shuffle(Shuffle how, unsigned mask, uint32_t value, unsigned by);
uint32_t vote(Vote how, unsigned mask, bool value);
void mma(Format format, int k, float* d, const uint32_t* a, const uint32_t* b);
void load_matrices(uint32_t* to, const void* row, int matrices, bool transposed);
int atomic_add(int* to, int value);
unsigned atomic_add(unsigned* to, unsigned value);
float atomic_add(float* to, float value);
template <int bytes>
device::vector<bytes> load(const void* from, Space space);
template <int bytes>
void store(void* to, device::vector<bytes> value, Space space);
void copy_async(void* to, const void* from, int bytes, bool real);
void commit();
void wait(int groups);
void assume(bool fact);

}  // namespace host
