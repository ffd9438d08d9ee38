"""`PORT SECONDS`: a line of the lab that is as long as real ones: each packet arrives so much later, both ways.

Lab lines have rates and no length, where homes are 10 to 20 ms apart; and what takes several round trips costs nothing
then. Not every kernel can delay packets itself (netem). So a program stands between a host's port and the bridge: it
takes whole frames, with what the kernel notes of their segments and checksums (virtio's header), and passes them on
when their time has come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections import deque

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000  # linux/if_tun.h
_TUNSETOFFLOAD, _CHECKSUMS_AND_SEGMENTS = 0x400454D0, 0x01 | 0x02 | 0x04  # TUN_F_CSUM, TSO4, TSO6
_LONGEST = 70_000  # bytes of a frame: 64 KiB of segments, and headers
_QUEUE_BYTES = 4 * 2**20
_ALL_PROTOCOLS = 0x0003  # ETH_P_ALL, linux/if_ether.h


def main(arguments: list[str]) -> None:
    """Delay what passes PORT, which is on the bridge `hub`, until ended."""
    port, delay_s = arguments[0], float(arguments[1])
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"late-{port}"
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(tap, _TUNSETOFFLOAD, _CHECKSUMS_AND_SEGMENTS)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as line:
        line.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        line.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
        line.bind((port, _ALL_PROTOCOLS))
        line.setblocking(False)
        for change in (f"{port} nomaster", f"{name} master hub", f"{name} up"):
            subprocess.run(["ip", "link", "set", *change.split()], check=True)
        subprocess.run(["ip", "link", "set", port, "promisc", "on"], check=True)
        _pass_on(line.fileno(), tap, delay_s)


def _pass_on(line: int, tap: int, delay_s: float) -> None:
    under_way: dict[int, deque[tuple[float, bytes]]] = {line: deque(), tap: deque()}  # by where it arrives
    other = {line: tap, tap: line}
    while True:
        now_s = time.monotonic()
        for end, frames in under_way.items():
            while frames and frames[0][0] <= now_s:
                with contextlib.suppress(BlockingIOError):  # a full queue drops it, as a router does
                    os.write(end, frames[0][1])
                frames.popleft()
        next_s = min((frames[0][0] for frames in under_way.values() if frames), default=now_s + 60.0)
        ready, _, _ = select.select([line, tap], [], [], max(0.0, next_s - time.monotonic()))
        now_s = time.monotonic()
        for end in ready:
            with contextlib.suppress(BlockingIOError):
                while True:
                    under_way[other[end]].append((now_s + delay_s, os.read(end, _LONGEST)))
