"""What is checked before anything starts: flags, files, certificates, and the vote account on the cluster."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tower.errors import InvalidInput
from tower.keys import Keypair, write_keypair_file
from tower.types import VoteAccountState
from tower.validator import preflight
from tower.validator.certs import make_certificates
from tower.validator.config import ValidatorConfig
from tower.validator.ledger import lock_ledger
from tower.validator.preflight import RunOptions, check_options, check_vote_account, parse_endpoint
from tower.validator.rpc import Account
from tower.wire import VOTE_PROGRAM_ID

NODE, VOTER, VOTE = (Keypair.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3))
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, pair in (("node", NODE), ("voter", VOTER), ("vote", VOTE)):
        write_keypair_file(tmp_path / f"{name}.json", pair)
    make_certificates(tmp_path / "certs")
    return tmp_path


def options(files: Path, **changes: Any) -> RunOptions:
    return replace(RunOptions(identity=str(files / "node.json"), ledger=str(files / "ledger")), **changes)


def etcd_options(files: Path, **changes: Any) -> RunOptions:
    certs = files / "certs"
    given = {
        "tower_storage": "etcd",
        "etcd_cacert_file": str(certs / "etcd-ca.pem"),
        "etcd_cert_file": str(certs / "validator.pem"),
        "etcd_key_file": str(certs / "validator-key.pem"),
        "etcd_endpoints": ("127.0.0.1:2379",),
    }
    return options(files, **{**given, **changes})


def guide_certificate(key: Any, *, days: tuple[int, int]) -> bytes:
    """A certificate of the guide's shape: subject and issuer are both CN=etcd; `days` from and to, from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])
    begin, end = (NOW + datetime.timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    form = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, form))


def test_a_primary_and_a_spare_as_in_the_guide(files: Path) -> None:
    primary = check_options(etcd_options(files, vote_account=str(files / "vote.json")))
    assert (primary.identity, primary.vote_account, primary.authorized_voters) == (NODE, VOTE.pubkey, (NODE,))
    assert primary.check_vote_account
    assert primary.etcd is not None
    assert (primary.etcd.endpoints, primary.etcd.domain_name) == ((("127.0.0.1", 2379),), "localhost")
    assert primary.etcd.key == (files / "certs/validator-key.pem").read_bytes()
    assert (primary.url, primary.websocket_url) == ("http://127.0.0.1:8899", "ws://127.0.0.1:8900/")
    spare = check_options(
        etcd_options(
            files,
            vote_account=VOTE.address,
            authorized_voters=(str(files / "voter.json"), str(files / "node.json"), str(files / "voter.json")),
            check_vote_account=False,
            etcd_endpoints=("[::1]:2379", "etcd.example.org:1", "[::1]:2379"),
            ws="wss://example.org/ws",
        )
    )
    assert (spare.vote_account, spare.authorized_voters) == (VOTE.pubkey, (VOTER, NODE))
    assert not spare.check_vote_account
    assert spare.websocket_url == "wss://example.org/ws"
    assert spare.etcd is not None
    assert spare.etcd.endpoints == (("::1", 2379), ("etcd.example.org", 1))
    assert not (files / "ledger").exists()


def test_without_vote_account_or_with_no_voting_nobody_may_vote(files: Path) -> None:
    follower = check_options(options(files))
    assert (follower.vote_account, follower.authorized_voters) == (None, ())
    silent = check_options(options(files, vote_account=VOTE.address, no_voting=True))
    assert (silent.vote_account, silent.authorized_voters) == (VOTE.pubkey, ())
    assert (follower.tower_storage, follower.etcd, follower.tower_dir) == ("file", None, files / "ledger")
    assert check_options(options(files, tower=str(files / "t/u"))).tower_dir == files / "t/u"


def test_the_guides_certificates_are_taken(files: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    for name, data in (("v.pem", guide_certificate(key, days=(-1, 9))), ("v-key.pem", key_pem(key))):
        (files / name).write_bytes(data)
    v = str(files / "v.pem")
    config = check_options(etcd_options(files, etcd_cacert_file=v, etcd_cert_file=v, etcd_key_file=str(files / "v-key.pem")))
    assert config.etcd is not None


def _expired(files: Path) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    (files / "old.pem").write_bytes(guide_certificate(key, days=(-9, -1)))
    (files / "old-key.pem").write_bytes(key_pem(key))
    return {"etcd_cert_file": str(files / "old.pem"), "etcd_key_file": str(files / "old-key.pem")}


def _early(files: Path) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    (files / "early.pem").write_bytes(guide_certificate(key, days=(1, 9)))
    return {"etcd_cacert_file": str(files / "early.pem")}


def _encrypted(files: Path) -> dict[str, Any]:
    (files / "secret.pem").write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1()), b"word"))
    return {"etcd_key_file": str(files / "secret.pem")}


def _garbled(files: Path) -> dict[str, Any]:
    data = (files / "certs/validator.pem").read_text().splitlines()
    (files / "garbled.pem").write_text("\n".join([*data[:2], "!!!", *data[3:]]))
    return {"etcd_cert_file": str(files / "garbled.pem")}


def _huge(files: Path) -> dict[str, Any]:
    (files / "huge.pem").write_bytes(b"x" * (preflight.MAX_PEM_BYTES + 1))
    return {"etcd_cacert_file": str(files / "huge.pem")}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: {"etcd_cacert_file": None}, r"--tower-storage etcd: the --etcd-cacert-file <FILE> argument is req"),
        (lambda f: {"etcd_cert_file": None}, r"the --etcd-cert-file <FILE> argument is required"),
        (lambda f: {"etcd_key_file": None}, r"the --etcd-key-file <FILE> argument is required"),
        (lambda f: {"etcd_endpoints": ()}, r"at least one --etcd-endpoint <HOST:PORT> is required"),
        (lambda f: {"etcd_domain_name": ""}, r"^--etcd-domain-name: '' is no host name"),
        (lambda f: {"etcd_cacert_file": str(f)}, r"^Unable to read .*: Is a directory; check --etcd-cacert-file$"),
        (lambda f: {"etcd_key_file": str(f / "no.pem")}, r"^Unable to read .*no.pem: No such file.*--etcd-key-file$"),
        (_huge, r"^Unable to read .*huge.pem: larger than 1048576 bytes"),
        (_garbled, r"^--etcd-cert-file: .*garbled.pem holds no PEM certificate"),
        (
            lambda f: {"etcd_cert_file": str(f / "certs/validator-key.pem")},
            r"^--etcd-cert-file: .*validator-key.pem holds no PEM certificate; name the file with the client certificate",
        ),
        (
            lambda f: {"etcd_key_file": str(f / "certs/validator.pem")},
            r"^--etcd-key-file: .*validator.pem holds no PEM private key",
        ),
        (
            lambda f: {"etcd_key_file": str(f / "certs/etcd-key.pem")},
            r"^--etcd-key-file: .*etcd-key.pem does not belong to the certificate in .*validator.pem",
        ),
        (_expired, r"^--etcd-cert-file: .*old.pem expired on \d{4}-\d\d-\d\d"),
        (_early, r"^--etcd-cacert-file: .*early.pem is not valid before .* check this machine's clock$"),
        (_encrypted, r"^--etcd-key-file: .*secret.pem is encrypted; store the key without a passphrase$"),
        (lambda f: {"tower_storage": "file"}, r"^--etcd-cacert-file: has no effect without --tower-storage etcd"),
        (lambda f: {"store_timeout": 0.0}, r"^--store-timeout: "),
        (lambda f: {"store_timeout": float("nan")}, r"^--store-timeout: "),
        (lambda f: {"rebuild_wait_slots": -1}, r"^--rebuild-wait-slots: "),
        (lambda f: {"bind_address": "here"}, r"^--bind-address: 'here' is no IP address"),
        (lambda f: {"ws": "http://127.0.0.1:8900"}, r"^--ws: .* is no ws\(s\) URL"),
        (lambda f: {"url": "http://127.0.0.1:65535"}, r"^--url: .* leaves no port above it for PubSub; give --ws"),
        (lambda f: {"ledger": str(f / "node.json")}, r"^--ledger: .*node.json is not a folder"),
        (lambda f: {"ledger": str(f / "node.json/below")}, r"^--ledger: .*node.json is not a folder"),
        (lambda f: {"tower": str(f / "node.json")}, r"^--tower: .*node.json is not a folder"),
        (lambda f: {"authorized_voters": (str(f / "node.json"),)}, r"^--authorized-voter: needs --vote-account"),
    ],
)
def test_refused_in_one_line_that_names_the_flag(files: Path, change: Callable[[Path], dict[str, Any]], line: str) -> None:
    changed = change(files)
    before = sorted(files.rglob("*"))
    with pytest.raises(InvalidInput, match=line) as raised:
        check_options(etcd_options(files, **changed))
    assert "\n" not in str(raised.value)
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "127.0.0.1:", ":2379", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "::1:2379", "[::1]", "[x]:1",
     "[127.0.0.1]:1", "https://a:1", "a b:1", "a:1/x", "a:1\n", "[::1%lo]:", "a,b:1", ""],
)  # fmt: skip
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--etcd-endpoint: .* is not host:port; ") as raised:
        parse_endpoint(text)
    assert "\n" not in str(raised.value)


def test_a_keypair_is_never_quoted(files: Path) -> None:
    numbers = list(NODE.secret)
    (files / "node.json").write_text(json.dumps(numbers[:-1]))
    with pytest.raises(InvalidInput, match=r"^--identity: .*node.json: .*expected 64 numbers, found 63") as raised:
        check_options(options(files))
    quoted = re.findall(r"\d+", str(raised.value).replace(str(files), ""))
    assert quoted == ["64", "63"]


def test_one_process_on_a_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "a" / "ledger"
    refused = pytest.raises(InvalidInput, match=r"^Unable to lock .*ledger directory. Check if another validator is")
    with lock_ledger(ledger), refused:
        lock_ledger(ledger)
    lock_ledger(ledger).close()


class Cluster:
    """The answers that `check_vote_account` needs."""

    def __init__(self, account: Account | None, balance: int = 10) -> None:
        self.account, self.balance = account, balance

    async def get_account_info(self, address: bytes) -> tuple[int, Account | None]:
        assert address == VOTE.pubkey
        return 7, self.account

    async def get_balance(self, address: bytes) -> int:
        assert address == NODE.pubkey
        return self.balance


ACCOUNT = Account(VOTE_PROGRAM_ID, 1, b"state")
STATE = VoteAccountState(NODE.pubkey, ((0, NODE.pubkey), (5, VOTER.pubkey)))


@pytest.mark.parametrize(
    ("cluster", "state", "line"),
    [
        (Cluster(None), STATE, f"--vote-account: vote account not found: {VOTE.address}"),
        (Cluster(Account(bytes(32), 1, b"")), STATE, f"not a vote account (owned by {'1' * 32}): {VOTE.address}"),
        (Cluster(ACCOUNT), replace(STATE, authorized_voters=()), "not yet initialized"),
        (Cluster(ACCOUNT), replace(STATE, node_pubkey=VOTER.pubkey), f"does not match the validator's identity {NODE.address}"),
        (Cluster(ACCOUNT), replace(STATE, authorized_voters=((0, VOTE.pubkey),)), f"authorized voter {VOTE.address} of"),
        (Cluster(ACCOUNT, 1), STATE, f"underfunded identity account ({NODE.address}): only 1 lamports available"),
        (Cluster(ACCOUNT, 2), STATE, None),
    ],
)
def test_check_vote_account(
    files: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, state: VoteAccountState, line: str | None
) -> None:
    monkeypatch.setattr(preflight, "decode_vote_account", lambda data: state)
    voters = (str(files / "node.json"), str(files / "voter.json"))
    config = check_options(options(files, vote_account=VOTE.address, authorized_voters=voters))

    def check(config: ValidatorConfig) -> None:
        asyncio.run(check_vote_account(cluster, config))  # type: ignore[arg-type]

    check(replace(config, vote_account=None))
    spare = replace(config, check_vote_account=False)
    if line is None:
        check(config)
        check(spare)
        return
    with pytest.raises(InvalidInput, match=re.escape(line)):
        check(config)
    if cluster.account is ACCOUNT:
        check(spare)  # a spare fails the rest by design
    else:
        with pytest.raises(InvalidInput, match=re.escape(line)):
            check(spare)
