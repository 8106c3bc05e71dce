// What Python sees: the kernels of this library, by name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "executor.h"

namespace py = pybind11;

namespace {

using Named = std::tuple<std::string, size_t, size_t, std::string>;  // name, address, bytes, use

host::Use use_of(const std::string& name) {
  if (name == "in") return host::Use::in;
  if (name == "out") return host::Use::out;
  if (name == "inout") return host::Use::inout;
  if (name == "scratch") return host::Use::scratch;
  throw std::invalid_argument("use='" + name + "' must be in, out, inout or scratch");
}

py::list run(
    const std::string& kernel, unsigned grid, unsigned block, size_t shared_bytes, const std::vector<Named>& buffers,
    const std::map<std::string, double>& scalars) {
  const auto found = host::kernels().find(kernel);
  if (found == host::kernels().end()) throw std::invalid_argument("there is no kernel '" + kernel + "'");
  host::Call call = {grid, block, shared_bytes, {}, scalars};
  for (const auto& [name, address, bytes, use] : buffers) {
    call.buffers.push_back({name, reinterpret_cast<void*>(address), bytes, use_of(use)});
  }
  py::list reports;
  for (const host::Report& report : found->second(call)) {
    reports.append(py::make_tuple(
        report.kind, report.message, report.file, report.line, report.block, report.thread, report.other_file,
        report.other_line));
  }
  return reports;
}

}  // namespace

PYBIND11_MODULE(executor, module) {
  module.def("run", &run);
  module.def("kernels", [] {
    py::list names;
    for (const auto& [name, body] : host::kernels()) names.append(name);
    return names;
  });
}
