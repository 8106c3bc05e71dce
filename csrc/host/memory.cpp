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

// A barrier lies between an access and the thread that runs, or it is its own.
bool happened_before(const Access& access) {
  if (!of_this_block(access)) return false;
  if (access.epoch < launched->epoch || access.thread == self->index) return true;
  return access.thread / 32 == self->index / 32 && access.clock <= self->seen[access.thread % 32];
}

// Of many reads that no barrier orders, two by different threads, and of different warps where there are such.
template <class Exists>
void keep_read(Cell& cell, const Access& now, const Exists& exists) {
  const auto replaceable = [&](const Access& read) {
    return !exists(read) || read.thread == now.thread || happened_before(read);
  };
  Access &a = cell.reads[0], &b = cell.reads[1];
  if (replaceable(a)) a = now;
  else if (replaceable(b) || (a.thread / 32 == b.thread / 32 && a.thread / 32 != now.thread / 32)) b = now;
}

std::string who(const Access& access) {
  const auto& firsts = launched->first_epochs;
  const size_t block = std::upper_bound(firsts.begin(), firsts.end(), access.epoch) - firsts.begin() - 1;
  const std::string thread = access.thread == several ? "several threads" : "thread " + std::to_string(access.thread);
  return of_this_block(access) ? thread : thread + " of block " + std::to_string(block);
}

std::string where_it_leads(const void* address, size_t bytes, Mode mode) {
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
  return message;
}

}  // namespace

Region& find(const void* address, size_t bytes, Space space, Mode mode, Site site) {
  for (Region& region : launched->regions) {
    if (!region.holds(address)) continue;
    const size_t offset = static_cast<const char*>(address) - region.begin;
    if (offset + bytes > region.bytes || (space != Space::any && space != region.space)) break;
    if (mode != Mode::read && region.use == Use::in) {
      report("out of bounds", site, "a " + std::string(verb(mode)) + " to " + region.name + ", an input", self->index);
      end();
    }
    return region;
  }
  report("out of bounds", site, where_it_leads(address, bytes, mode), self->index);
  end();
  __builtin_unreachable();
}

void require_aligned(const void* address, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  report("misaligned", site, std::to_string(bytes) + " bytes at an address that is no multiple of it", self->index);
  end();
}

void note(Region& region, const void* address, size_t bytes, Mode mode, Site site, bool pending) {
  if (!region.cells) return;
  const size_t first = static_cast<const char*>(address) - region.begin;
  const bool shared = region.space == Space::shared;
  const auto thread = static_cast<uint16_t>(self->index);
  const Access now = {site, launched->epoch, self->clock, thread, mode == Mode::atomic, pending};
  const auto exists = [&](const Access& access) { return access.epoch && (!shared || of_this_block(access)); };
  for (size_t offset = first; offset < first + bytes; ++offset) {
    Cell& cell = region.cells[offset];
    const auto tell = [&](const char* kind, const char* what, const Access* other = nullptr) {
      if (told(kind, site)) return;
      const std::string message = "a " + std::string(verb(mode)) + " of " + region.at(offset) + what;
      report(kind, site, other ? message + who(*other) : message, thread, other ? other->site : 0);
    };
    const bool written = exists(cell.write);
    const bool ordered = !written || happened_before(cell.write);
    if (written && cell.write.pending) {
      tell("async copy", ", where a copy is under way that was not waited for, by ", &cell.write);
    } else if (!ordered && !(now.atomic && cell.write.atomic)) {
      tell("race", " does not follow the write by ", &cell.write);
    }
    if (mode != Mode::write && !written && (shared || region.use != Use::inout)) {
      tell("uninitialised", ", which nobody has written");
    }
    if (mode == Mode::read) {
      keep_read(cell, now, exists);
      continue;
    }
    for (Access& read : cell.reads) {
      if (exists(read) && !happened_before(read)) tell("race", " does not follow the read by ", &read);
      read.epoch = 0;
    }
    const bool together = !ordered && now.atomic && cell.write.atomic;
    if (together && !of_this_block(cell.write)) continue;  // no barrier of this block will order that one
    cell.write = now;
    if (together) cell.write.thread = several;
  }
}

void look(const void* address, size_t bytes, Space space, Mode mode, Site site) {
  note(find(address, bytes, space, mode, site), address, bytes, mode, site);
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
  const std::string of = " of the " + std::to_string(region.bytes) + " bytes of " + region.name;
  report("unwritten", 0, std::to_string(count) + of + " are unwritten, from byte " + std::to_string(first) + " on", -1);
}

}  // namespace host
