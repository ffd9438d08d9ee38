"""Disks of a test's own: a small one, to be filled, and a folder that nobody may write to."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size`, like `64k` or `6m`, mounted at the new `folder`; it takes root, else the test is skipped."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk of its own takes root, and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, how: str) -> None:
    """Mount a disk of `mounted` anew, as `ro` or `rw`; for the first nothing may be open for writing there."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write below `folder`, root neither, as long as the context lasts."""
    if os.geteuid() != 0:  # the mode of a folder says nothing to root
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@attrs.frozen
class RealDisk:
    """A disk with a real file system (ext4, in a file), so that its power can be cut."""

    image: Path
    folder: Path

    def cut_the_power(self) -> None:
        """What was not flushed is lost; who uses the disk gets errors from now on, until `replug`.

        By the ioctl that the kernel's own crash tests use (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH).
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, 0x8004587D, struct.pack("I", 2))
        finally:
            os.close(descriptor)

    def fail(self) -> None:
        """Have the kernel find an error, upon which it takes no more writes, whoever has files open."""
        source = subprocess.run(
            ["findmnt", "--noheadings", "--output", "SOURCE", self.folder], check=True, capture_output=True, text=True
        )
        Path("/sys/fs/ext4", Path(source.stdout.strip()).name, "trigger_fs_error").write_text("a test")

    def replug(self) -> None:
        """Mount it anew, its journal replayed; nobody may use it any more."""
        subprocess.run(["umount", self.folder], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", self.image, self.folder], check=True)


@contextmanager
def real_disk(folder: Path, size: str) -> Iterator[RealDisk]:
    """A disk of `size`, mounted at the new `folder`; it takes root and a loop device, else the test is skipped."""
    image = folder.with_name(f"{folder.name}.img")
    folder.mkdir(parents=True)
    disk = RealDisk(image, folder)
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("a disk whose power can be cut takes root and a loop device")
    subprocess.run(["truncate", "--size", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    disk._mount()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
