"""The spike's bench itself: a small crowd between network namespaces, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import PROJECT, needed, until

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in ("ip", "tc", "nft", "nsenter", "setpriv", "nginx", "opentracker"):
        needed(program)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where temporary files go; unlike pytest's, one that nginx's and opentracker's users can enter."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def spike(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Four nodes, 2 MiB, one run; under way, with its six namespaces made."""
    command = [sys.executable, "-m", "bench.spike", "--nodes", "4", "--size", "2MiB", "--runs", "1", "--timeout", "60"]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until("the lab stands", lambda: process.poll() is not None or len(networks_of(process)) == 6, 30.0)
        yield process
    finally:
        process.terminate()  # a kill would leave the lab standing
        process.communicate()


def networks_of(spike: subprocess.Popen[str]) -> set[int]:
    """The namespaces of a spike, by inode."""
    return {path.stat().st_ino for path in Path("/run/netns").glob(f"spike{spike.pid}-*")}


def processes_in(networks: set[int]) -> list[str]:
    """What runs in these namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (process / "ns" / "net").stat().st_ino in networks:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_four_nodes_finish_and_the_kernel_counts_between_one_and_two_copies(
    spike: subprocess.Popen[str], folder: Path
) -> None:
    networks = networks_of(spike)

    said, complaints = spike.communicate(timeout=150.0)

    assert spike.returncode == 0, complaints
    run, summary = (json.loads(line) for line in said.splitlines())
    assert (run["failed"], summary["failed"]) == ({}, 0)
    assert len(run["finished_s"]) == 4
    assert 1.0 <= run["copies_http"] < run["copies_wire"] < 2.0
    assert networks_of(spike) == set()
    assert processes_in(networks) == []
    assert list(folder.iterdir()) == []


def test_a_spike_that_is_ended_half_way_leaves_nothing_behind(spike: subprocess.Popen[str], folder: Path) -> None:
    networks = networks_of(spike)
    until("nodes run", lambda: any("bench.forks" in line for line in processes_in(networks)), 30.0)

    spike.send_signal(signal.SIGTERM)
    spike.communicate(timeout=30.0)

    assert networks_of(spike) == set()
    assert processes_in(networks) == []
    assert list(folder.iterdir()) == []
