"""The units in systemd/: accepted, tight, and a node works under their rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import confined
from .support import PROJECT, Site, edgeshare, needed, until

pytestmark = pytest.mark.whole

UNITS = PROJECT / "systemd"
UNIT = UNITS / "edgeshare.service"
LESSON = PROJECT / "manifests" / "lessons" / "maths-6e-fractions"

# systemd's measure of what a service could still do, in tenths. Syncthing's unit, which does much the same, has 28;
# what we need (the network, a control socket, the machine's addresses) is worth 11 at least.
EXPOSURE = 12


@pytest.mark.parametrize("name", ["edgeshare.service", "edgeshare-refresh.service", "edgeshare-refresh.timer"])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    _installed(tmp_path)
    done = _analyze("verify", tmp_path / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["edgeshare.service", "edgeshare-refresh.service"])
def test_the_unit_leaves_little_exposed(tmp_path: Path, name: str) -> None:
    _installed(tmp_path)
    assert _analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", tmp_path / name).returncode == 0
    assert _analyze("security", "--offline=yes", "--threshold=1", tmp_path / name).returncode != 0


@pytest.mark.parametrize("name", ["edgeshare.service", "edgeshare-refresh.service"])
def test_every_line_that_hardens_says_what_for(name: str) -> None:
    service = (UNITS / name).read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    plain = {"Type", "ExecStart", "Restart", "UMask", "RestartSec", "User"}
    comment = ""
    for line in service.splitlines():
        if line.startswith("#") or not line:
            comment = line
        else:
            assert comment or line.partition("=")[0] in plain, f"nothing above {line} says what it is for"


def test_the_units_rules_refuse_what_they_name(tmp_path: Path) -> None:
    attempts = """
        import mmap, os, socket
        def refused(attempt):
            try: attempt()
            except OSError: return True
        print(refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
              refused(lambda: socket.socket(socket.AF_VSOCK)),
              refused(lambda: os.sched_setaffinity(0, [0])), refused(lambda: os.chroot(".")),
              refused(lambda: socket.socket()), refused(lambda: open("file", "w")))
    """
    script = tmp_path / "attempts.py"
    script.write_text("if True:\n" + attempts, encoding="utf-8")
    command = [*_confined(), sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True True True True None None\n"


def test_a_node_works_under_the_units_rules(site: Site) -> None:
    origin = site.origin(LESSON)
    school = site.node("school", "school", origin.url)
    home = site.node("home", "home", origin.url, under=_confined())
    until("both have the lesson", lambda: school.has(LESSON.name) and home.has(LESSON.name), 30.0)
    assert home.file(LESSON.name, "index.html").content == (LESSON / "index.html").read_bytes()
    assert "home node" in edgeshare("status", "--config", home.config)
    home.running.stop()
    assert home.running.process.returncode == 0
    assert "permitted" not in home.running.log.read_text(encoding="utf-8")


def _installed(folder: Path) -> None:
    """The units, with a program that this machine has: whether edgeshare is in /usr/bin is not the question."""
    for unit in UNITS.glob("*.[st]*"):
        text = unit.read_text(encoding="utf-8").replace("ExecStart=/usr/bin/edgeshare ", "ExecStart=/usr/bin/true ")
        (folder / unit.name).write_text(text, encoding="utf-8")


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [needed("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _confined() -> list[str]:
    """What stands before a command that is to run under the unit's rules: no capabilities, and its system calls."""
    needed("systemd-analyze")
    command = [sys.executable, confined.__file__, str(UNIT)]
    if os.geteuid() != 0:
        return command  # it has no capabilities to drop
    return [needed("setpriv"), "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *command]
