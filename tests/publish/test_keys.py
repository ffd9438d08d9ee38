from __future__ import annotations

import json
import logging
import os
import re
import struct
import subprocess
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgeshare import host
from edgeshare.errors import TrustError
from edgeshare.manifest import CatalogueManifest, InfoHash, read_catalogue
from edgeshare.publish.keys import Keys, signed_file
from edgeshare.publish.unlocking import Kind, Secrets
from tests.support.publisher import lesson_key

MANIFEST = CatalogueManifest(
    name="cned/6e", edition=1, info_hash=InfoHash(bytes(32)), size=1, issued=datetime(2026, 9, 1, tzinfo=UTC)
)
SOMEBODY = 12345  # a user who is neither this one nor root


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "EDGESHARE_PASSPHRASE_FILE", "EDGESHARE_PIN_FILE", "PYKCS11LIB"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that systemd gives to a service."""
    made = tmp_path / "credentials"
    made.mkdir(mode=0o700)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(made))
    return made


def secret(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o400)
    return path


class Person:
    """Somebody at the terminal."""

    def __init__(self, answer: str | None) -> None:
        self._answer = answer
        self.questions: list[str] = []

    def __call__(self, question: str) -> str | None:
        self.questions.append(question)
        return self._answer


def works(keys: Keys, name: str) -> bool:
    signer = keys.signer(name)
    signer.public_key.verify_signature(signer.sign(b"metadata"), b"metadata")
    return True


def grant(path: Path, rights: int, user: int, *, group: int = 0, mask: int = 7) -> None:
    """Give `user` rights on the file by an access control list, as systemd does for a service (acl(5))."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, rights, user), (0x04, group, nobody), (0x10, mask, nobody), (0x20, 0, nobody)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"no access control lists here ({error.strerror})")


def put(folder: Path, name: str, private: PrivateKeyTypes) -> Keys:
    """The folder's keys with this one among them."""
    folder.mkdir(mode=0o700, exist_ok=True)
    secret(folder / f"{name}.pem", private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    return Keys(folder)


# Names


def test_all_keys_of_a_role_sign_in_the_order_of_their_numbers(folder: Path) -> None:
    keys = Keys(folder)
    keys.make("root.10", "root.2", "root", "root-lessons")
    expected = [keys.signer(name).public_key for name in ("root", "root.2", "root.10")]
    assert [signer.public_key for signer in keys.signers_of("root")] == expected


def test_a_role_whose_keys_are_elsewhere_has_no_signers(folder: Path) -> None:
    keys = Keys(folder)
    assert keys.signers_of("root") == ()
    keys.make("timestamp")
    assert keys.signers_of("root") == ()


def test_the_names_are_those_of_keys_and_of_nothing_else(folder: Path) -> None:
    keys = Keys(folder)
    keys.make("root.2", "cned-lessons")
    for other in ("README.md", "root.part", ".pem", "Root.pem", "root.pem.bak"):
        (folder / other).touch()
    assert keys.names() == ("cned-lessons", "root.2")
    assert keys.has("root.2")
    assert not keys.has("root")


@pytest.mark.parametrize("name", ["", "../root", "Root", "root.", "root.pem", "a/b"])
def test_a_key_is_named_like_a_role(folder: Path, name: str) -> None:
    with pytest.raises(TrustError, match="cannot be the name of a key"):
        Keys(folder).make(name)
    assert not folder.exists()


# Passphrases


def test_a_key_made_with_a_passphrase_lies_encrypted(folder: Path) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    assert (folder / "root.pem").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


def test_the_passphrase_is_asked_for_once_by_the_name_of_its_key(folder: Path) -> None:
    Keys(folder).make("root.2", passphrase="cheval agrafe")
    person = Person("cheval agrafe")
    keys = Keys(folder, person)
    assert works(keys, "root.2")
    assert works(keys, "root.2")
    assert person.questions == ["The passphrase of the key root.2"]


def test_one_passphrase_of_several_keys_is_asked_for_once(folder: Path) -> None:
    Keys(folder).make("root", "root.2", passphrase="cheval agrafe")
    Keys(folder).make("root.3", passphrase="mouton agrafe")
    person = Person("cheval agrafe")
    with pytest.raises(TrustError, match=r"does not open the key .*root\.3\.pem"):
        Keys(folder, person).signers_of("root")
    assert person.questions == ["The passphrase of the key root", "The passphrase of the key root.3"]


def test_who_has_just_chosen_a_passphrase_is_not_asked_for_it(folder: Path) -> None:
    person = Person(None)
    keys = Keys(folder, person)
    keys.make("root", passphrase="cheval agrafe")
    assert works(keys, "root")
    assert person.questions == []


def test_nobody_is_asked_about_a_key_that_is_not_encrypted(folder: Path) -> None:
    person = Person("cheval agrafe")
    keys = Keys(folder, person)
    keys.make("root")
    assert works(keys, "root")
    assert person.questions == []


def test_where_nobody_can_be_asked_the_file_that_would_do_is_named(folder: Path) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    with pytest.raises(TrustError, match=r"the key root needs its passphrase: .*EDGESHARE_PASSPHRASE_FILE"):
        Keys(folder).signer("root")


def test_a_wrong_passphrase_is_refused_and_asked_for_again(folder: Path) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    person = Person("mouton agrafe")
    keys = Keys(folder, person)
    for _ in range(2):
        with pytest.raises(TrustError, match=r"does not open the key .*root\.pem: check the one from the terminal$"):
            keys.signer("root")
    assert len(person.questions) == 2


@pytest.mark.parametrize("passphrase", ["", "a" * 1024, "\ud800"])
def test_a_passphrase_that_cannot_be_used_makes_no_key(folder: Path, passphrase: str) -> None:
    with pytest.raises(TrustError, match="the passphrase cannot be used"):
        Keys(folder).make("root", passphrase=passphrase)
    assert not Keys(folder).has("root")


@pytest.mark.parametrize(
    ("kind", "variable"), [(Kind.PASSPHRASE, "EDGESHARE_PASSPHRASE_FILE"), (Kind.PIN, "EDGESHARE_PIN_FILE")]
)
def test_what_unlocks_a_key_comes_from_the_nearest_place(
    credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, variable: str
) -> None:
    def found() -> str:
        return Secrets(lambda _: "the person").of("root", kind).text

    assert found() == "the person"
    monkeypatch.setenv(variable, str(secret(tmp_path / "file", "the file\n")))
    assert found() == "the file"
    secret(credentials / f"edgeshare{kind.suffix}", "the credential for all\n")
    assert found() == "the credential for all"
    secret(credentials / f"root{kind.suffix}", "the credential of this key\n")
    assert found() == "the credential of this key"


def test_a_wrong_passphrase_is_not_made_good_by_the_next_place(folder: Path, credentials: Path, tmp_path: Path) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    wrong = secret(credentials / "root.passphrase", "mouton agrafe")
    with pytest.raises(TrustError, match=f"check the one from {re.escape(str(wrong))}$"):
        Keys(folder, Person("cheval agrafe")).signer("root")


def test_one_pipe_gives_the_passphrase_of_several_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Keys(folder).make("root", "root.2", passphrase="cheval agrafe")
    reading, writing = os.pipe()
    try:
        os.write(writing, b"cheval agrafe\n")
        os.close(writing)
        monkeypatch.setenv("EDGESHARE_PASSPHRASE_FILE", f"/dev/fd/{reading}")
        assert len(Keys(folder).signers_of("root")) == 2
    finally:
        os.close(reading)


def test_a_passphrase_that_others_can_read_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    file = secret(tmp_path / "passphrase", "cheval agrafe")
    file.chmod(0o644)
    monkeypatch.setenv("EDGESHARE_PASSPHRASE_FILE", str(file))
    with pytest.raises(TrustError, match="passphrase can be read by others"):
        Keys(folder).signer("root")


def test_a_file_for_the_passphrase_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Keys(folder).make("root", passphrase="cheval agrafe")
    monkeypatch.setenv("EDGESHARE_PASSPHRASE_FILE", "/nowhere/passphrase")
    with pytest.raises(TrustError, match="cannot read /nowhere/passphrase"):
        Keys(folder).signer("root")


def test_a_key_that_was_encrypted_by_openssl_is_read(folder: Path) -> None:
    keys = Keys(folder, Person("cheval agrafe"))
    keys.make("root")
    public = keys.signer("root").public_key
    pem = folder / "root.pem"
    turn = ["openssl", "pkcs8", "-topk8", "-scrypt", "-passout", "pass:cheval agrafe", "-in", str(pem)]
    pem.write_bytes(subprocess.run(turn, check=True, capture_output=True).stdout)
    assert b"ENCRYPTED" in pem.read_bytes()
    assert keys.signer("root").public_key == public


# systemd's credentials


def test_a_credential_counts_as_if_it_lay_in_the_folder_and_comes_first(folder: Path, credentials: Path) -> None:
    Keys(folder).make("timestamp", "snapshot")
    Keys(credentials).make("timestamp", "targets")
    keys = Keys(folder)
    assert keys.names() == ("snapshot", "targets", "timestamp")
    handed_over = Keys(credentials).signer("timestamp").public_key
    assert keys.signer("timestamp").public_key == handed_over
    keys.make("targets")
    assert not (folder / "targets.pem").exists()


def test_a_credential_that_only_this_user_was_granted_is_private(folder: Path) -> None:
    # systemd 254 and later: owned by root, mode 0400, and an entry for the service's user; stat(2) then says 0440.
    Keys(folder).make("timestamp")
    grant(folder / "timestamp.pem", os.R_OK, os.geteuid())
    assert (folder / "timestamp.pem").stat().st_mode & 0o077
    assert works(Keys(folder), "timestamp")


@pytest.mark.parametrize(
    ("granted", "others"),
    [
        ({"rights": os.R_OK, "user": SOMEBODY}, os.R_OK),
        ({"rights": os.W_OK, "user": SOMEBODY}, os.W_OK),
        ({"rights": os.R_OK | os.W_OK, "user": SOMEBODY, "mask": os.R_OK}, os.R_OK),
        ({"rights": os.R_OK | os.W_OK, "user": SOMEBODY, "mask": 0}, 0),
        ({"rights": 0, "user": SOMEBODY, "group": os.R_OK}, os.R_OK),
        ({"rights": os.R_OK | os.W_OK, "user": 0}, 0),
    ],
)
def test_what_an_access_control_list_grants_to_others_counts(
    tmp_path: Path, granted: dict[str, int], others: int
) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    grant(file, **granted)
    assert host.access_of_others(file) == others


# Who may touch the files


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    Keys(folder).make("root")
    (folder / "root.pem").chmod(mode)
    with pytest.raises(TrustError, match=r"the key .*root\.pem can be read by others: chmod 600 "):
        Keys(folder).signer("root")


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_key_that_others_can_change_is_refused(folder: Path, mode: int) -> None:
    Keys(folder).make("root")
    (folder / "root.pem").chmod(mode)
    with pytest.raises(TrustError, match=r"the key .*root\.pem can be changed by others: chmod go-w "):
        Keys(folder).signer("root")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_into_holds_no_keys(folder: Path, mode: int) -> None:
    Keys(folder).make("root")
    folder.chmod(mode)
    with pytest.raises(TrustError, match=r"others can write into the folder .*keys: chmod go-w "):
        Keys(folder).signer("root")
    with pytest.raises(TrustError, match="others can write into the folder"):
        Keys(folder).make("targets")
    assert not (folder / "targets.pem").exists()


def test_a_link_is_as_safe_as_the_place_where_it_leads(folder: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    Keys(stick).make("root")
    folder.mkdir(mode=0o700)
    (folder / "root.pem").symlink_to(stick / "root.pem")
    assert works(Keys(folder), "root")
    stick.chmod(0o777)
    with pytest.raises(TrustError, match=r"others can write into the folder .*stick"):
        Keys(folder).signer("root")


def test_a_link_that_others_can_exchange_is_not_followed(folder: Path, tmp_path: Path) -> None:
    Keys(tmp_path / "stick").make("root")
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "root.pem").symlink_to(tmp_path / "stick" / "root.pem")
    with pytest.raises(TrustError, match=r"others can write into the folder .*keys"):
        Keys(folder).signer("root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_key_of_another_user_is_refused_but_not_to_root(folder: Path) -> None:
    Keys(folder).make("root", "targets")
    folder.chmod(0o755)
    os.chown(folder / "targets.pem", SOMEBODY, SOMEBODY)
    assert works(Keys(folder), "targets")
    (folder / "targets.pem").chmod(0o644)
    inside = os.open(folder, os.O_PATH)  # by which the way there is open to everybody
    try:
        os.seteuid(SOMEBODY + 1)
        with pytest.raises(TrustError, match=r"the key .*targets\.pem belongs to another user"):
            Keys(Path(f"/proc/self/fd/{inside}")).signer("targets")
    finally:
        os.seteuid(0)
        os.close(inside)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_folder_of_another_user_holds_no_keys(folder: Path) -> None:
    Keys(folder).make("root")
    os.chown(folder / "root.pem", SOMEBODY, SOMEBODY)
    os.chown(folder, SOMEBODY + 1, SOMEBODY + 1)
    folder.chmod(0o755)
    inside = os.open(folder, os.O_PATH)
    try:
        os.seteuid(SOMEBODY)
        with pytest.raises(TrustError, match=r"the folder .* belongs to another user"):
            Keys(Path(f"/proc/self/fd/{inside}")).signer("root")
    finally:
        os.seteuid(0)
        os.close(inside)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_what_belongs_to_root_is_a_services_own(tmp_path: Path) -> None:
    with (tmp_path / "credential").open("wb") as file:
        os.seteuid(SOMEBODY)
        try:
            assert host.is_own(file.fileno())
        finally:
            os.seteuid(0)


def test_a_key_is_never_in_a_message(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    passphrase = "cheval agrafe"
    Keys(folder).make("root", "targets", "timestamp")
    Keys(folder).make("snapshot", passphrase=passphrase)
    keys = Keys(folder, Person("mouton agrafe"))
    said = [repr(keys), repr(keys.signer("root")), repr(Secrets(Person("mouton agrafe")).of("root", Kind.PIN))]
    (folder / "targets.pem").chmod(0o640)
    pem = (folder / "timestamp.pem").read_text()
    (folder / "timestamp.pem").write_text(pem.replace("MC4", "MC5"))
    for name in ("targets", "snapshot", "timestamp"):
        with pytest.raises(TrustError) as caught:
            keys.signer(name)
        said += traceback.format_exception(caught.value)
    said += [record.getMessage() for record in caplog.records]
    everything = "\n".join(said)
    for path in folder.iterdir():
        for line in path.read_text().splitlines()[1:-1]:
            assert line not in everything
    assert passphrase not in everything
    assert "mouton" not in everything


# Manifests


@pytest.mark.parametrize(
    ("curve", "scheme"), [(ec.SECP256R1(), "ecdsa-sha2-nistp256"), (ec.SECP384R1(), "ecdsa-sha2-nistp384")]
)
def test_an_ecdsa_key_signs_manifests_that_nodes_accept(folder: Path, curve: ec.EllipticCurve, scheme: str) -> None:
    keys = put(folder, "cned-lessons", ec.generate_private_key(curve))
    key = lesson_key(keys)
    assert key.scheme == scheme
    assert read_catalogue(signed_file(MANIFEST, keys.signer("cned-lessons")), {key.id: key}) == MANIFEST


@pytest.mark.parametrize("private", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP521R1())])
def test_a_key_of_a_kind_that_manifests_do_not_know_signs_none(folder: Path, private: PrivateKeyTypes) -> None:
    keys = put(folder, "cned-lessons", private)
    assert works(keys, "cned-lessons")
    with pytest.raises(TrustError, match=r"key cannot sign manifests: use one of ed25519, ecdsa-"):
        signed_file(MANIFEST, keys.signer("cned-lessons"))


# Devices


@pytest.mark.parametrize("uri", ["", "root.pem", "file2:/keys/root.pem", "gnupg:", "pkcs11:token=a"])
def test_a_device_is_one_of_those_that_are_known(folder: Path, uri: str) -> None:
    with pytest.raises(TrustError, match=r"is not the URI of a key in a device: give one of hsm:KEYID"):
        Keys(folder).keep_uri("root", uri)


@pytest.mark.parametrize(
    "uri",
    [
        "hsm:slot",
        "hsm:2?token=edgeshare",
        "awskms:",
        "azurekms://vault.vault.azure.net/keys/root/7",  # what is kept is the newest version, and names it
        "azurekms://evil.example/keys/root",
        "gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "hv:root/7",
    ],
)
def test_a_uri_that_its_device_would_not_understand_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("PYKCS11LIB", "/nowhere.so")
    with pytest.raises(TrustError, match=r"is not the URI of a key in such a device: give "):
        Keys(folder).keep_uri("root", uri)


@pytest.mark.parametrize(
    ("uri", "extra"),
    [
        ("awskms:arn:aws:kms:eu-west-3:1:key/2", "awskms"),
        ("azurekms://vault.vault.azure.net/keys/root", "azurekms"),
        ("gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "gcpkms"),
        ("hv:root", "vault"),
        ("tkey:", "tkey"),
    ],
)
def test_a_library_that_is_missing_is_named_by_its_extra(folder: Path, uri: str, extra: str) -> None:
    with pytest.raises(
        TrustError, match=f"needs a library that is not installed: install edgeshare with its extra {extra}$"
    ):
        Keys(folder).keep_uri("root", uri)


def test_without_its_library_an_hsm_is_not_looked_for(folder: Path) -> None:
    with pytest.raises(TrustError, match="set the variable PYKCS11LIB to"):
        Keys(folder).keep_uri("root", "hsm:2")


def test_a_name_that_is_taken_is_not_given_to_a_key_in_a_device(folder: Path) -> None:
    keys = Keys(folder)
    keys.make("root")
    with pytest.raises(TrustError, match="there is a key root already"):
        keys.keep_uri("root", "hsm:2")


def kept(folder: Path, text: str) -> Path:
    """A file that says where the key `root` is."""
    folder.mkdir(mode=0o700)
    file = folder / "root.uri"
    file.write_text(text, encoding="utf-8")
    return file


def elsewhere(uri: str) -> str:
    public = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00" * 32}}
    return json.dumps({"uri": uri, "keyid": "00", "public": public})


def test_a_device_cannot_lead_around_the_care_that_is_taken_of_files(folder: Path, tmp_path: Path) -> None:
    kept(folder, elsewhere(f"file2:{tmp_path}/root.pem"))
    with pytest.raises(TrustError, match="is not the URI of a key in a device"):
        Keys(folder).signer("root")


def test_where_a_key_is_may_be_read_by_others_and_not_changed(folder: Path) -> None:
    file = kept(folder, elsewhere("hsm:2"))
    file.chmod(0o644)
    with pytest.raises(TrustError, match="PYKCS11LIB"):
        Keys(folder).signer("root")
    file.chmod(0o664)
    with pytest.raises(TrustError, match=r"root\.uri can be changed by others"):
        Keys(folder).signer("root")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"uri": "hsm:2", "keyid": "00", "public": 7}', "\xe9"])
def test_a_file_that_names_no_key_in_a_device_is_named(folder: Path, text: str) -> None:
    kept(folder, text)
    with pytest.raises(TrustError, match=r"root\.uri does not name a key in a device"):
        Keys(folder).signer("root")
