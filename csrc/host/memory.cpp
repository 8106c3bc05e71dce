#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "launch.h"

namespace host {

void Free::operator()(void* memory) const { std::free(memory); }

Region::Region(std::string name, void* begin, size_t bytes, Space space, Use use)
    : name(std::move(name)), begin(static_cast<char*>(begin)), bytes(bytes), space(space), use(use) {
  if (use == Use::in || !bytes) return;
  cells.reset(static_cast<Cell*>(std::calloc(bytes, sizeof(Cell))));  // zeros that cost nothing until they are touched
  if (!cells) throw std::bad_alloc();
}

namespace {

const char* verb(Mode mode) { return mode == Mode::read ? "read" : mode == Mode::write ? "write" : "atomic add"; }

bool of_this_block(const Access& access) { return access.epoch >= launched->first_epoch(); }

constexpr uint16_t several = 0xffff;  // threads of this block, all of them by atomics

bool happened_before(const Access& access, const Thread& thread) {
  if (!of_this_block(access)) return false;
  if (access.epoch < launched->epoch || access.thread == thread.index) return true;
  return access.thread / 32 == thread.index / 32 && access.clock <= thread.seen[access.thread % 32];
}

std::string who(const Access& access) {
  const auto& firsts = launched->first_epochs;
  const size_t block = std::upper_bound(firsts.begin(), firsts.end(), access.epoch) - firsts.begin() - 1;
  const std::string thread = access.thread == several ? "several threads" : "thread " + std::to_string(access.thread);
  return of_this_block(access) ? thread : thread + " of block " + std::to_string(block);
}

// The launch cannot go on where there is no memory.
Region* nowhere(const void* address, size_t bytes, Mode mode, Site site) {
  std::string message = "a " + std::string(verb(mode)) + " of " + std::to_string(bytes) + " bytes ";
  const Region* nearest = nullptr;
  size_t distance = 4096;
  for (const Region& region : launched->regions) {
    const char *at = static_cast<const char*>(address), *behind = region.begin + region.bytes;
    const size_t away = at < region.begin ? region.begin - at : at + bytes > behind ? at + bytes - behind : 0;
    if (region.bytes && away < distance) nearest = &region, distance = away;
  }
  if (!nearest) {
    message += "in no buffer";
  } else if (distance == 0) {
    message += "in " + nearest->name + ", which is not the memory that it is for";
  } else {
    message += "reaches " + std::to_string(distance) + " bytes ";
    message += (static_cast<const char*>(address) < nearest->begin ? "before " : "behind ") + nearest->name + " of " +
               std::to_string(nearest->bytes) + " bytes";
  }
  report("out of bounds", site, message, self->index);
  end();
  return nullptr;
}

}  // namespace

Region* find(const void* address, size_t bytes, Space space, Mode mode, Site site) {
  for (Region& region : launched->regions) {
    if (!region.holds(address)) continue;
    const size_t offset = static_cast<const char*>(address) - region.begin;
    if (offset + bytes > region.bytes || (space != Space::any && space != region.space)) break;
    if (mode != Mode::read && region.use == Use::in) {
      report("out of bounds", site, "a " + std::string(verb(mode)) + " to " + region.name + ", an input", self->index);
      end();
    }
    return &region;
  }
  if (space == Space::any) {
    const char* at = static_cast<const char*>(address);
    if (self->fiber.holds(at) || static_cast<size_t>(at - reinterpret_cast<char*>(&indices)) < sizeof indices) {
      return nullptr;
    }
  }
  return nowhere(address, bytes, mode, site);
}

void require_aligned(const void* address, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  report("misaligned", site, std::to_string(bytes) + " bytes at an address that is no multiple of it", self->index);
  end();
}

void note(Region& region, const void* address, size_t bytes, Mode mode, Site site, unsigned index, bool pending) {
  if (!region.cells) return;
  const size_t first = static_cast<const char*>(address) - region.begin;
  const Thread& thread = *launched->threads[index];
  const bool shared = region.space == Space::shared;
  const Access now = {site, launched->epoch, thread.clock, static_cast<uint16_t>(index), mode == Mode::atomic, pending};
  const auto exists = [&](const Access& access) { return access.epoch && (!shared || of_this_block(access)); };
  for (size_t offset = first; offset < first + bytes; ++offset) {
    Cell& cell = region.cells[offset];
    const auto tell = [&](const char* kind, const Access* other, const auto&... message) {
      if (told(kind, site)) return;
      const std::string what = "a " + std::string(verb(mode)) + " of " + region.at(offset);
      report(kind, site, (what + ... + message), index, other ? other->site : 0);
    };
    const auto conflict = [&](const Access& before, const char* what) {
      tell("race", &before, " does not follow the ", what, " by ", who(before));
    };
    const bool written = exists(cell.write);
    if (written && cell.write.pending) {
      tell("async copy", &cell.write, ", and a copy to it has not been waited for by ", who(cell.write));
    } else if (written && !(now.atomic && cell.write.atomic) && !happened_before(cell.write, thread)) {
      conflict(cell.write, cell.write.atomic ? "atomic add" : "write");
    }
    if (mode != Mode::write && !written && (shared || region.use != Use::inout)) {
      tell("uninitialised", nullptr, ", which nobody has written");
    }
    if (mode == Mode::read) {
      Access& a = cell.reads[0];
      Access& b = cell.reads[1];
      const auto replaceable = [&](const Access& read) {
        return !exists(read) || read.thread == index || happened_before(read, thread);
      };
      // two of different threads, of different warps where there are such
      if (replaceable(a)) a = now;
      else if (replaceable(b) || (a.thread / 32 == b.thread / 32 && a.thread / 32 != index / 32)) b = now;
      continue;
    }
    for (Access& read : cell.reads) {
      if (exists(read) && !happened_before(read, thread)) conflict(read, "read");
      read.epoch = 0;
    }
    const bool mixed = now.atomic && written && cell.write.atomic && !happened_before(cell.write, thread);
    if (mixed && !of_this_block(cell.write)) continue;  // no barrier of this block will order that one
    cell.write = now;
    if (mixed) cell.write.thread = several;
  }
}

void look(const void* address, size_t bytes, Space space, Mode mode, Site site) {
  if (Region* region = find(address, bytes, space, mode, site)) note(*region, address, bytes, mode, site, self->index);
}

void arrive(Region& region, const char* to, size_t bytes) {
  for (size_t offset = to - region.begin; bytes--; ++offset) {
    Access& write = region.cells[offset].write;
    write.epoch = launched->epoch;
    write.clock = self->clock;
    write.pending = false;
  }
}

void report_unwritten(const Region& region) {
  size_t count = 0, first = 0;
  for (size_t offset = region.bytes; offset-- > 0;) {
    if (!region.cells[offset].write.epoch) ++count, first = offset;
  }
  if (!count) return;
  const std::string message = std::to_string(count) + " of the " + std::to_string(region.bytes) + " bytes of " + region.name;
  report("unwritten", 0, message + " are unwritten, from byte " + std::to_string(first) + " on", -1);
}

}  // namespace host
