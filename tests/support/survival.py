"""A witness for nodes that are killed, cut off and damaged: what they serve is what was published, or nothing.

It looks from outside, over HTTP, at every file of every lesson, and knows each version of them from the publisher's own
folder. An answer's ETag says which version its bytes claim to be of.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from edgeshare.manifest import LessonManifest
from tests.support.nodes import PATIENCE_S, Node
from tests.support.publisher import Publisher


@attrs.frozen
class Seen:
    """What a node served at one look: the lessons of which every file came, whole and right, by their version."""

    whole: Mapping[str, int]
    listed: Mapping[str, str]  # the state of each lesson that it lists


@attrs.define
class Witness:
    """All that one publisher ever published."""

    publisher: Publisher
    _contents: dict[str, dict[str, bytes]] = attrs.field(factory=dict)  # by info-hash, in hex
    _versions: dict[str, int] = attrs.field(factory=dict)  # likewise
    _withdrawn: set[str] = attrs.field(factory=set)

    def add(self, lesson: str, files: dict[str, bytes]) -> LessonManifest:
        """Stage a lesson, or its next version, of exactly these files."""
        folder = self.publisher.folder / "lessons" / lesson
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()
        manifest = self.publisher.add(lesson, files)
        self._contents[manifest.info_hash.hex()] = dict(files)
        self._versions[manifest.info_hash.hex()] = manifest.version
        return manifest

    def withdraw(self, lesson: str, why: str = "une erreur") -> None:
        """Stage a withdrawal; whoever serves the lesson after the next look is found out."""
        self.publisher.withdraw(lesson, why)
        self._withdrawn.add(lesson)

    def release(self) -> None:
        self.publisher.release()

    async def look(self, node: Node) -> Seen:
        """Read every file of every lesson that `node` calls complete.

        Raises:
            AssertionError: one of them is not what was published, or is missing.
        """
        whole: dict[str, int] = {}
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as browser:
            listed = {each["id"]: each for each in await lessons(browser, node)}
            for lesson, view in listed.items():
                if view["state"] != "complete":
                    continue
                files = self._contents[view["info_hash"]]
                for path in files:
                    answer = await browser.get(f"http://{node.shim}/lessons/{lesson}/{path}")
                    self._require_right(lesson, path, answer)
                whole[lesson] = view["version"]
        return Seen(whole=whole, listed={lesson: view["state"] for lesson, view in listed.items()})

    async def until_whole(self, node: Node, *wanted: str) -> Seen:
        """Look as soon as the `wanted` lessons, or all that are listed and not withdrawn, are complete."""
        with trio.fail_after(PATIENCE_S):
            for lesson in wanted or await self._offered(node):
                await node.until(lesson, "complete")
        return await self.look(node)

    def is_right(self, folder: Path) -> bool:
        """Whether a content's folder on the disk holds what was published under its name, and nothing else."""
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return found == self._contents.get(folder.name)

    async def _offered(self, node: Node) -> list[str]:
        newest = {view["id"] for view in await node.ask("lessons")}
        while not newest:  # the catalogue is on its way
            await trio.sleep(0.05)
            newest = {view["id"] for view in await node.ask("lessons")}
        return sorted(newest - self._withdrawn)

    def _require_right(self, lesson: str, path: str, answer: httpx.Response) -> None:
        where = f"{lesson}/{path}"
        assert answer.status_code == 200, f"{where}: {answer.status_code} {answer.text[:200]}"
        assert lesson not in self._withdrawn, f"{where} was withdrawn, and is served"
        claimed = answer.headers["etag"].strip('"').split("-")[0]  # the file's number follows
        assert claimed in self._contents, f"{where} is served as of {claimed}, which nobody published"
        assert answer.content == self._contents[claimed][path], f"{where} is not what was published"


async def lessons(browser: httpx.AsyncClient, node: Node) -> list[dict[str, Any]]:
    """What the node's own API lists."""
    answer = await browser.get(f"http://{node.shim}/api/v1/lessons")
    found = answer.json()
    return list(found["lessons"] if isinstance(found, dict) else found)
