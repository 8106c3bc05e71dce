#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

// What the System V ABI says a call keeps goes on the stack; the rest the compiler has saved.
#if defined(__x86_64__)
asm(R"(
.text
.hidden host_fiber_change
.globl host_fiber_change
.type host_fiber_change, @function
host_fiber_change:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_fiber_change, . - host_fiber_change
)");
extern "C" void host_fiber_change(void** from, void* to);
#endif

namespace host {

namespace {
constexpr size_t wall = 4096;
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - wall, size + wall);
}

void Fiber::start(void (*entry)()) {
  if (!stack_) {
    void* memory =
        mmap(nullptr, size + wall, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, wall, PROT_NONE);
    stack_ = static_cast<char*>(memory) + wall;
  }
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack_ + size);
  *--top = nullptr;  // where entry would return to, and what aligns its frame
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack = {};
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = size;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::change(Fiber& from, Fiber& to) {
#if defined(__x86_64__)
  host_fiber_change(&from.top_, to.top_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
}

}  // namespace host
