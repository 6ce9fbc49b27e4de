// The commands that talk to running VMs over their management sockets. Each returns an exit status.
#pragma once

#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

[[nodiscard]] int manage(const ListOptions& options);
[[nodiscard]] int manage(const DevicesOptions& options);
[[nodiscard]] int manage(const InspectOptions& options);
[[nodiscard]] int manage(const ActionOptions& options);
[[nodiscard]] int manage(const LimitOptions& options);
[[nodiscard]] int manage(const StatusOptions& options);      // balloon.cc
[[nodiscard]] int manage(const BalloonOptions& options);     // balloon.cc
[[nodiscard]] int manage(const ScreenshotOptions& options);  // screenshot.cc
[[nodiscard]] int manage(const SendKeysOptions& options);
[[nodiscard]] int manage(const ConsoleOptions& options);  // viewer.cc
[[nodiscard]] int manage(const EventsOptions& options);   // events.cc
[[nodiscard]] int manage(const FaultOptions& options);    // faults.cc
[[nodiscard]] int manage(const ReplaceOptions& options);  // faults.cc

}  // namespace bulkhead::cli
