// How the managing commands reach a running VM and report what went wrong.
#pragma once

#include <memory>
#include <string>

#include "ipc/control/management_client.h"
#include "ipc/control/run_directory.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {

inline int fail(const Error& error) {
  complain(error.message);
  return control::kExitHostError;
}

inline Result<std::unique_ptr<control::ManagementClient>> reach(const std::string& name) {
  ASSIGN_OR_RETURN(const control::RunDirectory directory,
                   control::RunDirectory::open(control::default_run_directory()));
  ASSIGN_OR_RETURN(UniqueFd socket, directory.connect(name));
  return control::ManagementClient::create(std::move(socket));
}

}  // namespace bulkhead::cli
