#!/usr/bin/env python3
"""Checks the rules of the tree that a compiler does not: which folder may include which, that models include no
operating-system header, that libraries stay where they belong, that each device has its whole shape, and file sizes.

Usage: lint_layers.py [ROOT]. Prints one line a problem; exit status 1 when there is any."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()

# folder prefix -> prefixes of this project's headers that it may include. The longest matching prefix counts.
ALLOWED = {
    "ipc/base": ["ipc/base"],
    "ipc/control": ["ipc/"],
    "ipc": ["ipc/base", "ipc/shm", "ipc/ring", "ipc/state", "ipc/wire", "ipc/roles", "ipc/screen"],
    "sandbox": ["sandbox/", "ipc/"],
    "devproc/core": ["devproc/core", "ipc/base", "ipc/roles", "ipc/state", "ipc/screen"],
    "devproc/models": ["devproc/core", "devproc/models", "ipc/base", "ipc/roles", "ipc/state", "ipc/wire", "ipc/screen"],
    "devproc/registry": ["devproc/", "ipc/"],
    "devproc": ["devproc/", "ipc/", "sandbox/"],
    "vmm": ["vmm/", "ipc/", "sandbox/"],
    "tools": ["tools/", "ipc/"],
    "tests": [""],
}
OS_HEADER = re.compile(r"<(sys/|linux/|asm/|unistd|fcntl|poll|pthread|sched|signal|time\.h|errno\.h|thread|mutex|"
                       r"condition_variable|iostream|fstream|cstdio|ctime|chrono|filesystem|boost/interprocess)")
CONFINED = {  # header pattern -> folders that may include it
    r"<boost/interprocess": ["ipc/shm", "ipc/base", "vmm/memory"],
    r"<(capnp|kj)/": ["ipc/control", "vmm/api", "tests"],
    r"<seccomp\.h>": ["sandbox", "tests/sandbox"],
    r"<(gtest|gmock)/": ["tests"],
    r"<benchmark/": ["tests/bench"],
    r"<(slirp/|libslirp|glib)": ["devproc/usernet"],
}
MAX_LINES = 600
GENERATED = ("ipc/control/", "vmm/firmware/dsdt_aml.h")

problems = []


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def longest(table, path):
    keys = [key for key in table if path.startswith(key)]
    return table[max(keys, key=len)] if keys else None


def check_file(path):
    name = str(path.relative_to(ROOT))
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > MAX_LINES:
        problem(name, len(lines), f"{len(lines)} lines; files stay under {MAX_LINES}")
    allowed = longest(ALLOWED, name)
    for number, line in enumerate(lines, 1):
        own = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if own and allowed is not None:
            target = own.group(1)
            if "/" not in target:
                problem(name, number, f'"{target}": include paths start at the root')
            elif not target.endswith(".capnp.h") and not any(target.startswith(prefix) for prefix in allowed):
                problem(name, number, f"may not include {target}")
        if not re.match(r"\s*#\s*include\s+<", line):
            continue
        if name.startswith(("devproc/models", "devproc/core")) and OS_HEADER.search(line):
            problem(name, number, "a model includes no operating-system header")
        for pattern, folders in CONFINED.items():
            if re.search(pattern, line) and not any(name.startswith(folder) for folder in folders):
                problem(name, number, f"this library is used in {', '.join(folders)} only")


def check_device_shapes():
    registry = (ROOT / "devproc/registry.cc").read_text()
    types = (ROOT / "ipc/roles/device_types.cc").read_text()
    tests = {p.name for p in (ROOT / "tests/unit/devproc").rglob("*_test.cc")}
    fuzzers = {p.name for p in (ROOT / "tests/fuzz").glob("*_fuzz.cc")}
    for folder in sorted((ROOT / "devproc/models").iterdir()):
        if not folder.is_dir() or folder.name in ("common", "virtio"):  # what devices share
            continue
        device = folder.name
        type_name = "pci_bus" if device == "pci" else device
        where = f"devproc/models/{device}"
        if not (folder / "spec.h").exists():
            problem(where, 1, "has no spec.h")
        if f'"{type_name}"' not in registry:
            problem(where, 1, "has no line in devproc/registry.cc")
        if f'"{type_name}"' not in types:
            problem(where, 1, "has no declaration in ipc/roles/device_types.cc")
        if not any(test.startswith(device) for test in tests):
            problem(where, 1, "has no unit test")
        if not any(fuzzer.startswith(device) for fuzzer in fuzzers):
            problem(where, 1, "has no fuzz target")


for folder in ("ipc", "sandbox", "devproc", "vmm", "tools", "tests"):
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix in (".cc", ".h"):
            check_file(path)
check_device_shapes()
for text in problems:
    print(text)
sys.exit(1 if problems else 0)
