"""A bare libtorrent session: `TORRENT FOLDER DONE ROLE`, what edgeshare is held against.

Its settings are edgeshare's where they make a swarm form in seconds, and libtorrent's own elsewhere, so that what
differs is who decides what is taken from the origin. It writes DONE when it has everything, and seeds until ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libtorrent as lt

_SETTINGS: Any = {
    "alert_mask": lt.alert_category.status,
    "listen_interfaces": "0.0.0.0:6881",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "connection_speed": 100,
    "torrent_connect_boost": 60,
    "unchoke_slots_limit": 16,
    "peer_connect_timeout": 4,
    "min_announce_interval": 60,
}


def main(arguments: list[str]) -> None:
    """Fetch or seed until ended; ROLE is `peer`, `seed` or `superseed`."""
    torrent, folder, done, role = arguments
    session = lt.session(lt.session_params(_SETTINGS))
    params = lt.load_torrent_file(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if role != "peer":
        params.flags |= lt.torrent_flags.seed_mode
    if role == "superseed":
        params.flags |= lt.torrent_flags.super_seeding
    session.add_torrent(params)
    while True:
        session.wait_for_alert(3_600_000)
        if any(isinstance(alert, lt.torrent_finished_alert) for alert in session.pop_alerts()):
            Path(done).touch()
