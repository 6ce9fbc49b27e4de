// Result<T> and Status: how a function reports that the host or a peer let it down.
//
// Three kinds of failure, three tools (ARCHITECTURE.md, "Errors"):
//   - the guest did something odd      -> the hardware's answer, never an error value;
//   - the host or a peer process failed -> Result<T>, one clear sentence in Error::message;
//   - this program has a bug            -> CHECK() in check.h.
// Threading: values, no shared state.
#pragma once

#include <boost/system/result.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace bulkhead {

// One clear sentence for a person, plus the errno behind it (0 when there is none).
struct Error {
  std::string message;
  int error_number = 0;
};

[[noreturn]] inline void throw_exception_from_error(const Error& error, const boost::source_location&) {
  throw std::runtime_error(error.message);
}

template <class T>
using Result = boost::system::result<T, Error>;
using Status = Result<void>;

inline Status ok() { return Status(boost::system::in_place_value); }

inline Error make_error(std::string message) { return Error{std::move(message), 0}; }

// "cannot open /dev/kvm: Permission denied"
inline Error make_errno_error(std::string what, int error_number = errno) {
  return Error{std::move(what) + ": " + std::strerror(error_number), error_number};
}

}  // namespace bulkhead

#define BULKHEAD_CONCAT_INNER(a, b) a##b
#define BULKHEAD_CONCAT(a, b) BULKHEAD_CONCAT_INNER(a, b)

// Leaves the enclosing function with the error of `expression`, if it has one.
#define RETURN_IF_ERROR(expression)                                                                       \
  do {                                                                                                    \
    if (auto bulkhead_status = (expression); !bulkhead_status) return std::move(bulkhead_status).error(); \
  } while (false)

// `lhs = value of expression`, or leaves the enclosing function with its error.
#define ASSIGN_OR_RETURN(lhs, expression) \
  ASSIGN_OR_RETURN_IMPL(BULKHEAD_CONCAT(bulkhead_result_, __LINE__), lhs, expression)
#define ASSIGN_OR_RETURN_IMPL(name, lhs, expression) \
  auto name = (expression);                          \
  if (!name) return std::move(name).error();         \
  lhs = std::move(*name)
