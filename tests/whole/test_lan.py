"""A school's LAN as seeders/school/ sets it up: nginx before a node, TLS, and avahi, each Debian's own program."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import attrs
import httpx
import pytest
import trustme

from .support import PROJECT, SEEDERS, Node, Running, Site, adapted, free_port, needed, open_site, until

pytestmark = pytest.mark.whole

SCHOOL = SEEDERS / "school"
LESSON = PROJECT / "manifests" / "lessons" / "sciences-6e-cycle-de-l-eau"
FILM = "video/cycle-de-l-eau.mp4"
NAME, TLS_NAME = "edgeshare.local", "lecons.college-exemple.fr"
_A, _PTR = 1, 12  # kinds of DNS record


@attrs.frozen
class Front:
    """A school's node behind nginx, at ports of this machine."""

    node: Node
    second_port: int
    port: int  # nginx's, plain
    tls_port: int
    tls_lessons_port: int
    authority: trustme.CA

    def get(self, path: str, host: str | None = None, **headers: str) -> httpx.Response:
        """What nginx answers a browser that calls it `host`."""
        named = {"Host": host or f"{NAME}:{self.port}", **headers}
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=named, timeout=10.0)

    def get_by_tls(self, path: str, port: int, **headers: str) -> httpx.Response:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        with httpx.Client(verify=context, timeout=10.0) as client:
            named, meant = {"Host": f"{TLS_NAME}:{port}", **headers}, {"sni_hostname": TLS_NAME}
            return client.get(f"https://127.0.0.1:{port}{path}", headers=named, extensions=meant)


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        Path(name).chmod(0o755)  # nginx's user enters it
        with open_site(Path(name)) as site:
            yield _front(site)


def _front(site: Site) -> Front:
    origin = site.origin(LESSON)
    second, web, tls, tls_lessons = (free_port() for _ in range(4))
    lan = f"""\
allowed_hosts = ["{NAME}", "{NAME}:{web}", "{TLS_NAME}:{tls}"]
lessons_listen = "127.0.0.1:{second}"
lessons_url = "https://{TLS_NAME}:{tls_lessons}\""""
    node = site.node("school", "school", origin.url, {"shim.allowed_hosts": lan})
    authority = trustme.CA()
    _nginx(site, node.port, second, (web, tls, tls_lessons), authority)
    until("the school has the lesson", lambda: node.has(LESSON.name), 30.0)
    return Front(node, second, web, tls, tls_lessons, authority)


def test_nginx_hands_on_our_pages_as_they_are(front: Front) -> None:
    page = front.get("/", **{"Accept-Language": "fr"})
    assert page.status_code == 200
    assert f'href="/l/{LESSON.name}"' in page.text
    assert "no-cache" in page.headers["cache-control"]
    static = re.search(r'href="(/static/edgeshare\.css\?v=\w+)"', page.text)
    assert static is not None
    style = front.get(static[1], Range="bytes=0-9")
    assert style.status_code == 200
    assert front.get(static[1], **{"If-None-Match": style.headers["etag"]}).status_code == 304
    for name in ("strict-transport-security", "access-control-allow-origin", "set-cookie"):
        assert name not in page.headers


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", "salle12.local", f"x.{NAME}", f"{NAME}."])
def test_a_name_that_is_not_ours_gets_nothing_from_nginx(front: Front, host: str) -> None:
    for named in (host, f"{host}:{front.port}", f"{host}:{front.node.port}"):
        for path in ("/", "/api/v1/lessons", "/metrics", f"/lessons/{LESSON.name}/"):
            answer = front.get(path, named)
            assert answer.status_code == 421, (named, path)
            assert LESSON.name not in answer.text


def test_behind_nginx_figures_stay_with_the_machine(front: Front) -> None:
    assert front.get("/metrics").status_code == 403
    for target in (f"http://{NAME}/metrics", f"HTTP://{NAME}:{front.port}/metrics"):  # another name than Host says
        with socket.create_connection(("127.0.0.1", front.port), 5.0) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost:{front.node.port}\r\n\r\n".encode())
            assert sock.recv(100).split()[1] == b"400"
    assert httpx.get(f"http://localhost:{front.node.port}/metrics").status_code == 200


def test_localhost_is_this_node_by_ipv6_too(front: Front) -> None:
    """Or another program could be `localhost` to a browser, which tries both."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert httpx.get(f"http://[::1]:{front.node.port}/healthz").text == "ok\n"


def test_news_pass_nginx_at_once(front: Front) -> None:
    with httpx.stream(
        "GET", f"http://127.0.0.1:{front.port}/api/v1/events", headers={"Host": NAME}, timeout=5.0
    ) as news:
        assert news.headers["content-type"].startswith("text/event-stream")
        start = time.monotonic()
        told = ""
        for part in news.iter_text():
            told += part
            if LESSON.name in told:
                break
        assert time.monotonic() - start < 2.0  # while the response has no end


def test_behind_nginx_every_reader_has_limits_of_their_own(front: Front) -> None:
    """100 open pages on one machine are too many; on 100 machines they are not."""
    with ExitStack() as stack:
        for number in range(100):
            reader = socket.create_connection(
                ("127.0.0.1", front.port), 5.0, source_address=(f"127.9.0.{number + 1}", 0)
            )
            stack.enter_context(closing(reader))
            reader.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            assert reader.recv(12) == b"HTTP/1.1 200", number


def test_by_tls_pages_lead_to_lessons_at_a_port_of_their_own(front: Front) -> None:
    page = front.get_by_tls(f"/l/{LESSON.name}", front.tls_port)
    lessons = f"https://{TLS_NAME}:{front.tls_lessons_port}/lessons/{LESSON.name}/"
    assert f'href="{lessons}"' in page.text
    assert "strict-transport-security" not in page.headers
    start = front.get_by_tls(f"/lessons/{LESSON.name}/", front.tls_lessons_port)
    assert (start.status_code, start.headers["location"]) == (302, f"/lessons/{LESSON.name}/index.html")
    opened = front.get_by_tls(start.headers["location"], front.tls_lessons_port)
    own = f"default-src {TLS_NAME}:{front.tls_lessons_port}/lessons/{LESSON.name}/ "
    assert opened.headers["content-security-policy"].startswith(own)
    film = front.get_by_tls(f"/lessons/{LESSON.name}/{FILM}", front.tls_lessons_port, Range="bytes=1000-1999")
    assert (film.status_code, film.content) == (206, (LESSON / FILM).read_bytes()[1000:2000])
    assert front.get_by_tls("/", front.tls_lessons_port).status_code == 404
    assert front.get_by_tls("/api/v1/lessons", front.tls_lessons_port).status_code == 404


def test_while_the_node_is_away_nginx_says_so_and_the_page_comes_back(front: Front) -> None:
    """The last one of these: the node does not come back."""
    front.node.running.stop()
    away = front.get("/")
    assert away.status_code == 503
    assert away.headers["content-type"] == "text/html; charset=utf-8"
    assert 'http-equiv="refresh"' in away.text
    assert "Les leçons reviennent" in away.text


def test_avahi_tells_the_network_of_edgeshare_local(tmp_path: Path) -> None:
    """In two network namespaces, with the very command of the guide on Debian's own config."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    config = tmp_path / "avahi-daemon.conf"
    config.write_text(Path("/etc/avahi/avahi-daemon.conf").read_text(encoding="utf-8"), encoding="utf-8")
    guide = (SCHOOL / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^sudo (sed -i .*) /etc/avahi/avahi-daemon\.conf$", guide, re.MULTILINE)
    assert command is not None
    subprocess.run(f"{command[1]} {config}", shell=True, check=True)
    with config.open("a", encoding="utf-8") as more:  # no bus in a namespace
        more.write("[server]\nenable-dbus=no\n")
    with _two_hosts() as (school, pupil):
        services = f"mount -t tmpfs none /run && mount --bind {SCHOOL}/avahi /etc/avahi/services"
        daemon = f"{services} && exec {needed('avahi-daemon')} -f {config} --no-chroot --no-drop-root --no-rlimits"
        log = tmp_path / "avahi.log"
        with log.open("wb") as output:
            running = subprocess.Popen(
                ["ip", "netns", "exec", school, "setpriv", "--pdeathsig", "TERM", "sh", "-c", daemon],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        avahi = Running("avahi", running, log)
        try:
            until("avahi is up", lambda: avahi.is_up() and 'Service "Leçons' in _text(log), 15.0)
            address = _answers(pupil, "edgeshare.local", _A)
            assert socket.inet_aton("10.77.0.1") in address
            found = _answers(pupil, "_http._tcp.local", _PTR)
            assert "Leçons, sur edgeshare".encode() in found
            assert b"path=/" in found
            assert struct.pack(">HHH", 0, 0, 80) in found  # priority, weight and port (RFC 2782)
        finally:
            avahi.stop()


def _answers(namespace: str, name: str, kind: int) -> bytes:
    """What is answered to a question by multicast that is asked in a network namespace."""
    ask = [needed("ip"), "netns", "exec", namespace, sys.executable, "-m", "tests.whole.test_lan", name, str(kind)]
    said = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60, cwd=PROJECT).stdout
    return bytes.fromhex(said)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


class _two_hosts:  # noqa: N801 - reads as a function
    """Two network namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""

    def __enter__(self) -> tuple[str, str]:
        self.names = f"edgeshare-a{os.getpid()}", f"edgeshare-b{os.getpid()}"
        cable = f"ea{os.getpid()}", f"eb{os.getpid()}"
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", cable[0], "netns", self.names[0], "type", "veth", "peer", cable[1], "netns", self.names[1])
        for number, (name, end) in enumerate(zip(self.names, cable, strict=True), 1):
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "route", "add", "224.0.0.0/4", "dev", end)
        return self.names

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run([needed("ip"), *arguments], check=True, capture_output=True)


def _nginx(site: Site, port: int, second: int, ports: tuple[int, int, int], authority: trustme.CA) -> Running:
    """Debian's nginx with seeders/school/nginx.conf and nginx-tls.conf."""
    web, tls, tls_lessons = ports
    state = site.folder / "front"
    state.mkdir()
    certificate = authority.issue_cert(TLS_NAME)
    certificate.private_key_pem.write_to_path(state / "key")
    for part in certificate.cert_chain_pems:
        part.write_to_path(state / "certificate", append=True)
    second_config = adapted(
        SCHOOL / "nginx-tls.conf",
        {
            "/etc/nginx/edgeshare.crt": f"{state}/certificate",
            "/etc/nginx/edgeshare.key": f"{state}/key",
            "listen 443 ssl default_server": f"listen 127.0.0.1:{tls} ssl default_server",
            "listen 8443 ssl default_server": f"listen 127.0.0.1:{tls_lessons} ssl default_server",
            "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
            "listen 8443 ssl;": f"listen 127.0.0.1:{tls_lessons} ssl;",
            "http://127.0.0.1:8470": f"http://127.0.0.1:{port}",
            "http://127.0.0.1:8471": f"http://127.0.0.1:{second}",
        },
    )
    (state / "tls.conf").write_text(second_config, encoding="utf-8")
    temporary = "".join(
        f"\n{kind}_temp_path {state}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    first_config = adapted(
        SCHOOL / "nginx.conf",
        {
            "pid /run/nginx.pid;": f"pid {state}/pid;",
            "error_log /var/log/nginx/error.log crit;": f"error_log {state}/error.log crit;",
            "http {": f"http {{{temporary}",
            "listen 80 default_server;": f"listen 127.0.0.1:{web} default_server;",
            "listen 80;": f"listen 127.0.0.1:{web};",
            "http://127.0.0.1:8470": f"http://127.0.0.1:{port}",
            "/etc/nginx/edgeshare-tls.con[f]": f"{state}/tls.con[f]",
        },
    )
    (state / "nginx.conf").write_text(first_config, encoding="utf-8")
    command = [needed("nginx"), "-e", f"{state}/start.log", "-c", f"{state}/nginx.conf", "-g", "daemon off;"]
    running = site.start("front", command)
    until("nginx answers", lambda: running.is_up() and _accepts(tls_lessons), 10.0)
    return running


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _ask_by_multicast(name: str, kind: int) -> Iterator[bytes]:
    """What the network answers a question (RFC 6762 §5.1), within three seconds, asked each second anew."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    question = struct.pack(">6H", 0, 0, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 0x8001)  # to us alone
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(1.0)
        for _ in range(3):
            asker.sendto(question, ("224.0.0.251", 5353))
            try:
                yield asker.recv(9000)
            except TimeoutError:
                continue


if __name__ == "__main__":  # in the pupil's namespace
    for answer in _ask_by_multicast(sys.argv[1], int(sys.argv[2])):
        print(answer.hex())
