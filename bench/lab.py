"""Hosts to measure between: network namespaces on one bridge, their lines shaped, their bytes counted by the kernel.

- A host is a namespace with one line (a veth pair) to a bridge, which stands in a namespace of its own. Nothing leads
  outside. Names carry this process's id, so labs never meet; everything goes when the context ends, however it ends.
- A line is shaped at both ends by a token bucket: what the host sends is its upload, what the bridge sends is its
  download. A bucket of 80 kB takes a whole packet of segmentation offload (64 KiB and headers); at 20 Mbit/s it is
  32 ms of sending at full speed, once. A queue of 50 ms is what a home's router has, and drops beyond it.
- A host behind NAT has its line to a router's namespace, which masquerades and lets nothing in that was not asked for.
- Addresses are of 198.18.0.0/15, which RFC 2544 keeps for benchmarks: libtorrent puts no limit of its own on peers with
  private ones.
- What leaves the origin is counted on the bridge's side, behind the bucket: what was dropped did not leave. The
  origin's interface sends no packet larger than the link's, so that headers are counted as often as they are sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import attrs

from bench.forks import Forked, Forks

BURST_BYTES = 80_000
QUEUE_MS = 50
STOP_GRACE_S = 6.0
HTTP_PORT, MIRROR_PORT, TRACKER_PORT = 80, 81, 6969
_PREFIX = "spike"
_NEIGHBOURS = 32_768  # one table for all namespaces: a hundred hosts that all know one another are 10,000 entries


class LabError(Exception):
    """The lab cannot be as it was asked for."""


@attrs.frozen
class Line:
    """What a host's line carries, in bits a second."""

    down: int
    up: int

    def divided(self, by: int) -> Line:
        return Line(self.down // by, self.up // by)


HOME = Line(down=100_000_000, up=20_000_000)
ORIGIN = Line(down=200_000_000, up=200_000_000)


@attrs.frozen
class Host:
    """One namespace."""

    space: str
    address: str  # its own
    is_behind_nat: bool = False


@attrs.frozen
class Count:
    """What the kernel has counted at the origin's line since the lab began; bytes are those of IP packets."""

    http_bytes: int  # sent by the web servers
    http_packets: int
    tracker_bytes: int  # sent by the tracker
    other_bytes: int
    http_connections: int  # opened towards the web server
    tracker_packets: int  # that came for the tracker

    @property
    def http_payload(self) -> int:
        """What TCP carried of it: without 20 bytes of IPv4's header and 32 of TCP's (with timestamps) a packet."""
        return self.http_bytes - 52 * self.http_packets

    def since(self, before: Count) -> Count:
        return Count(*(now - then for now, then in zip(attrs.astuple(self), attrs.astuple(before), strict=True)))


@attrs.frozen
class Running:
    """One process in a host; what it says goes to `log`."""

    name: str
    process: subprocess.Popen[bytes] | Forked
    log: Path

    def is_up(self) -> bool:
        return self.process.poll() is None

    def last_line(self) -> str:
        return "".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])


class Lab:
    """The hosts; made by `open_lab`."""

    def __init__(self, nodes: int, *, natted: int, per_router: int, divisor: int) -> None:
        self.prefix = f"{_PREFIX}{os.getpid()}"
        self.net = f"{self.prefix}-net"
        self.origin = Host(f"{self.prefix}-origin", "198.18.0.1")
        self.nodes: list[Host] = []
        self.divisor = divisor
        self._routers: list[str] = []
        self._running: list[Running] = []
        self._anchor: Running | None = None
        self._forks: Forks | None = None
        self._spaces: list[str] = []
        self._plan(nodes, natted, per_router)

    def start(self, host: Host | str, name: str, command: Sequence[str | Path], log: Path) -> Running:
        """Start a process in a host. It ends with the lab, and when this process is killed."""
        space = host if isinstance(host, str) else host.space
        enter = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{space}"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*enter, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the lab, which ends the others by their ids
            )
        return self._keep(Running(name, process, log))

    def call(self, host: Host, name: str, call: str, arguments: Sequence[str | Path], log: Path) -> Running:
        """As `start`, for a function of Python, `module:name`; see bench/forks.py."""
        self._forks = self._forks or Forks()
        return self._keep(Running(name, self._forks.start(host.space, call, list(map(str, arguments)), log), log))

    def stop(self, running: Running, within_s: float = STOP_GRACE_S) -> None:
        """End a process, politely at first."""
        running.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(within_s)
        self.kill(running)

    def kill(self, running: Running) -> None:
        """End a process at once, as a power cut does."""
        running.process.kill()
        running.process.wait()
        if running in self._running:
            self._running.remove(running)

    def sent_by_origin(self) -> int:
        """Bytes that have left the origin, with everything on the wire; cheap enough for ten times a second."""
        assert self._anchor is not None
        with open(f"/proc/{self._anchor.process.pid}/net/dev", encoding="ascii") as table:
            for line in table:
                name, _, figures = line.partition(":")
                if name.strip() == "origin":
                    return int(figures.split()[0])
        raise LabError("the origin's line is gone")

    def count(self) -> Count:
        """What the kernel has counted until now."""
        sent = self._counters(self.net)
        came = self._counters(self.origin.space)
        return Count(
            http_bytes=sent["http"]["bytes"],
            http_packets=sent["http"]["packets"],
            tracker_bytes=sent["tracker"]["bytes"],
            other_bytes=sent["other"]["bytes"],
            http_connections=came["connections"]["packets"],
            tracker_packets=came["tracker"]["packets"],
        )

    def block_peers(self, *, tracker_too: bool = False) -> None:
        """Let nothing pass between hosts but what is the web server's (and the tracker's)."""
        ports = [("tcp", HTTP_PORT), ("tcp", MIRROR_PORT)]
        if not tracker_too:
            ports += [("tcp", TRACKER_PORT), ("udp", TRACKER_PORT)]
        allowed = "\n".join(f"{kind} {end}port {port} accept" for kind, port in ports for end in "ds")
        for space in (self.net, *self._routers):
            self._nft(
                space,
                "table bridge block {\nchain f {\ntype filter hook forward priority 0; policy drop;\n"
                f"ether type arp accept;\n{allowed}\n}}\n}}\n",
            )

    def unblock_peers(self) -> None:
        for space in (self.net, *self._routers):
            self._nft(space, "delete table bridge block\n")

    def build(self) -> None:
        """Make the namespaces, their lines and the counters."""
        for number in (1, 2, 3):
            limit = Path(f"/proc/sys/net/ipv4/neigh/default/gc_thresh{number}")
            if int(limit.read_text(encoding="ascii")) < _NEIGHBOURS:  # stays: another lab may have begun meanwhile
                limit.write_text(f"{_NEIGHBOURS}\n", encoding="ascii")
        allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
        if "cubic" not in (known := allowed.read_text(encoding="ascii").split()):
            allowed.write_text(" ".join([*known, "cubic"]), encoding="ascii")  # or a namespace may not choose it
        _run(["ip", "-batch", "-"], "".join(f"netns add {space}\n" for space in self._spaces))
        self._in(
            self.net, f"{_QUIET}\nip link add name hub type bridge forward_delay 0 mcast_snooping 0\nip link set hub up"
        )
        self._connect(self.net, "hub", "origin", self.origin.space, ORIGIN.divided(self.divisor), "gso_max_segs 1")
        self._in(self.origin.space, _addressed(self.origin.address, 16))
        routers = iter(self._routers)
        homes: dict[str, list[Host]] = {}
        for host in self.nodes:
            if not host.is_behind_nat:
                self._connect(self.net, "hub", host.space.rpartition("-")[2], host.space, self._home)
                self._in(host.space, _addressed(host.address, 16))
            else:
                homes.setdefault(host.address.rpartition(".")[0], []).append(host)
        for number, hosts in enumerate(homes.values()):
            self._route(next(routers), f"198.18.200.{number + 1}", hosts)
        self._nft(self.net, _SENT)
        self._nft(self.origin.space, _CAME)
        self._anchor = self.start(self.net, "anchor", ["sleep", "infinity"], Path(os.devnull))

    def close(self) -> None:
        """End all processes, remove all namespaces. How they stop is not measured, so they are killed."""
        for running in list(self._running):
            self.kill(running)
        if self._forks:
            self._forks.close()
        for space in self._spaces:
            _remove(space)

    @property
    def _home(self) -> Line:
        return HOME.divided(self.divisor)

    def _plan(self, nodes: int, natted: int, per_router: int) -> None:
        for number in range(nodes):
            space = f"{self.prefix}-n{number}"
            if number < nodes - natted:
                self.nodes.append(Host(space, f"198.18.{1 + number // 250}.{1 + number % 250}"))
                continue
            router, inside = divmod(number - (nodes - natted), per_router)
            if inside == 0:
                self._routers.append(f"{self.prefix}-r{router}")
            self.nodes.append(Host(space, f"192.168.{router}.{10 + inside}", is_behind_nat=True))
        self._spaces = [self.net, self.origin.space, *self._routers, *(host.space for host in self.nodes)]

    def _connect(self, space: str, bridge: str, port: str, host: str, line: Line, more: str = "") -> None:
        """A line from `host`, as its eth0, to the bridge in `space`."""
        self._in(
            space,
            f"ip link add name {port} type veth peer name eth0 netns {host} {more}\n"
            f"ip link set {port} master {bridge} up\n{_shaped(port, line.down)}",
        )
        self._in(host, f"{_QUIET}\n{_shaped('eth0', line.up)}")

    def _route(self, router: str, address: str, hosts: list[Host]) -> None:
        """A router with these hosts behind it."""
        inside = f"{hosts[0].address.rpartition('.')[0]}.1"
        port = router.rpartition("-")[2]
        self._in(
            self.net,
            f"ip link add name {port} type veth peer name eth0 netns {router}\nip link set {port} master hub up",
        )
        self._in(
            router,
            f"{_QUIET}\necho 1 >/proc/sys/net/ipv4/ip_forward\n{_addressed(address, 16)}\n"
            "ip link add name lan type bridge forward_delay 0 mcast_snooping 0\n"
            f"ip address add {inside}/24 dev lan\nip link set lan up",
        )
        self._nft(router, _MASQUERADE)
        for number, host in enumerate(hosts):
            self._connect(router, "lan", f"n{number}", host.space, self._home)
            self._in(host.space, f"{_addressed(host.address, 24)}\nip route add default via {inside}")

    def _keep(self, running: Running) -> Running:
        self._running.append(running)
        return running

    def _counters(self, space: str) -> dict[str, dict[str, int]]:
        listed = json.loads(_run(["nsenter", f"--net=/run/netns/{space}", "nft", "-j", "list", "counters"]))
        found = [each["counter"] for each in listed["nftables"] if "counter" in each]
        return {each["name"]: each for each in found}

    def _nft(self, space: str, rules: str) -> None:
        _run(["nsenter", f"--net=/run/netns/{space}", "nft", "-f", "-"], rules)

    def _in(self, space: str, script: str) -> None:
        _run(["nsenter", f"--net=/run/netns/{space}", "sh", "-e"], script)


@contextmanager
def open_lab(nodes: int, *, natted: int = 0, per_router: int = 1, divisor: int = 1) -> Iterator[Lab]:
    """An origin and `nodes` hosts, the last `natted` of them behind routers of `per_router` hosts each.

    All rates are divided by `divisor`: for a machine whose processors are too slow for its networks.

    Raises:
        LabError: this process may not make namespaces, or a program is missing.
    """
    if os.geteuid() != 0:
        raise LabError("network namespaces need root: run this with sudo")
    _clear_stale()
    lab = Lab(nodes, natted=natted, per_router=per_router, divisor=divisor)
    with _ended_by_sigterm():
        try:
            lab.build()
            yield lab
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C leaves no namespace behind
                signal.signal(number, signal.SIG_IGN)
            lab.close()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the context as Ctrl-C does."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _clear_stale() -> None:
    """Remove what labs left that were killed themselves."""
    for path in Path("/run/netns").glob(f"{_PREFIX}[0-9]*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            _remove(path.name)


def _remove(space: str) -> None:
    """Remove a namespace, and what still runs in it: programs' own children, and who became another user."""
    left = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    for pid in left.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _run(command: Sequence[str], given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed: run requirements/system") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{shlex.join(command)}: {error.stderr.strip()} in\n{given}") from error
    return done.stdout


def _shaped(device: str, bits: int) -> str:
    return f"tc qdisc add dev {device} root tbf rate {bits}bit burst {BURST_BYTES} latency {QUEUE_MS}ms"


def _addressed(address: str, prefix: int) -> str:
    return f"ip address add {address}/{prefix} dev eth0\nip link set eth0 up"


# Loopback is up, or a daemon's own shim stalls; no IPv6, or hosts chatter, and peers are met twice. CUBIC is what
# Debian does by itself, whatever this machine's kernel is set to.
_QUIET = """\
echo cubic >/proc/sys/net/ipv4/tcp_congestion_control
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up
ip -o link show up dev lo | grep -q LOOPBACK"""

_SENT = f"""\
table netdev count {{
counter http {{ }}
counter tracker {{ }}
counter other {{ }}
chain sent {{
type filter hook ingress device "origin" priority 0;
tcp sport {{ {HTTP_PORT}, {MIRROR_PORT} }} counter name http return
udp sport {TRACKER_PORT} counter name tracker return
tcp sport {TRACKER_PORT} counter name tracker return
counter name other
}}
}}
"""

_CAME = f"""\
table inet count {{
counter connections {{ }}
counter tracker {{ }}
chain came {{
type filter hook input priority 0;
iifname "eth0" tcp dport {{ {HTTP_PORT}, {MIRROR_PORT} }} tcp flags & (syn | ack) == syn counter name connections
udp dport {TRACKER_PORT} counter name tracker
tcp dport {TRACKER_PORT} counter name tracker
}}
}}
"""

_MASQUERADE = """\
table ip home {
chain out {
type nat hook postrouting priority srcnat;
oifname "eth0" masquerade
}
chain to_the_router {
type filter hook input priority 0;
iifname "eth0" ct state new drop
}
chain through {
type filter hook forward priority 0;
iifname "eth0" ct state new drop
}
}
"""
