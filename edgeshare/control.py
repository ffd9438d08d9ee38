"""The control socket: the command line's way to the daemon. JSON, one message a line; what changes the node goes here.

A request is one line, `{"do": …}`; answers are lines, the last with `"end": true` and, where it failed, `"error"`.
Only the library's owner can open the socket.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import trio

from edgeshare import host
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError
from edgeshare.manifest import lesson_id
from edgeshare.view import LessonView, Node, State

logger = logging.getLogger(__name__)

SOCKET = "control.sock"
_LONGEST = 64 * 1024  # bytes of a request
_RETRY_S = 60.0  # until a socket for which there was no room is tried again
_SLOWEST_S = 10.0  # for a request to arrive


async def serve_control(
    node: Node, library: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer the command line until cancelled; started when the socket is there, or cannot be made for now."""
    was_late = False
    while (listener := _listener(library)) is None:
        if not was_late:
            was_late = True
            task_status.started()
        await trio.sleep(_RETRY_S)

    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
                await _answer(node, stream)

    if not was_late:
        task_status.started()  # whoever connects from now on waits in the kernel's queue
    try:
        await trio.serve_listeners(one, [listener])
    finally:
        with contextlib.suppress(OSError):  # its disk may be read-only meanwhile; the next daemon replaces it
            (library / SOCKET).unlink(missing_ok=True)


def _listener(library: Path) -> trio.SocketListener | None:
    """A listener on the control socket; None while its disk is read-only or full, which is no reason not to be read."""
    try:
        return host.listen_locally(library / SOCKET)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            logger.warning("the command line cannot reach this node for now: no %s (%s)", SOCKET, error.strerror)
            return None
        hint = "does its file system know sockets? choose another `library`"
        raise LibraryError(f"cannot make {library / SOCKET} ({error.strerror})", hint=hint) from error


async def ask(library: Path, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The daemon's answers to `request`, as they come; the last one is `{"end": true}` and not given.

    Raises:
        LibraryError: no daemon runs on this library, or it is not ours; or the daemon says that it cannot.
    """
    try:
        stream = await host.connect_locally(library / SOCKET)
    except PermissionError as error:
        hint = "run this as the user that the daemon runs as"
        raise LibraryError(f"the daemon of {library} belongs to another user", hint=hint) from error
    except OSError as error:
        hint = "start one with `edgeshare run --config FILE`, or name another with --library or --config"
        raise LibraryError(f"no daemon runs on the library {library}", hint=hint) from error
    async with stream, contextlib.aclosing(_lines(stream)) as lines:
        try:
            await stream.send_all(json.dumps(request).encode() + b"\n")
            async for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise LibraryError(answer["error"])
                if answer.get("end"):
                    return
                yield answer
        except trio.BrokenResourceError:
            pass  # as when it closes in good order
    raise LibraryError(f"the daemon of {library} stopped before it had answered", hint="see its log")


async def answers_to(library: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    """All of the daemon's answers to `request`; as `ask`."""
    async with contextlib.aclosing(ask(library, request)) as answers:
        return [answer async for answer in answers]


async def _lines(stream: trio.SocketStream) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for portion in stream:
        *lines, rest = (rest + portion).split(b"\n")
        for line in lines:
            yield line


async def _answer(node: Node, stream: trio.SocketStream) -> None:
    with trio.fail_after(_SLOWEST_S):
        line = b""
        while not line.endswith(b"\n"):
            portion = await stream.receive_some(_LONGEST)
            line += portion
            if not portion or len(line) > _LONGEST:
                return
    try:
        async with contextlib.aclosing(_answers(node, line)) as answers:
            async for answer in answers:
                await _send(stream, answer)
        await _send(stream, {"end": True})
    except EdgeshareError as error:
        await _send(stream, {"end": True, "error": str(error)})


async def _answers(node: Node, line: bytes) -> AsyncGenerator[dict[str, Any], None]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError("the request is not JSON", hint="`edgeshare` itself speaks to the daemon") from error
    match request:
        case {"do": "status"}:
            yield node.status().as_json()
        case {"do": "lessons"}:
            for manifest in node.listing():  # it may change while answers go out
                if request.get("level") in (None, *manifest.levels) and (known := node.lesson(manifest.id)):
                    yield known.as_json()
        case {"do": "get", "lesson": str(text)}:
            lesson = lesson_id(text)
            await node.want(lesson)
            seen: LessonView | None = None
            while (now := node.lesson(lesson)) is not None:
                if now == seen:  # and not without looking: it may have changed while the last answer went out
                    await node.change()
                    continue
                yield (seen := now).as_json()
                if now.state in (State.COMPLETE, State.WITHDRAWN, State.FAILED):
                    return
            raise LibraryError(f"{lesson} is not to be shown yet", hint="the node fetches it for the day it is")
        case {"do": "pin", "lesson": str(text)}:
            await node.pin(lesson_id(text))
            yield {"lesson": text, "pinned": True}
        case {"do": "unpin", "lesson": str(text)}:
            await node.unpin(lesson_id(text))
            yield {"lesson": text, "pinned": False}
        case {"do": "import"}:
            for arrival in await node.take_in():
                yield arrival.as_json()
        case _:
            raise ManifestError("this daemon does not know the request", hint="is it of another version?")


async def _send(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
