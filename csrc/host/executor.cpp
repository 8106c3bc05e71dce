#include "executor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "launch.h"

namespace host {

Indices indices;
Launch* launched = nullptr;
Thread* self = nullptr;

bool told(const char* kind, Site site) { return launched->told.count({kind, site}); }

void report(const char* kind, Site site, const std::string& message, int thread, Site other) {
  if (!launched->told.insert({kind, site}).second) return;
  Report made;
  made.kind = kind;
  made.message = message;
  made.block = indices.block.x;
  made.thread = thread;
  if (site) locate(site, made.file, made.line);
  if (other) locate(other, made.other_file, made.other_line);
  launched->reports.push_back(made);
}

void end() {
  launched->ended = true;
  give_way();
}

void give_way() {
  if (self) Fiber::change(self->fiber, launched->scheduler);
}

std::string names_of(const std::vector<unsigned>& threads) {
  std::string names = threads.size() == 1 ? "thread" : "threads";
  for (size_t i = 0; i < threads.size(); ++i) {
    size_t last = i;
    while (last + 1 < threads.size() && threads[last + 1] == threads[last] + 1) ++last;
    names += (i ? ", " : " ") + std::to_string(threads[i]);
    if (last > i) names += (last > i + 1 ? " to " : ", ") + std::to_string(threads[last]);
    i = last;
  }
  return names;
}

void synchronize_block() {
  self->site = site_of(__builtin_return_address(0));
  self->state = State::barrier;
  give_way();
}

char* shared_memory() { return launched->shared().begin; }

void assume(bool fact) {
  if (!fact) report("assumption", site_of(__builtin_return_address(0)), "what is assumed is not so", self->index);
}

namespace {

void thread_main() {
  launched->function(launched->captured);
  self->state = State::done;
  give_way();
}

void resume(Thread& thread) {
  self = &thread;
  indices.thread.x = thread.index;
  Fiber::change(launched->scheduler, thread.fiber);
  self = nullptr;
}

// The threads that wait at a barrier, by its place in the sources.
std::vector<std::pair<Site, std::vector<unsigned>>> by_barrier() {
  std::vector<std::pair<Site, std::vector<unsigned>>> groups;
  for (const auto& thread : launched->threads) {
    if (thread->state != State::barrier) continue;
    const auto same = [&](const auto& group) { return same_place(group.first, thread->site); };
    const auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group != groups.end()) group->second.push_back(thread->index);
    else groups.push_back({thread->site, {thread->index}});
  }
  return groups;
}

// All that are left wait at a barrier: it opens, with a report unless all threads of the block are there.
void open_barrier() {
  auto groups = by_barrier();
  std::vector<unsigned> gone;
  for (const auto& thread : launched->threads) {
    if (thread->state == State::done) gone.push_back(thread->index);
    else thread->state = State::ready;
  }
  const auto fewer = [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); };
  const auto& [site, threads] = *std::min_element(groups.begin(), groups.end(), fewer);
  if (groups.size() > 1) {
    const Site other = groups[site == groups[0].first].first;
    const std::string message = "only " + names_of(threads) + " wait here; others wait at " + place(other);
    report("barrier", site, message, threads[0], other);
    end();
  } else if (!gone.empty()) {
    report("barrier", site, names_of(gone) + " returned without reaching it", gone[0]);
  }
  ++launched->epoch;
}

void run_block() {
  auto& threads = launched->threads;
  for (;;) {
    bool waiting = false;
    for (size_t warp = 0; warp < threads.size(); warp += 32) {
      for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = warp; i < std::min(warp + 32, threads.size()); ++i) {
          if (threads[i]->state != State::ready) continue;
          resume(*threads[i]);
          if (launched->ended) return;
          moved = true;
        }
      }
    }
    for (const auto& thread : threads) {
      if (thread->state == State::collective) return report_stuck(*thread);
      waiting |= thread->state == State::barrier;
    }
    if (!waiting) return;
    open_barrier();
    if (launched->ended) return;
  }
}

void start_block(unsigned block) {
  indices.block.x = block;
  launched->first_epochs.push_back(++launched->epoch);
  // NaN in every format, for who reads what nobody wrote
  std::memset(launched->shared().begin, 0xff, launched->shared().bytes);
  for (unsigned i = 0; i < indices.threads.x; ++i) {
    Thread& thread = *launched->threads[i];
    thread.index = i;
    thread.state = State::ready;
    thread.arrival = {};
    thread.clock = 1;
    std::fill(std::begin(thread.seen), std::end(thread.seen), 0);
    thread.copies.clear();
    thread.groups = 0;
    thread.fiber.start(thread_main);
  }
}

// Stacks are kept from launch to launch.
std::vector<std::unique_ptr<Thread>> stock;

void check(unsigned grid, unsigned block, size_t shared_bytes) {
  if (launched) throw std::logic_error("a launch from within a launch");
  if (!grid || !block || block > 1024) throw std::invalid_argument("a grid has blocks, and a block 1 to 1024 threads");
  if (shared_bytes > 227 << 10) throw std::invalid_argument("a block has at most 227 KiB of shared memory");
}

}  // namespace

std::vector<Report> run(
    Function function, const void* captured, size_t captured_bytes, unsigned grid, unsigned block,
    size_t shared_bytes, const std::vector<Buffer>& buffers) {
  check(grid, block, shared_bytes);
  struct Aligned {
    alignas(128) char bytes[128];
  };
  std::vector<Aligned> shared(shared_bytes / sizeof(Aligned) + 2);
  Launch launch;
  launch.regions.emplace_back("shared memory", shared.data(), shared_bytes, Space::shared, Use::scratch);
  launch.regions.emplace_back(
      "the arguments", const_cast<void*>(captured), captured_bytes, Space::any, Use::in);
  for (const Buffer& buffer : buffers) {
    launch.regions.emplace_back(buffer.name, buffer.address, buffer.bytes, Space::global, buffer.use);
  }
  while (stock.size() < block) stock.push_back(std::make_unique<Thread>());
  launch.threads.swap(stock);
  std::vector<std::unique_ptr<Thread>> spare;
  for (size_t i = block; i < launch.threads.size(); ++i) spare.push_back(std::move(launch.threads[i]));
  launch.threads.resize(block);
  launch.function = function;
  launch.captured = captured;
  launched = &launch;
  indices = {{0}, {0}, {block}, {grid}};
  for (unsigned i = 0; i < grid && !launch.ended; ++i) {
    start_block(i);
    run_block();
  }
  for (const Region& region : launch.regions) {
    if (region.use == Use::out && !launch.ended) report_unwritten(region);
  }
  launched = nullptr;
  stock.swap(launch.threads);
  for (auto& thread : spare) stock.push_back(std::move(thread));
  return launch.reports;
}

void* Call::address(const std::string& name) const {
  for (const Buffer& buffer : buffers) {
    if (buffer.name == name) return buffer.address;
  }
  return nullptr;
}

double Call::number(const std::string& name) const {
  const auto found = scalars.find(name);
  if (found == scalars.end()) throw std::invalid_argument("the kernel takes a number '" + name + "'");
  return found->second;
}

std::map<std::string, Kernel::Body>& kernels() {
  static std::map<std::string, Kernel::Body> all;
  return all;
}

Kernel::Kernel(const char* name, Body body) { kernels()[name] = body; }

}  // namespace host
