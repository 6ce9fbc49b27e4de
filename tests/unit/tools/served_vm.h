// Server: a management server in this process, at a name in a run directory of its own, whose VM is a FakeControl.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "ipc/control/management_client.h"
#include "ipc/control/run_directory.h"
#include "tests/unit/tools/fake_control.h"
#include "tests/unit/tools/program.h"
#include "vmm/api/management_server.h"

namespace bulkhead::vmm {

class Server {
 public:
  // `prepare` runs before the server's thread exists.
  explicit Server(const std::function<void(FakeControl&)>& prepare = [](FakeControl&) {})
      : directory_(control::RunDirectory::open(scratch_.path("run")).value()),
        name_(directory_.claim("alpha").value()) {
    prepare(vm);
    server_ = ManagementServer::start(name_.listen().value(), vm).value();
  }
  UniqueFd connect() { return directory_.connect("alpha").value(); }
  std::unique_ptr<control::ManagementClient> client(std::chrono::milliseconds timeout = std::chrono::seconds(10)) {
    return control::ManagementClient::create(connect(), timeout).value();
  }
  // In a thread of its own: a client belongs to one thread.
  bool answers() {
    bool good = false;
    std::thread([&] { good = static_cast<bool>(client(std::chrono::seconds(2))->status()); }).join();
    return good;
  }
  void stop() { server_.reset(); }

  cli::test::Scratch scratch_;
  FakeControl vm;

 private:
  control::RunDirectory directory_;
  control::ClaimedName name_;
  std::unique_ptr<ManagementServer> server_;
};

}  // namespace bulkhead::vmm
