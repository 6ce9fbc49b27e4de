# Shared by the scripts in tools/: where the repository is, how to fail, how to become root.
# Source it; it sets no options of its own.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$repo/build

# One clear sentence on stderr, then out. Scripts with their own exit codes set die_status.
die() {
  echo "${0##*/}: $*" >&2
  exit "${die_status:-1}"
}

# Prints the comment block at the top of the calling script: that block is its manual.
print_help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "needs root for: $* (become root, or install sudo)"
  fi
}

# A stock kernel needs VT-x or SVM below KVM. Without them /dev/kvm may still exist (a PVM-based KVM) and
# serves this project's own small guests, but it interprets kernel code and no stock kernel gets to its init.
# Prints why a stock kernel cannot run on this host; prints nothing and fails when it can.
why_no_stock_kernel() {
  if ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
    echo "this host's CPU offers neither VT-x nor SVM"
  elif [ ! -e /dev/kvm ]; then
    echo "there is no /dev/kvm on this host"
  elif [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
    echo "/dev/kvm may not be used by $(id -un) (join group kvm?)"
  else
    return 1
  fi
}
