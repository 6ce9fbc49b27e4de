# Drives VMs from a script (bash), as a person at the terminal would: type, wait for an answer. Source it.
#
# A VM is known by its name here as in `bulkhead ls`. Its files are in $vm_dir: NAME.console is what came out of its
# console, NAME.stderr what `bulkhead run` said, and NAME.stdin is where its console reads from.

vm_dir=$(mktemp -d "${TMPDIR:-/tmp}/bulkhead-vms.XXXXXX")
declare -A vm_pid vm_input

# vm_start NAME ARGUMENT...: `bulkhead run --name NAME ARGUMENT...` in the background.
vm_start() {
  local name=$1 input
  shift
  mkfifo "$vm_dir/$name.stdin"
  : >"$vm_dir/$name.console" # whoever waits for text may look before the background has got that far
  bulkhead run --name "$name" "$@" <"$vm_dir/$name.stdin" >"$vm_dir/$name.console" 2>"$vm_dir/$name.stderr" &
  vm_pid[$name]=$!
  exec {input}>"$vm_dir/$name.stdin" # held open: otherwise the console would see the end of its input
  vm_input[$name]=$input
}

vm_running() { kill -0 "${vm_pid[$1]}" 2>/dev/null; }

# vm_await NAME TEXT [COUNT [SECONDS]]: waits until TEXT has come out of the console COUNT times (once); fails when the
# VM ends before, or after SECONDS (180).
vm_await() {
  local name=$1 text=$2 count=${3:-1} end=$((SECONDS + ${4:-180}))
  while [ "$(grep -cF -- "$text" "$vm_dir/$name.console")" -lt "$count" ]; do
    vm_running "$name" || {
      # It may have said so just before it ended.
      [ "$(grep -cF -- "$text" "$vm_dir/$name.console")" -ge "$count" ]
      return
    }
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

# vm_answer NAME PREFIX: waits for a whole line that starts with PREFIX and prints the rest of it.
vm_answer() {
  local line
  vm_await "$1" "$2" || return
  while line=$(vm_console "$1" | sed '$d' | grep -m 1 "^$2") || vm_running "$1"; do
    [ -z "$line" ] || break
    sleep 0.1
  done
  printf '%s\n' "${line#"$2"}"
}

# vm_type NAME TEXT: types a line.
vm_type() { printf '%s\n' "$2" >&"${vm_input[$1]}"; }

# vm_wait NAME [SECONDS]: waits for the VM to end (120) and sets vm_status to the exit status of `bulkhead run`,
# or to `none` if it had to be killed.
vm_wait() {
  local name=$1 input=${vm_input[$1]} end=$((SECONDS + ${2:-120}))
  vm_status=0
  while vm_running "$name" && [ "$SECONDS" -lt "$end" ]; do
    sleep 0.1
  done
  if vm_running "$name"; then
    kill -KILL "${vm_pid[$name]}"
    wait "${vm_pid[$name]}" 2>/dev/null
    vm_status=none
  else
    wait "${vm_pid[$name]}" || vm_status=$?
  fi
  exec {input}>&-
  rm -f "$vm_dir/$name.stdin"
}

# The console as text: without carriage returns and the escape sequences of a shell's line editor.
vm_console() { tr -d '\r' <"$vm_dir/$1.console" | sed $'s/\x1b\\[[0-9;]*[A-Za-z]//g'; }
