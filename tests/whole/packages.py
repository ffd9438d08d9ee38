"""What tests take from package registries, and the project does not keep.

Two French books of Debian as lesson folders: thousands of pages and pictures that nobody made for these tests. And
axe-core (MPL-2.0), which looks for what keeps readers out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from .support import needed

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeshare-tests"

_AXE = "4.14.1"  # has RGAA's tags
_AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"

_LESSON = """\
id = "{id}"
title = "{title}"
language = "fr"
levels = ["6e"]
subjects = ["sciences-et-technologie"]
description = "{title}, tel que Debian le distribue."
licence = "{licence}"
start = "{start}"
"""

_CUSTOM_STYLE = "div.preface .titlepage .title, div.chapter .titlepage .title { background-image: none }"


def gimp_help(folder: Path) -> Path:
    """GIMP's manual as the lesson `gimp-help-fr`.

    Its pages refer to nothing outside `help/fr`, so that subtree is the lesson. What the package lacks an editor mends:
    the fonts are elsewhere than its style sheets think, so a link inside the lesson leads there; and the sheet for
    one's own wishes is missing, so there is one, which also does without a picture that is missing too.
    """
    whole = _unpacked("gimp-help-fr", folder)
    lesson = whole / "usr/share/gimp/2.0/help/fr"
    (lesson / "theme").mkdir()
    (lesson / "theme" / "fonts").symlink_to("../images/fonts")
    (lesson / "gimp-help-custom.css").write_text(_CUSTOM_STYLE, encoding="utf-8")
    _describe(lesson, id="gimp-help-fr", title="Le manuel de GIMP", licence="GFDL-1.2-or-later", start="index.html")
    return lesson


def edu_manual(folder: Path) -> Path:
    """Debian Edu's manual as the lesson `debian-edu-doc-fr`.

    Most of its pictures are links into debian-edu-doc-en, which it depends on. That package is unpacked beside it, and
    a copy takes the place of each link that leaves the folder; links inside it stay links, as a publisher may have.
    """
    whole = _unpacked("debian-edu-doc-fr", folder)
    _unpacked("debian-edu-doc-en", folder, into=whole)
    lesson = whole / "usr/share/doc/debian-edu-doc-fr"
    leaving = [
        (link, link.resolve(strict=True))
        for link in lesson.rglob("*")
        if link.is_symlink() and not (link.parent / link.readlink()).resolve().is_relative_to(lesson.resolve())
    ]
    for link, target in leaving:
        link.unlink()
        shutil.copyfile(target, link)
    title = "Le manuel de Debian Edu"
    start = "debian-edu-bookworm-manual.html"
    _describe(lesson, id="debian-edu-doc-fr", title=title, licence="GPL-2.0-or-later", start=start)
    return lesson


def axe_core() -> str:
    """The source of axe-core, fetched once by `npm`, which knows where from, and kept between runs."""
    kept = CACHE / f"axe-core-{_AXE}.tgz"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            command = [needed("npm"), "pack", f"axe-core@{_AXE}", "--silent", "--pack-destination", draft]
            done = subprocess.run(command, cwd=draft, capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == 0, f"axe-core cannot be fetched: {done.stderr}"
            (fetched,) = Path(draft).glob("*.tgz")
            fetched.rename(kept)
    found = hashlib.sha256(kept.read_bytes()).hexdigest()
    assert found == _AXE_SHA256, f"{kept} is not the axe-core that was chosen: {found}"
    with tarfile.open(kept) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode("utf-8")


def _describe(lesson: Path, **fields: str) -> None:
    (lesson / "lesson.toml").write_text(_LESSON.format(**fields), encoding="utf-8")


def _unpacked(package: str, folder: Path, into: Path | None = None) -> Path:
    target = into or folder / package
    subprocess.run(["dpkg", "-x", _fetched(package), target], check=True, timeout=60)
    return target


def _fetched(package: str) -> Path:
    """The package's .deb, fetched once and kept between runs."""
    if kept := sorted(CACHE.glob(f"{package}_*.deb")):
        return kept[-1]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as draft:
        done = _download(package, draft)
        if done.returncode and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=180)
            done = _download(package, draft)
        if done.returncode and os.geteuid() != 0:
            pytest.skip(f"{package} cannot be fetched, and only root can run `apt-get update`: {done.stderr}")
        assert done.returncode == 0, f"{package} cannot be fetched: {done.stderr}"
        (fetched,) = Path(draft).glob("*.deb")
        return fetched.rename(CACHE / fetched.name)


def _download(package: str, folder: str) -> subprocess.CompletedProcess[str]:
    # as this user: apt's own, which it would change to, cannot write here
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
