// Where in the sources an address of the code is, and what is said about it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "executor.h"

// The linker's name for where this library lies.
extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));

namespace host {

// An address of this library's code, from its beginning; 0 is none.
using Site = uint32_t;

inline Site site_of(const void* address) {
  return static_cast<Site>(static_cast<const char*>(address) - __ehdr_start);
}

// The calls that were inlined into one another at a site, "file:line", the innermost first.
const std::vector<std::string>& frames(Site site);

// The innermost of them that is device code, and not the executor's or a library's.
void locate(Site site, std::string& file, int& line);

// Whether two sites are one place in the sources: the compiler may have made two of one.
inline bool same_place(Site a, Site b) { return a == b || frames(a) == frames(b); }

// As it is written in a message.
std::string place(Site site);

}  // namespace host
