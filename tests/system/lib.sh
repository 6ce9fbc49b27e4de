# What the system tests share. A test sources it first; where the host's KVM cannot run a stock kernel (or a test wants a
# machine to itself: needs_own_machine=1), it starts the test once more in a nested machine and ends with its status.
# After that `bulkhead` is on the PATH, $guests is the folder with the stock guest, and VMs are driven with
# tools/lib/vm.sh. Each check prints one line; `finish` sets the exit status.
set -uo pipefail

test_dir=$(cd "$(dirname "$0")" && pwd)
. "$test_dir/../../tools/lib/common.sh"

if [ -z "${BULKHEAD_NESTED:-}" ]; then
  if [ -n "${needs_own_machine:-}" ] || reason=$(why_no_stock_kernel); then
    echo "# in a nested machine: ${reason:-the test changes the machine that it runs on}"
    for try in 1 2 3; do
      status=0
      "$repo/tools/nested" ${nested_options[@]+"${nested_options[@]}"} --add "$repo/tools/lib:/src/tools/lib" \
        --add "$repo/tests/system:/src/tests/system" -- bash "/src/tests/system/${0##*/}" "$@" || status=$?
      [ "$status" = 126 ] || exit "$status"
      echo "# try $try: the emulator crashed or halted the outer machine; that says nothing about what runs in it"
    done
    exit "$status"
  fi
  guests=$build/guests
  PATH=$build/bin:$PATH
else
  guests=/guests
fi

. "$repo/tools/lib/vm.sh"
trap 'for pid in ${vm_pid[@]+"${vm_pid[@]}"}; do kill -KILL "$pid" 2>/dev/null; done; rm -rf "$vm_dir"' EXIT

checks=0 failures=0

ok() {
  checks=$((checks + 1))
  echo "ok $1"
}

# not_ok NAME DETAIL [VM]: a failed check; with a VM, the end of what it said, once.
declare -A told
not_ok() {
  checks=$((checks + 1)) failures=$((failures + 1))
  echo "FAIL $1: $2"
  [ -z "${3:-}" ] || [ -n "${told[$3]:-}" ] || {
    told[$3]=1
    echo "# the last lines of $3's console and stderr:"
    { vm_console "$3" | tail -n 30; tail -n 30 "$vm_dir/$3.stderr"; } | sed 's/^/#   /'
  }
}

# expect NAME EXPECTED ACTUAL [VM]: a check that two words are the same.
expect() {
  if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "expected '$2', got '$3'" "${4:-}"; fi
}

# expect_text VM CHECK TEXT [COUNT [SECONDS]]: a check that the VM's console says TEXT.
expect_text() {
  if vm_await "$1" "$3" "${4:-1}" "${5:-180}"; then ok "$2"; else not_ok "$2" "no '$3' on the console" "$1"; fi
}

# Every running program of ours, one a line: pid and name. (Without a process of its own for each: it is called often.)
bulkhead_processes() {
  local process name
  for process in /proc/[0-9]*; do
    name=
    { read -r name <"$process/comm"; } 2>/dev/null
    case $name in bulkhead*) echo "${process#/proc/} $name" ;; esac
  done
}

finish() {
  echo "# $((checks - failures)) of $checks checks ok"
  [ "$failures" = 0 ] && [ "$checks" -gt 0 ]
  exit
}
