#include "tools/bulkhead/run.h"

#include "tools/bulkhead/print.h"
#include "tools/bulkhead/run_setup.h"
#include "tools/bulkhead/session.h"

namespace bulkhead::cli {
namespace {

Result<Session> start(const RunOptions& options) {
  ASSIGN_OR_RETURN(RunSetup setup, prepare_run(options));
  return Session::start(std::move(setup));
}

}  // namespace

int run_vm(const RunOptions& options) {
  auto session = start(options);
  if (!session) {
    complain(session.error().message);
    return control::kExitHostError;
  }
  return session->run();
}

}  // namespace bulkhead::cli
