// The state of the launch that runs. There is one at a time.
#pragma once

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "executor.h"
#include "fiber.h"
#include "memory.h"
#include "report.h"

namespace host {

enum class Operation { none, synchronize, shuffle, vote, mma, load_matrices };

// What a lane brings to an operation of its warp.
struct Arrival {
  Operation operation;
  int detail;  // of which kind: all lanes must agree
  unsigned mask;
  Site site;
  void* operand;  // on the lane's stack
};

struct Copy {
  char* to;
  unsigned char data[16];
  unsigned bytes, group;
};

enum class State { ready, barrier, collective, done };

struct Thread {
  Fiber fiber;
  unsigned index;
  State state;
  Site site;  // of the barrier
  Arrival arrival;
  uint32_t clock;
  uint32_t seen[32];  // clocks of the warp's lanes that happened before
  std::vector<Copy> copies;
  unsigned groups;  // of copies that were committed
};

struct Launch {
  std::vector<Region> regions;  // the block's shared memory, the kernel's arguments, and the buffers
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Report> reports;
  std::set<std::pair<std::string, Site>> told;
  std::vector<uint32_t> first_epochs;  // of the blocks so far
  uint32_t epoch = 0;
  bool ended = false;
  Function function = nullptr;
  const void* captured = nullptr;
  Fiber scheduler;

  Region& shared() { return regions[0]; }
  uint32_t first_epoch() const { return first_epochs.back(); }
};

extern Launch* launched;
extern Thread* self;  // the thread that runs; null while none does

// There is one report for each kind and site.
bool told(const char* kind, Site site);
void report(const char* kind, Site site, const std::string& message, int thread, Site other = 0);

// Ends the launch; does not return to the fiber that calls it.
void end();

// Gives way to others, until this thread is ready again.
void give_way();

// The lanes of a warp that wait for others of it that will not come; ends the launch.
void report_stuck(Thread& waiting);

std::string names_of(const std::vector<unsigned>& threads);

}  // namespace host
