#include "sandbox/jail_status.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <memory>

#include "ipc/base/unique_fd.h"

namespace bulkhead::sandbox {
namespace {

constexpr std::array<const char*, 7> kNamespaces = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"};

Result<std::string> read_file(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::open(path, O_RDONLY));
  std::string text;
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t got = ::read(fd.get(), part.data(), part.size());
    if (got < 0) return make_errno_error("cannot read " + path);
    if (got == 0) return {boost::system::in_place_value, text};
    text.append(part.data(), static_cast<std::size_t>(got));
  }
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
  if (directory == nullptr) return make_errno_error("cannot list " + path);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  return names;
}

Result<std::string> read_link(const std::string& path) {
  std::array<char, 4096> target{};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return make_errno_error("cannot read the link " + path);
  return {boost::system::in_place_value, target.data(), static_cast<std::size_t>(length)};
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// The first number of a field; 0 when there is none.
std::uint64_t number_of(std::string_view field, int base) {
  std::uint64_t value = 0;
  std::from_chars(field.data(), field.data() + field.size(), value, base);
  return value;
}

std::vector<gid_t> numbers_of(std::string_view field) {
  std::vector<gid_t> numbers;
  const char* at = field.data();
  const char* const end = at + field.size();
  while (at < end) {
    gid_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error == std::errc{}) numbers.push_back(value);
    at = error == std::errc{} ? next : at + 1;
  }
  return numbers;
}

void take_status_line(JailStatus& status, std::string_view line) {
  const std::size_t colon = line.find(":\t");
  if (colon == std::string_view::npos) return;
  const std::string_view key = line.substr(0, colon);
  const std::string_view field = line.substr(colon + 2);
  const auto decimal = [&] { return number_of(field, 10); };
  const auto hex = [&] { return number_of(field, 16); };
  if (key == "Seccomp") status.seccomp_mode = static_cast<int>(decimal());
  if (key == "Seccomp_filters") status.seccomp_filters = static_cast<int>(decimal());
  if (key == "NoNewPrivs") status.no_new_privs = decimal() != 0;
  if (key == "Threads") status.threads = static_cast<int>(decimal());
  if (key == "CapEff") status.cap_effective = hex();
  if (key == "CapPrm") status.cap_permitted = hex();
  if (key == "CapInh") status.cap_inheritable = hex();
  if (key == "CapBnd") status.cap_bounding = hex();
  if (key == "CapAmb") status.cap_ambient = hex();
  if (key == "Uid") status.uid = static_cast<uid_t>(decimal());
  if (key == "Gid") status.gid = static_cast<gid_t>(decimal());
  if (key == "Groups") status.groups = numbers_of(field);
}

Status take_root(JailStatus& status, const std::string& root) {
  ASSIGN_OR_RETURN(status.root_entries, list_directory(root + "/"));
  struct statvfs info {};
  if (::statvfs((root + "/").c_str(), &info) != 0) return make_errno_error("cannot inspect " + root);
  status.root_read_only = (info.f_flag & ST_RDONLY) != 0;
  return ok();
}

Status take_descriptors(JailStatus& status, const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory));
  for (const std::string& name : names) {
    Result<std::string> target = read_link(fmt::format("{}/{}", directory, name));
    if (target) {
      status.descriptors[static_cast<int>(number_of(name, 10))] = std::move(*target);
    } else if (target.error().error_number != ENOENT) {  // closed since, as the listing's own is
      return std::move(target).error();
    }
  }
  return ok();
}

}  // namespace

Result<JailStatus> read_jail_status(pid_t pid) {
  const std::string base = fmt::format("/proc/{}", pid);
  JailStatus status;
  ASSIGN_OR_RETURN(const std::string text, read_file(base + "/status"));
  for (const std::string& line : split_lines(text)) take_status_line(status, line);
  for (const char* name : kNamespaces) {
    ASSIGN_OR_RETURN(status.namespaces[name], read_link(base + "/ns/" + name));
  }
  RETURN_IF_ERROR(take_root(status, base + "/root"));
  RETURN_IF_ERROR(take_descriptors(status, base + "/fd"));
  ASSIGN_OR_RETURN(const std::string maps, read_file(base + "/maps"));
  status.mappings = split_lines(maps);
  return status;
}

std::string JailStatus::summary(const JailStatus& other) const {
  std::string own;
  for (const char* name : kNamespaces) {
    const auto mine = namespaces.find(name);
    const auto theirs = other.namespaces.find(name);
    if (mine == namespaces.end() || theirs == other.namespaces.end() || mine->second == theirs->second) continue;
    own += own.empty() ? name : fmt::format("+{}", name);
  }
  const bool no_caps = (cap_effective | cap_permitted | cap_inheritable | cap_bounding | cap_ambient) == 0;
  return fmt::format("{} seccomp:{} caps:{}{}{}", own.empty() ? "no-namespaces" : own, seccomp_mode,
                     no_caps ? "none" : fmt::format("{:x}", cap_effective), no_new_privs ? " nnp" : "",
                     root_entries.empty() && root_read_only ? " empty-root" : "");
}

}  // namespace bulkhead::sandbox
