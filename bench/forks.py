"""Starts Python processes in hosts by forking one that has loaded their code already.

Ninety-six nodes have ninety-six processors of their own; here they share two, and loading edgeshare takes half a second
of one. So the code is loaded once. What runs after the fork is the command itself, `edgeshare.cli.main:main` with its
arguments, in its own namespace, session and log.

The server (`python -m bench.forks`) reads one JSON line for each process and answers with its id.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

_CLONE_NEWNET = 0x40000000  # sched.h
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # prctl.h
_LOADED = ("edgeshare.cli.main", "edgeshare.cli.node", "edgeshare.daemon", "bench.bare")


class Forked:
    """A process that is the server's child, used like a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = -1

    def poll(self) -> int | None:
        """None while it runs; its exit code is the server's to know, so 0 stands for any."""
        if self._handle >= 0 and select.select([self._handle], [], [], 0)[0]:
            os.close(self._handle)
            self._handle = -1
        return 0 if self._handle < 0 else None

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None and not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The server, seen from the lab."""

    def __init__(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "bench.forks"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True, bufsize=1
        )

    def start(self, space: str, call: str, arguments: Sequence[str], log: Path) -> Forked:
        """Call the function `call`, `module:name`, with `arguments` in a process of the namespace `space`."""
        asked: IO[str] | None = self._server.stdin
        answered: IO[str] | None = self._server.stdout
        assert asked is not None
        assert answered is not None
        asked.write(json.dumps({"space": space, "call": call, "arguments": list(arguments), "log": str(log)}) + "\n")
        return Forked(int(answered.readline()))

    def close(self) -> None:
        """End the server; what it has forked is ended by the lab before, or by the kernel now."""
        self._server.terminate()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe:
                pipe.close()


def serve() -> None:
    """Fork for each line until there are no more."""
    for name in _LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the ended away
    gc.collect()
    gc.freeze()  # or the collector would write to pages that all could share
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(asked["space"], asked["call"], asked["arguments"], asked["log"])
        print(pid, flush=True)


def _become(space: str, call: str, arguments: list[str], log: str) -> NoReturn:
    code = 1
    try:
        _enter(space, log)
        module, _, name = call.partition(":")
        sys.argv = [module, *arguments]
        getattr(importlib.import_module(module), name)(arguments)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may come back into the server's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _enter(space: str, log: str) -> None:
    """Be a process of the host."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, output, output)):
        os.dup2(source, target)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, space.rpartition("-")[2].encode())  # what `top` shows: n12, origin
    network = os.open(f"/run/netns/{space}", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {space}")
    os.close(network)


if __name__ == "__main__":
    serve()
