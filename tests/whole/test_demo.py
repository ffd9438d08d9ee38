"""The demo as its user runs it: real processes, a table, a summary, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

DEMO = [sys.executable, "-m", "edgeshare", "demo"]


def children_in(folder: Path) -> list[str]:
    """The command lines of running processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_the_demo_ends_by_itself_when_every_node_has_every_lesson(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--once"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    summary = re.search(r"4 nodes have 3 lessons of .* (\d+\.\d\d) copies for 4 nodes", done.stdout)
    assert summary, done.stdout
    assert 0.9 <= float(summary[1]) < 4, "the origin gave something, and less than a copy to each"
    assert list(tmp_path.iterdir()) == []
    assert children_in(tmp_path) == []


def test_ctrl_c_ends_every_process_of_the_demo_and_removes_its_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "--homes", "1"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stderr
            port = next(found[1] for line in demo.stderr if (found := re.search(r"http://localhost:(\d+)/", line)))
            until_answered(f"http://127.0.0.1:{port}/healthz")
            assert len(children_in(tmp_path)) == 3
            demo.send_signal(signal.SIGINT)
            _, rest = demo.communicate(timeout=30)
        finally:
            demo.terminate()
    assert demo.returncode == 0, rest
    assert list(tmp_path.iterdir()) == []
    assert children_in(tmp_path) == []


def until_answered(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                assert response.status == 200
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"{url} did not come up")
