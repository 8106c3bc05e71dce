// What the executor knows of each byte that a kernel may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "executor.h"
#include "report.h"

namespace host {

// A read or write of a byte. An epoch is what lies between two barriers of a block; no two blocks share one, and they
// count up. A clock counts a thread's synchronizations with its warp.
struct Access {
  Site site;
  uint32_t epoch;  // 0: there was none
  uint32_t clock;
  uint16_t thread;
  bool atomic;
  bool pending;  // an asynchronous copy that has not been waited for
};

struct Cell {
  Access write, reads[2];  // the latest write, and two reads since that do not follow one another
};

enum class Mode { read, write, atomic };

struct Free {
  void operator()(void* memory) const;
};

struct Region {
  std::string name;
  char* begin;
  size_t bytes;
  Space space;
  Use use;
  std::unique_ptr<Cell[], Free> cells;  // none where nothing is written

  Region(std::string name, void* begin, size_t bytes, Space space, Use use);
  bool holds(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - begin) < bytes;
  }
  std::string at(size_t offset) const { return name + "[byte " + std::to_string(offset) + "]"; }
};

// The region that holds all the bytes; where there is none, the launch ends with a report.
Region& find(const void* address, size_t bytes, Space space, Mode mode, Site site);

// The launch ends where the address is no multiple of its size.
void require_aligned(const void* address, size_t bytes, Site site);

// Compares an access by the thread that runs with those before it, and remembers it.
void note(Region& region, const void* address, size_t bytes, Mode mode, Site site, bool pending = false);

// Both.
void look(const void* address, size_t bytes, Space space, Mode mode, Site site);

// An asynchronous copy has been waited for.
void arrive(Region& region, const char* to, size_t bytes);

// Bytes of outputs that nobody wrote.
void report_unwritten(const Region& region);

}  // namespace host
