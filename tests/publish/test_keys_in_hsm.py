"""Keys in a token of SoftHSM, which is a PKCS#11 device in files: what a node's own code thinks of their signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pkcs11
import pytest
from pkcs11.util.ec import encode_named_curve_parameters
from tuf.api.metadata import Metadata, Root

from edgeshare.errors import TrustError
from edgeshare.manifest import CatalogueManifest, InfoHash, read_catalogue
from edgeshare.publish.keys import Keys, signed_file
from edgeshare.publish.repository import create_repository
from tests.publish.support import Editor, Publisher, make_lesson, now, served
from tests.publish.test_keys_cli import typed
from tests.support.publisher import lesson_key
from tests.whole.support import needed

pytestmark = pytest.mark.whole

PIN = "123456"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pkcs11.Token]:
    """A new token with nothing in it; for the whole module, since the library reads its config once in a process."""
    program = needed("softhsm2-util")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        environment.setenv("PYKCS11LIB", next(module for module in MODULES if os.path.exists(module)))
        for name in ("CREDENTIALS_DIRECTORY", "EDGESHARE_PIN_FILE"):
            environment.delenv(name, raising=False)
        make = [program, "--init-token", "--free", "--label", "edgeshare", "--so-pin", "12345678", "--pin", PIN]
        subprocess.run(make, check=True, capture_output=True)
        yield pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="edgeshare")


def make_key(token: pkcs11.Token, number: int, curve: str = "secp256r1") -> str:
    """A new key pair in the token, in place of what was there; its URI."""
    with token.open(rw=True, user_pin=PIN) as session:
        for old in session.get_objects({pkcs11.Attribute.ID: bytes([number])}):
            old.destroy()
        kind = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, kind, local=True)
        parameters.generate_keypair(store=True, id=bytes([number]), label=f"key {number}")
    return f"hsm:{number}?label=edgeshare"


class Person:
    """Somebody at the terminal, who says the right thing from some time on."""

    def __init__(self, *wrong: str) -> None:
        self._answers = [*wrong]
        self.questions = 0

    def __call__(self, question: str) -> str:
        self.questions += 1
        return self._answers.pop(0) if self._answers else PIN


@pytest.mark.parametrize(("curve", "scheme"), [("secp256r1", "nistp256"), ("secp384r1", "nistp384")])
def test_a_key_in_an_hsm_signs_metadata(token: pkcs11.Token, tmp_path: Path, curve: str, scheme: str) -> None:
    keys = Keys(tmp_path / "keys", Person())
    _, kept = keys.keep_uri("root", make_key(token, 2, curve))
    assert kept.scheme == f"ecdsa-sha2-{scheme}"
    root = Root(expires=datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
    root.add_key(kept, "root")
    metadata = Metadata(root)
    metadata.sign(keys.signer("root"))
    read = Metadata[Root].from_bytes(metadata.to_bytes())
    read.signed.verify_delegate("root", read.signed_bytes, read.signatures)


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1"])
def test_a_key_in_an_hsm_signs_manifests(token: pkcs11.Token, tmp_path: Path, curve: str) -> None:
    keys = Keys(tmp_path / "keys", Person())
    keys.keep_uri("cned-lessons", make_key(token, 3, curve))
    manifest = CatalogueManifest(
        name="cned/6e", edition=1, info_hash=InfoHash(bytes(32)), size=1, issued=datetime(2026, 9, 1, tzinfo=UTC)
    )
    key = lesson_key(keys)
    assert read_catalogue(signed_file(manifest, keys.signer("cned-lessons")), {key.id: key}) == manifest


def test_a_repository_whose_keys_are_in_an_hsm_is_accepted(
    token: pkcs11.Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = tmp_path / "pin"
    pin.write_text(f"{PIN}\n", encoding="utf-8")
    pin.chmod(0o600)
    monkeypatch.setenv("EDGESHARE_PIN_FILE", str(pin))
    publisher = Publisher(tmp_path / "repository", tmp_path / "keys")
    for number, name in enumerate(("root", "targets", "cned", "cned-lessons"), 4):
        Keys(publisher.keys).keep_uri(name, make_key(token, number))
    publisher.init()
    publisher.add(make_lesson(tmp_path / "fractions"))
    publisher.release()
    assert {path.name for path in publisher.keys.glob("*.pem")} == {"snapshot.pem", "timestamp.pem"}
    assert served(publisher.root, tmp_path / "client")["cned/6e"].versions == {"fractions": 1}


def test_the_pin_is_asked_for_once_and_again_after_a_wrong_one(token: pkcs11.Token, tmp_path: Path) -> None:
    person = Person("000000")
    keys = Keys(tmp_path / "keys", person)
    keys.keep_uri("root", make_key(token, 2))
    signer = keys.signer("root")
    with pytest.raises(TrustError, match=r"the device of the key hsm:2\?label=edgeshare refused \(PinIncorrect\)"):
        signer.sign(b"metadata")
    signer.sign(b"metadata")
    signer.sign(b"more metadata")
    assert person.questions == 2


@pytest.fixture
def editor(token: pkcs11.Token, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Editor:
    """Somebody whose key of timestamps is in the token."""
    publisher = Publisher(tmp_path / "repository", tmp_path / "keys")
    person = Keys(publisher.keys, Person())
    person.keep_uri("timestamp", make_key(token, 2))
    create_repository(publisher.root, person, "cned", now())
    return Editor(publisher, capsys)


def test_a_wrong_pin_while_signing_is_one_line(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the key timestamp needs its PIN" in editor.refused("refresh")
    pin = tmp_path / "pin"
    pin.write_text("000000\n", encoding="utf-8")
    pin.chmod(0o600)
    monkeypatch.setenv("EDGESHARE_PIN_FILE", str(pin))
    assert "the device of the key hsm:2?label=edgeshare refused (PinIncorrect)" in editor.refused("refresh")


def test_who_leaves_at_the_question_for_a_pin_has_not_given_a_wrong_one(editor: Editor) -> None:
    asked = [("The PIN of the key timestamp", "\x04")]
    assert typed(asked, "refresh", editor.publisher.root, "--keys", editor.publisher.keys) == 130


def test_a_library_that_is_not_there_is_one_line(editor: Editor, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeshare", "publish", "refresh", str(editor.publisher.root)]
    pin = tmp_path / "pin"
    pin.write_text(PIN, encoding="utf-8")
    pin.chmod(0o600)
    environment = {**os.environ, "PYKCS11LIB": "/nowhere.so", "EDGESHARE_PIN_FILE": str(pin)}
    run = subprocess.run(
        [*command, "--keys", str(editor.publisher.keys)], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert "check PYKCS11LIB, the URI, the device and the PIN" in run.stderr


def test_a_key_that_the_folder_names_already_is_kept_under_its_name(token: pkcs11.Token, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", Person())
    uri = make_key(token, 2)
    first = keys.keep_uri("root", uri)
    assert keys.keep_uri("root.2", uri) == first
    assert keys.keep_uri("targets", uri)[0] == "targets"
    assert keys.names() == ("root", "targets")


def test_without_a_pin_nothing_is_tried(token: pkcs11.Token, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.keep_uri("root", make_key(token, 2))
    with pytest.raises(TrustError, match=r"the key root needs its PIN: .*EDGESHARE_PIN_FILE"):
        keys.signer("root").sign(b"metadata")


def test_another_key_in_the_same_place_of_the_device_signs_nothing(token: pkcs11.Token, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", Person())
    keys.keep_uri("root", make_key(token, 2))
    make_key(token, 2)
    with pytest.raises(TrustError, match=r"the key hsm:2\?label=edgeshare is not the one that was kept as root"):
        keys.signer("root").sign(b"metadata")


@pytest.mark.parametrize("uri", ["hsm:99?label=edgeshare", "hsm:2?label=elsewhere"])
def test_a_key_that_the_device_does_not_have_is_not_kept(token: pkcs11.Token, tmp_path: Path, uri: str) -> None:
    keys = Keys(tmp_path / "keys", Person())
    with pytest.raises(TrustError, match=r"refused \(ValueError "):
        keys.keep_uri("root", uri)
    assert keys.names() == ()


def test_where_the_key_is_holds_no_secret_and_is_private_all_the_same(token: pkcs11.Token, tmp_path: Path) -> None:
    Keys(tmp_path / "keys", Person()).keep_uri("root", make_key(token, 2))
    file = tmp_path / "keys" / "root.uri"
    assert file.stat().st_mode & 0o777 == 0o600
    assert PIN not in file.read_text(encoding="utf-8")
