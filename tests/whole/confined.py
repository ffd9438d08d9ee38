"""Run a program under a unit's system call rules, where no systemd runs: `python confined.py UNIT PROGRAM ARGUMENT…`.

Applies `SystemCallFilter=`, `RestrictAddressFamilies=` and `MemoryDenyWriteExecute=` as systemd.exec(5) has them, with
libseccomp, which systemd uses as well; a refused call gives EPERM. The lists behind names like @system-service come
from `systemd-analyze syscall-filter`. Needs no privileges.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
_REFUSE = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO
_EQUAL, _MASKED = 4, 7  # SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ
_UNKNOWN = -1  # of a system call's name that this kernel does not have


class _Condition(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def settings(unit: Path, key: str) -> list[str]:
    """The values of every line `key=…` of a unit."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.partition("=")[0] == key]


def allowed_calls(unit: Path) -> set[str]:
    """The names of the system calls that a unit's `SystemCallFilter=` lines leave."""
    groups = _groups()
    allowed: set[str] = set()
    for line in settings(unit, "SystemCallFilter"):
        named = _calls(line.removeprefix("~").split(), groups)
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed | _calls(["@default"], groups)  # systemd always leaves these


def confine(unit: Path) -> None:
    """Put this process, and what it will be, under the rules of `unit`; for good."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_REFUSE))
    conditions = _conditions(unit)
    for call in sorted(allowed_calls(unit)):
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number == _UNKNOWN:
            continue
        for condition in conditions.get(call, [None]):
            count, where = (0, None) if condition is None else (1, ctypes.byref(condition))
            failed = library.seccomp_rule_add_array(context, _ALLOW, number, count, where)
            assert not failed, f"no rule for {call}: {os.strerror(-failed)}"
    failed = library.seccomp_load(context)
    assert not failed, f"the filter is refused: {os.strerror(-failed)}"


def _conditions(unit: Path) -> dict[str, list[_Condition | None]]:
    """For calls that are allowed only with certain arguments: which."""
    found: dict[str, list[_Condition | None]] = {}
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        found["mmap"] = [_Condition(2, _MASKED, both, some) for some in (0, mmap.PROT_WRITE, mmap.PROT_EXEC)]
        found["mprotect"] = found["pkey_mprotect"] = [_Condition(2, _MASKED, mmap.PROT_EXEC, 0)]
        found["shmat"] = [_Condition(2, _MASKED, 0o100000, 0)]  # SHM_EXEC
    if families := settings(unit, "RestrictAddressFamilies"):
        found["socket"] = [_Condition(0, _EQUAL, getattr(socket, name), 0) for name in families[0].split()]
    return found


def _groups() -> dict[str, list[str]]:
    """systemd's names for sets of system calls, and what is in each: calls and other sets."""
    done = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True)
    groups: dict[str, list[str]] = {}
    inside: list[str] = []
    for line in done.stdout.splitlines():
        if line.startswith("@"):
            inside = groups[line] = []
        elif line.startswith(" ") and not line.strip().startswith("#"):
            inside.append(line.strip())
    return groups


def _calls(names: Iterable[str], groups: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for name in names:
        found |= _calls(groups[name], groups) if name.startswith("@") else {name}
    return found


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
