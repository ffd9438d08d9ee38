"""The suite's command line, on a repository of ours; what the suite itself says of it is in README.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from tests.support.publisher import Publisher
from tests.support.server import Site, serving

CLIENT = Path(__file__).with_name("client")
pytestmark = pytest.mark.whole


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.of_one_lesson(tmp_path / "publisher")


async def client(*arguments: str | Path) -> tuple[int, str]:
    """The exit code, and what it says."""
    ended = await trio.run_process(
        [CLIENT, *map(str, arguments)], check=False, capture_stdout=True, stderr=subprocess.STDOUT
    )
    return ended.returncode, ended.stdout.decode()


async def test_a_target_is_fetched_from_the_root_on_and_only_once(publisher: Publisher, tmp_path: Path) -> None:
    metadata, targets = tmp_path / "metadata", tmp_path / "targets"
    metadata.mkdir()
    targets.mkdir()
    site = Site(publisher.repository)
    async with serving(site) as origin:
        at = ("--metadata-dir", metadata)
        assert await client(*at, "init", publisher.root) == (0, "")
        assert site.asked == []
        assert await client(*at, "--metadata-url", f"{origin.url}metadata/", "refresh") == (0, "")
        assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {p.name for p in metadata.iterdir()}
        fetch = (*at, "--metadata-url", f"{origin.url}metadata/", "--target-name", "catalogue/cned/6e.manifest")
        where = ("--target-dir", targets, "--target-base-url", f"{origin.url}targets/", "download")
        assert await client(*fetch, *where) == (0, "")
        (published,) = (publisher.repository / "targets").rglob("*.manifest")
        (fetched,) = targets.iterdir()
        assert fetched.read_bytes() == published.read_bytes()
        site.asked.clear()
        assert await client(*fetch, *where) == (0, "")
        assert not [path for path in site.asked if path.startswith("targets/")]


async def test_what_is_refused_or_not_there_ends_with_code_1_and_a_line(publisher: Publisher, tmp_path: Path) -> None:
    metadata = tmp_path / "metadata"
    metadata.mkdir()
    site = Site(publisher.repository)
    async with serving(site) as origin:
        at = ("--metadata-dir", metadata)
        await client(*at, "init", publisher.root)
        url = ("--metadata-url", f"{origin.url}metadata/")
        where = ("--target-dir", tmp_path, "--target-base-url", f"{origin.url}targets/", "download")
        missing = await client(*at, *url, "--target-name", "nothing", *where)
        assert missing == (1, "the repository has no target nothing\n")
        (publisher.repository / "metadata" / "timestamp.json").write_bytes(b"{}")
        code, said = await client(*at, *url, "refresh")
        assert code == 1
        assert "metadata/timestamp.json" in said
        assert "is refused, it is not TUF metadata" in said
