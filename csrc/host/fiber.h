// Stacks that are switched by hand.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace host {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next switch to this fiber calls `entry`, which must not return.
  void start(void (*entry)());

  // Leaves one fiber, whose stack keeps what it was doing, for another.
  static void change(Fiber& from, Fiber& to);

  bool holds(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - stack_) < size;
  }

  static constexpr size_t size = 256 << 10;

 private:
  char* stack_ = nullptr;
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace host
