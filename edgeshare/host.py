"""The seam to the operating system: all that ties a node to Linux.

Homes run Windows and macOS too. What differs there is asked for here and nowhere else: the library's lock, the
control socket, `sendfile`, the service manager, the durability of a rename. A port replaces this module.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import resource
import signal
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    import trio  # loaded by those functions that need it: publishing has no event loop, and starts 70 ms earlier


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Locked(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` as long as the context lasts, or as the process lives.

    Raises:
        Locked: another process holds it.
        OSError: the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        # one that is there can be held all the same (flock(2))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked from error
        yield
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make renames inside `path` last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make what another wrote to the file `path` last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_own(file: Path | int) -> bool:
    """Whether the file, or descriptor, belongs to this user or to root, who may do anything anyway; to root all do."""
    return os.geteuid() == 0 or os.stat(file).st_uid in (0, os.geteuid())


def access_of_others(file: Path | int) -> int:
    """What others than its owner, this user and root may do with the file, or descriptor: bits of os.R_OK and os.W_OK.

    Access control lists are read too (acl(5)): systemd grants a service its credentials by one, and stat(2) then shows
    the list's mask in place of the group's rights.
    """
    try:
        entries = struct.iter_unpack("<HHI", os.getxattr(file, "system.posix_acl_access")[4:])
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        mode = os.stat(file).st_mode
        return (mode >> 3 | mode) & 7
    masked, mask, rest = 0, 7, 0
    for tag, rights, user in entries:
        match tag:
            case 0x02 if user in (0, os.geteuid()):  # ACL_USER; of the tags in <linux/posix_acl.h>, 0x01 is the owner
                pass
            case 0x02 | 0x04 | 0x08:  # ACL_USER, ACL_GROUP_OBJ, ACL_GROUP
                masked |= rights
            case 0x10:  # ACL_MASK
                mask = rights
            case 0x20:  # ACL_OTHER
                rest = rights
    return masked & mask | rest


def listen_locally(path: Path) -> trio.SocketListener:
    """A listener on the control socket `path`, for its owner alone; an old socket there is replaced.

    The caller holds the library's lock, so that what it replaces is a dead daemon's.
    """
    import trio

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            os.fchmod(listener.fileno(), 0o600)  # before it has a name; the umask is other threads' too
            listener.bind(address)
        listener.listen(16)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    except BaseException:
        listener.close()
        raise


async def connect_locally(path: Path) -> trio.SocketStream:
    """A stream to the daemon that listens at `path`.

    Raises:
        FileNotFoundError: no daemon has ever listened there.
        ConnectionRefusedError: it is gone.
    """
    import trio

    stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            await stream.connect(address)
    except BaseException:
        stream.close()
        raise
    return trio.SocketStream(stream)


def receive_now(stream: trio.SocketStream, most: int) -> bytes | None:
    """What has arrived, at most so many bytes: none when the other side has closed, None when there is nothing yet.

    For a server that answers thousands of requests a second: trio's own `receive_some` takes three times as long.

    Raises:
        trio.BrokenResourceError: the other side is gone.
    """
    try:
        return os.read(stream.socket.fileno(), most)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _gone(error) from error


def send_now(stream: trio.SocketStream, parts: Sequence[bytes | memoryview]) -> int:
    """Have the kernel take as many bytes of `parts` as it has room for; how many those were.

    Raises:
        trio.BrokenResourceError: the other side is gone.
    """
    try:
        return os.writev(stream.socket.fileno(), parts)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise _gone(error) from error


def send_file_now(stream: trio.SocketStream, file: int, start: int, count: int) -> int | None:
    """Have the kernel take up to `count` bytes of the open `file` from `start`; how many, None when it has no room.

    None of them is 0 only at the file's end. They go from the page cache to the socket without passing through Python
    (sendfile(2)).

    Raises:
        trio.BrokenResourceError: the other side is gone.
    """
    try:
        return os.sendfile(stream.socket.fileno(), file, start, count)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _gone(error) from error


def _gone(error: OSError) -> BaseException:
    """What a broken connection is to trio; any other error as it is."""
    import trio

    is_gone = error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EBADF)
    return trio.BrokenResourceError() if is_gone else error


@contextlib.contextmanager
def corked(stream: trio.SocketStream) -> Iterator[None]:
    """Send in full packets only while the context lasts, so that a head leaves with its file (TCP_CORK, tcp(7))."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the client is gone, and there is nothing left to send
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def allow_open_files(wanted: int) -> int:
    """Raise this process's own limit on open files to `wanted`, as far as the system lets it; the limit from now on."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        limit = wanted
    return wanted if limit == resource.RLIM_INFINITY else limit


def open_beneath(folder: Path, parts: Sequence[str]) -> io.FileIO:
    """The regular file at `parts` below `folder`, open for reading; the caller closes it.

    No symbolic link below `folder` is followed, and no part may be `..`: what opens lies inside. Never waits on a FIFO.

    Raises:
        FileNotFoundError: there is none, or it is something else: a link, a folder, a device.
        PermissionError: this process may not read it.
        OSError: the disk, or the limit on open files.
    """
    if not parts or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise FileNotFoundError(errno.ENOENT, "not a path inside the folder")
    to_folder = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, to_folder, dir_fd=held)
            os.close(held)
            held = inner
        file = io.FileIO(
            os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held), "rb"
        )
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR):
            raise FileNotFoundError(errno.ENOENT, "no regular file there") from error
        raise
    finally:
        os.close(held)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "no regular file there")
    return file


def notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3)): `READY=1`, `STOPPING=1`, `STATUS=…`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), address)


def local_zone() -> tzinfo:
    """The time zone of this machine's clock, as it is set now, with its rules for summer and winter.

    A zone that is known only by its difference from UTC has no rules: then that of this moment.
    """
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with open(name or "/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        zone = datetime.now(UTC).astimezone().tzinfo
        assert zone is not None
        return zone


def free_space(path: Path) -> int:
    """Bytes that this process may still write below `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def is_writable(folder: Path) -> bool:
    """Whether this process may make files in `folder`, by the word of its rights and of its mount."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def takes_writes(file: Path) -> bool:
    """Whether the disk takes a write to the existing `file`: of its times, which need no room."""
    try:
        os.utime(file)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of at most 107 bytes for the socket `path`: sun_path holds no more (unix(7))."""
    if len(os.fsencode(path)) < 108:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
