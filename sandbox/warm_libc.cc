#include <execinfo.h>
#include <malloc.h>
#include <sys/random.h>
#include <time.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

#include "sandbox/enter.h"

namespace bulkhead::sandbox {
namespace {

// The compiler must not see through a call whose result nobody uses.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

// Without buffers of their own, the streams ask fstat and ioctl about their descriptor at first use.
void give_streams_buffers() {
  static std::array<char, 1024> input;
  static std::array<char, 1024> output;
  std::setvbuf(stdin, input.data(), _IOFBF, input.size());
  std::setvbuf(stdout, output.data(), _IOLBF, output.size());
  std::setvbuf(stderr, nullptr, _IONBF, 0);
}

// The first exception makes the unwinder look for the program's tables.
void throw_once() {
  try {
    throw std::runtime_error("warm-up");
  } catch (const std::exception& error) {
    keep(error);
  }
}

int compare_ints(const void* a, const void* b) { return *static_cast<const int*>(a) - *static_cast<const int*>(b); }

// qsort of more than 1 KiB asks sysconf for the machine's memory, once.
void sort_once() {
  std::array<int, 1024> numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i * 7919 % 1024);
  std::qsort(numbers.data(), numbers.size(), sizeof(int), compare_ints);
  keep(numbers);
}

}  // namespace

void warm_libc() {
  // malloc: no mapping of its own for large blocks, hence no mremap when they grow; and no second arena.
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_ARENA_MAX, 1);
  std::free(std::malloc(64));  // draws the allocator's random key

  give_streams_buffers();

  // The host's time zone. Without TZ in the environment, localtime() and mktime() look at /etc/localtime
  // each time; with it they compare the name and are content.
  ::setenv("TZ", "/etc/localtime", 0);
  ::tzset();
  const time_t now = ::time(nullptr);
  tm parts{};
  keep(::localtime_r(&now, &parts));
  keep(::localtime(&now));
  std::array<char, 64> text{};
  keep(std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M %Z", &parts));

  keep(std::strerror(ENOENT));
  keep(std::strerror(12345));  // an unknown one is composed
  std::ostringstream stream;
  stream << 1.5 << ' ' << 42;
  keep(stream.str());
  keep(std::snprintf(text.data(), text.size(), "%f %s", 0.1, "warm-up"));
  throw_once();
  std::array<void*, 16> frames{};
  keep(::backtrace(frames.data(), static_cast<int>(frames.size())));
  sort_once();
  std::uint64_t random = 0;
  keep(::getrandom(&random, sizeof random, GRND_NONBLOCK));
}

}  // namespace bulkhead::sandbox
