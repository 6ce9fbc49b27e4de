// Passes: what a test does at each failpoint that this process comes by (devproc/host/failpoint.h). One at
// a time.
#pragma once

#ifndef BULKHEAD_FAILPOINTS
#error "tests of failpoints link devhost_failpoints"
#endif

#include <functional>
#include <string_view>
#include <utility>

#include "devproc/host/failpoint.h"

namespace bulkhead::devproc {

class Passes {
 public:
  explicit Passes(std::function<void(std::string_view)> visit) {
    visitor() = std::move(visit);
    failpoint::on_pass = [](const char* name) { visitor()(name); };
  }
  ~Passes() { failpoint::on_pass = nullptr; }
  Passes(const Passes&) = delete;
  Passes& operator=(const Passes&) = delete;

 private:
  static std::function<void(std::string_view)>& visitor() {
    static std::function<void(std::string_view)> visit;
    return visit;
  }
};

}  // namespace bulkhead::devproc
