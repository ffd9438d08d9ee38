"""What people use, in the same lab with the same files: curl, aria2 and Transmission, and libtorrent in four ways.

All get the same torrent, with the tracker and, where they take one, the web seed. libtorrent gets the published hybrid
one; aria2 and Transmission, whose Debian versions know only v1, get a v1 torrent of the same files. nginx serves them
without the guard, which they know nothing of.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import libtorrent as lt

from bench.lab import Host, Lab, Running
from bench.publisher import LESSON, Published

WEB = "web"  # below content/: the lesson as a folder of its name, which is where a web seed is asked for it


@attrs.frozen
class Material:
    """What a contender starts from."""

    published: Published
    hybrid: Path  # torrents with the tracker
    hybrid_with_web: Path  # and with the web seed
    v1_with_web: Path


@attrs.define(eq=False)
class Client:
    """One program on one host."""

    name: str
    host: Host
    folder: Path
    launch: Callable[[Lab, Client], Running]
    asked_at: float | None = None
    complete_at: float | None = None
    running: Running | None = None

    @property
    def done(self) -> Path:
        return self.folder / "done"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def begin(self, lab: Lab) -> None:
        self.running = self.launch(lab, self)
        self.asked_at = time.time()

    def look(self) -> None:
        """When the program said that it has everything: it, or a hook of it, makes the file `done`."""
        if self.complete_at is None:
            with contextlib.suppress(FileNotFoundError):
                self.complete_at = self.done.stat().st_mtime

    def last_line(self) -> str:
        return self.running.last_line() if self.running else ""


Launcher = Callable[[Material, Lab, Client], Running]


def curl(material: Material, lab: Lab, client: Client) -> Running:
    """Every file from nginx, over one connection."""
    urls = [f"{material.published.url}content/{WEB}/{LESSON}/{name}" for name in material.published.files]
    listed = "".join(f'url = "{url}"\noutput = "{Path(url).name}"\n' for url in urls)
    (client.folder / "curlrc").write_text(listed, encoding="utf-8")
    script = f"cd {shlex.quote(str(client.folder))} && curl --silent --show-error --fail --config curlrc && touch done"
    return lab.start(client.host, client.name, ["sh", "-c", script], client.log)


def aria2(material: Material, lab: Lab, client: Client) -> Running:
    hook = _hook(client)
    command = [
        "aria2c",
        "--no-conf",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--disable-ipv6",
        "--listen-port=6881",
        "--seed-ratio=0.0",  # until it is ended
        "--file-allocation=none",
        "--console-log-level=warn",
        "--summary-interval=0",
        f"--on-bt-download-complete={hook}",
        f"--dir={client.folder}",
        str(material.v1_with_web),
    ]
    return lab.start(client.host, client.name, command, client.log)


def transmission(material: Material, lab: Lab, client: Client) -> Running:
    settings = {
        "dht-enabled": False,
        "lpd-enabled": False,
        "port-forwarding-enabled": False,
        "rpc-enabled": False,
        "peer-port": 6881,
        "preallocation": 0,
        "download-dir": str(client.folder),
        "script-torrent-done-enabled": True,
        "script-torrent-done-filename": str(_hook(client)),
    }
    (client.folder / "torrents").mkdir()
    (client.folder / "torrents" / "spike.torrent").write_bytes(material.v1_with_web.read_bytes())
    (client.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    command: list[str | Path] = ["transmission-daemon", "--foreground", "--config-dir", client.folder]
    return lab.start(client.host, client.name, command, client.log)


def webseed(material: Material, lab: Lab, client: Client) -> Running:
    return _bare(material.hybrid_with_web, lab, client)


def peer(material: Material, lab: Lab, client: Client) -> Running:
    """libtorrent with nothing but the swarm, for where the origin seeds."""
    return _bare(material.hybrid, lab, client)


CONTENDERS: Mapping[str, Launcher] = {
    "curl": curl,
    "aria2": aria2,
    "transmission": transmission,
    "webseed": webseed,
    "seeder": peer,
    "superseed": peer,
}


def material_of(published: Published, folder: Path) -> Material:
    """Torrents for the contenders, and the lesson where a web seed is asked for it; made before the tracker starts."""
    web = published.folder / "content" / WEB / LESSON
    web.mkdir(parents=True)
    for name in published.files:
        os.link(published.content / name, web / name)
    hybrid: Any = lt.bdecode(published.torrent.read_bytes())
    maker = lt.create_torrent(lt.list_files(str(web)), hybrid[b"info"][b"piece length"], lt.create_torrent.v1_only)
    lt.set_piece_hashes(maker, str(web.parent))
    v1: dict[bytes, Any] = {b"info": maker.generate()[b"info"]}
    with (published.folder / "tracker" / "whitelist.txt").open("a", encoding="ascii") as whitelist:
        whitelist.write(f"{lt.torrent_info(lt.bencode(v1)).info_hashes().v1}\n")
    url_list = f"{published.url}content/{WEB}/".encode()

    def written(name: str, torrent: dict[bytes, Any], more: dict[bytes, Any], tracker: str = published.tracker) -> Path:
        file = folder / f"{name}.torrent"
        whole = torrent | more | {b"announce": f"{tracker}/announce".encode()}
        whole.pop(b"announce-list", None)
        file.write_bytes(lt.bencode(whole))
        return file

    return Material(
        published,
        written("hybrid", hybrid, {}),
        written("hybrid-web", hybrid, {b"url-list": url_list}),
        # aria2 speaks to UDP trackers only from the port of its DHT, which is off
        written("v1-web", v1, {b"url-list": url_list}, published.tracker.replace("udp:", "http:")),
    )


def clients(kind: str, material: Material, lab: Lab, folder: Path) -> list[Client]:
    """A contender's programs, one to each node's host; what seeds at the origin runs already."""
    launcher = CONTENDERS[kind]
    if kind in ("seeder", "superseed"):
        role = "seed" if kind == "seeder" else "superseed"
        arguments: list[str | Path] = [
            material.hybrid,
            material.published.folder / "content" / WEB,
            folder / "seed-done",
            role,
        ]
        lab.call(lab.origin, kind, "bench.bare:main", arguments, folder / "seed.log")
    found = []
    for number, host in enumerate(lab.nodes):
        client = Client(
            f"{kind}-{number}", host, folder / f"{kind}-{number}", lambda lab, each: launcher(material, lab, each)
        )
        client.folder.mkdir()
        found.append(client)
    return found


def _bare(torrent: Path, lab: Lab, client: Client) -> Running:
    arguments: list[str | Path] = [torrent, client.folder, client.done, "peer"]
    return lab.call(client.host, client.name, "bench.bare:main", arguments, client.log)


def _hook(client: Client) -> Path:
    """A program that says that all is there."""
    hook = client.folder / "hook"
    hook.write_text(f"#!/bin/sh\n: >{shlex.quote(str(client.done))}\n", encoding="utf-8")
    hook.chmod(0o755)
    return hook
