"""From what was typed to a checked `ValidatorConfig`, or one line that names the flag or file and the fix.

`check_options` only reads: when it refuses, nothing was started, created or overwritten. What needs the network is in
`check_vote_account`, which the process runs before it looks at the tower store. That a TLS server is the right one, and
that the store answers, only a connection can tell: that is the store adapter's, not decided here.

>>> parse_endpoint("etcd-1.example.org:2379"), parse_endpoint("[::1]:2379")
(('etcd-1.example.org', 2379), ('::1', 2379))
>>> parse_endpoint("https://127.0.0.1:2379")
Traceback (most recent call last):
tower.errors.InvalidInput: --etcd-endpoint: 'https://127.0.0.1:2379' is not host:port; leave out https:// (TLS is \
always on)
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from tower.errors import InvalidInput
from tower.keys import Keypair, from_base58, read_keypair_file, to_base58
from tower.validator.config import EtcdConfig, ValidatorConfig
from tower.validator.failover_options import check_failover, store_flags
from tower.validator.rpc import ClusterRpc
from tower.validator.running_options import check_running
from tower.validator.urls import parse_url, parse_websocket_url, websocket_url_for
from tower.wire import VOTE_PROGRAM_ID, decode_vote_account

__all__ = [
    "DEFAULT_URL",
    "RunOptions",
    "check_etcd",
    "check_folder",
    "check_options",
    "check_vote_account",
    "parse_address",
    "parse_endpoint",
    "voting_identity",
]

DEFAULT_URL = "http://127.0.0.1:8899"
MAX_PEM_BYTES = 1 << 20
MAX_ENDPOINTS = 16
MAX_AUTHORIZED_VOTERS = 64
STORE_TIMEOUT_S_MAX = 600.0
MIN_BALANCE_LAMPORTS = 2  # the tool in use refuses a balance of one lamport or less
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The flags of `openos-validator run` as they were typed."""

    identity: str | None = None
    vote_account: str | None = None
    authorized_voters: tuple[str, ...] = ()
    ledger: str = "ledger"
    url: str = DEFAULT_URL
    ws: str | None = None
    tower_storage: str = "file"
    tower: str | None = None
    etcd_cacert_file: str | None = None
    etcd_cert_file: str | None = None
    etcd_key_file: str | None = None
    etcd_endpoints: tuple[str, ...] = ()
    etcd_domain_name: str = "localhost"
    check_vote_account: bool = True
    require_tower: bool = False
    no_voting: bool = False
    bind_address: str = "0.0.0.0"
    who: str = ""
    store_timeout: float = 5.0
    rebuild_wait_slots: int = 200
    trace: str | None = None
    leader_duty: bool = True
    on_lost_lock: str = "exit"
    unstaked_identity: str | None = None
    standby_at_start: bool = False
    auto_takeover: str | None = None
    auto_takeover_after: float | None = None
    auto_takeover_min_interval: float | None = None
    accept_handover: str | None = None
    metrics_address: str | None = None
    hook_before: str | None = None
    hook_after: str | None = None
    hook_timeout: float | None = None


def parse_endpoint(text: str, flag: str = "--etcd-endpoint", example: str = "127.0.0.1:2379") -> tuple[str, int]:
    """`(host, port)` of `host:port`; an IPv6 address stands in brackets. Raises `InvalidInput`."""

    def refuse(fix: str) -> InvalidInput:
        return InvalidInput(f"{flag}: {text!r} is not host:port; {fix}")

    if "://" in text:
        raise refuse(f"leave out {text.split('://')[0]}:// (TLS is always on)")
    bracketed = re.fullmatch(r"\[([^\[\]]*)\]:(\d{1,5})", text)
    if bracketed:
        host, port = bracketed.groups()
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise refuse("what stands in the brackets is no IPv6 address") from None
    else:
        if text.count(":") > 1:
            raise refuse("an IPv6 address stands in brackets, like [::1]:2379")
        host, _, port = text.partition(":")
        if not HOST.fullmatch(host) or not re.fullmatch(r"\d{1,5}", port):
            raise refuse(f"write it like {example}")
    if not 1 <= int(port) <= 65535:
        raise refuse("a port is between 1 and 65535")
    return host, int(port)


def parse_address(text: str, flag: str) -> bytes:
    """32 bytes of a base58 address, or of the public key in a keypair file, as Solana's tools take either."""
    if Path(text).is_file():
        return _read_keypair(text, flag).pubkey
    try:
        return from_base58(text)
    except InvalidInput:
        raise InvalidInput(f"{flag}: {text!r} is neither a base58 address nor a keypair file") from None


def check_options(options: RunOptions, now: datetime.datetime | None = None) -> ValidatorConfig:
    """Read and check everything that can be checked on this machine; writes nothing.

    `now` is the time at which certificates must be valid (default: this moment). Raises `InvalidInput`.
    """
    if options.identity is None:
        raise InvalidInput("The --identity <KEYPAIR> argument is required")
    identity = _read_keypair(options.identity, "--identity")
    vote_account = None
    if options.vote_account is not None:
        vote_account = parse_address(options.vote_account, "--vote-account")
    voters = _authorized_voters(options, identity)
    url = parse_url(options.url)
    websocket_url = websocket_url_for(url) if options.ws is None else parse_websocket_url(options.ws)
    try:
        ipaddress.ip_address(options.bind_address)
    except ValueError:
        raise InvalidInput(f"--bind-address: {options.bind_address!r} is no IP address of this machine") from None
    if not (math.isfinite(options.store_timeout) and 0 < options.store_timeout <= STORE_TIMEOUT_S_MAX):
        raise InvalidInput(f"--store-timeout: give seconds above 0 and up to {STORE_TIMEOUT_S_MAX:g}")
    if options.rebuild_wait_slots < 0:
        raise InvalidInput("--rebuild-wait-slots: give a number of slots, 0 or more")
    ledger = check_folder(options.ledger, "--ledger")
    tower_dir = check_folder(options.tower, "--tower") if options.tower is not None else ledger
    return ValidatorConfig(
        identity=identity,
        vote_account=vote_account,
        authorized_voters=voters,
        ledger=ledger,
        url=url,
        websocket_url=websocket_url,
        tower_storage=options.tower_storage,
        tower_dir=tower_dir,
        etcd=check_etcd(options, now or datetime.datetime.now(datetime.UTC)),
        check_vote_account=options.check_vote_account,
        require_tower=options.require_tower,
        bind_address=options.bind_address,
        who=options.who,
        store_timeout=options.store_timeout,
        rebuild_wait_slots=options.rebuild_wait_slots,
        trace=None if options.trace is None else _trace(options.trace),
        leader_duty=options.leader_duty,
        failover=check_failover(options, identity),
        running=check_running(options),
        store_flags=store_flags(options, tower_dir),
    )


async def voting_identity(rpc: ClusterRpc, config: ValidatorConfig) -> str:
    """The identity that votes with the vote account, this node or another: its node's address; without one, or where it cannot be
    read, our own identity's. Raises what `rpc` raises."""
    if config.vote_account is not None:
        _, account = await rpc.get_account_info(config.vote_account)
        with contextlib.suppress(InvalidInput):
            if account is not None:
                return to_base58(decode_vote_account(account.data).node_pubkey)
    return config.identity.address


async def check_vote_account(rpc: ClusterRpc, config: ValidatorConfig) -> None:
    """Refuse a vote account that this process could not vote with.

    With `--no-check-vote-account` (a spare, whose identity is not the account's) and without any authorised voter, only
    that it exists is required. Raises `InvalidInput`, or what `rpc` raises.
    """
    if config.vote_account is None:
        return
    address = to_base58(config.vote_account)
    _, account = await rpc.get_account_info(config.vote_account)
    if account is None:
        raise InvalidInput(
            f"--vote-account: vote account not found: {address}; check the address, and that --url is the right cluster"
        )
    if account.owner != VOTE_PROGRAM_ID:
        raise InvalidInput(f"--vote-account: not a vote account (owned by {to_base58(account.owner)}): {address}")
    if not config.check_vote_account or not config.authorized_voters:
        return
    try:
        state = decode_vote_account(account.data)
    except InvalidInput as problem:
        raise InvalidInput(f"--vote-account: {address} cannot be read: {problem}") from None
    if not state.authorized_voters:
        raise InvalidInput(f"--vote-account: vote account {address} is not yet initialized; create it first")
    own = config.identity.pubkey
    if state.node_pubkey != own:
        raise InvalidInput(
            f"--vote-account: its identity ({to_base58(state.node_pubkey)}) does not match the validator's identity "
            f"{to_base58(own)}; on a spare add --no-check-vote-account"
        )
    loaded = {voter.pubkey for voter in config.authorized_voters}
    for _, voter in state.authorized_voters:
        if voter not in loaded:
            raise InvalidInput(
                f"--authorized-voter: authorized voter {to_base58(voter)} of vote account {address} not available; "
                "name its keypair file"
            )
    balance = await rpc.get_balance(own)
    if balance < MIN_BALANCE_LAMPORTS:
        raise InvalidInput(
            f"--identity: underfunded identity account ({to_base58(own)}): only {balance} lamports available; "
            "send it some SOL for vote fees"
        )


def _read_keypair(path: str, flag: str) -> Keypair:
    try:
        return read_keypair_file(path)
    except InvalidInput as problem:
        raise InvalidInput(f"{flag}: {problem}; name a file written by solana-keygen") from None


def _authorized_voters(options: RunOptions, identity: Keypair) -> tuple[Keypair, ...]:
    if options.authorized_voters and options.vote_account is None:
        raise InvalidInput("--authorized-voter: needs --vote-account <ADDRESS> too")
    if len(options.authorized_voters) > MAX_AUTHORIZED_VOTERS:
        raise InvalidInput(f"--authorized-voter: at most {MAX_AUTHORIZED_VOTERS} keypairs")
    named = [_read_keypair(path, "--authorized-voter") for path in options.authorized_voters]
    if options.no_voting or options.vote_account is None:
        return ()
    return tuple(dict.fromkeys(named)) or (identity,)


def _trace(text: str) -> Path:
    path = Path(text).absolute()
    if path.is_dir():
        raise InvalidInput(f"--trace: {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise InvalidInput(f"--trace: {path.parent} is not a folder; make it, or choose another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidInput(f"--trace: {path} cannot be written; choose another file")
    return path


def check_folder(text: str, flag: str) -> Path:
    """The absolute path of a folder, or of one that can be made. Raises `InvalidInput`."""
    # resolved once, so that admin clients and records see the same path whatever the working folder becomes
    path = Path(text).absolute()
    for part in (path, *path.parents):
        try:
            kind = part.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as problem:
            raise InvalidInput(f"{flag}: {part}: {problem.strerror}; choose another folder") from None
        if not stat.S_ISDIR(kind):
            raise InvalidInput(f"{flag}: {part} is not a folder; name one, or a path that can become one")
        break
    return path


def check_etcd(options: RunOptions, now: datetime.datetime) -> EtcdConfig | None:
    """The etcd that the flags name, its files read and checked; `None` for the file storage. Raises `InvalidInput`."""
    files = {
        "--etcd-cacert-file": options.etcd_cacert_file,
        "--etcd-cert-file": options.etcd_cert_file,
        "--etcd-key-file": options.etcd_key_file,
    }
    if options.tower_storage != "etcd":
        # silently keeping the tower on this machine would leave two machines without a fence
        given = [flag for flag, value in files.items() if value is not None]
        given += ["--etcd-endpoint"] if options.etcd_endpoints else []
        if given:
            raise InvalidInput(f"{given[0]}: has no effect without --tower-storage etcd; add that, or leave it out")
        return None
    for flag, value in files.items():
        if value is None:
            raise InvalidInput(f"--tower-storage etcd: the {flag} <FILE> argument is required")
    if not options.etcd_endpoints:
        raise InvalidInput("--tower-storage etcd: at least one --etcd-endpoint <HOST:PORT> is required")
    if len(options.etcd_endpoints) > MAX_ENDPOINTS:
        raise InvalidInput(f"--etcd-endpoint: at most {MAX_ENDPOINTS} endpoints")
    endpoints = tuple(dict.fromkeys(parse_endpoint(text) for text in options.etcd_endpoints))
    if not HOST.fullmatch(options.etcd_domain_name):
        raise InvalidInput(f"--etcd-domain-name: {options.etcd_domain_name!r} is no host name")
    (ca_path, cert_path, key_path) = (str(value) for value in files.values())
    ca, cert, key = (_read_pem(path, flag) for path, flag in zip((ca_path, cert_path, key_path), files, strict=True))
    _check_certificates(ca, ca_path, "--etcd-cacert-file", now, leaf=False)
    _check_certificates(cert, cert_path, "--etcd-cert-file", now, leaf=True)
    _check_key(key, key_path, cert, cert_path)
    return EtcdConfig(endpoints, ca, cert, key, options.etcd_domain_name)


def _read_pem(path: str, flag: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as problem:
        raise InvalidInput(f"Unable to read {path}: {problem.strerror}; check {flag}") from None
    if len(data) > MAX_PEM_BYTES:
        raise InvalidInput(f"Unable to read {path}: larger than {MAX_PEM_BYTES} bytes, no PEM file; check {flag}")
    return data


def _check_certificates(data: bytes, path: str, flag: str, now: datetime.datetime, *, leaf: bool) -> None:
    """Of a client's file the first certificate must be valid now; of a CA file at least one."""
    from cryptography import x509  # takes a tenth of a second: only where etcd is used

    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError:
        kind = "the client certificate" if leaf else "the CA certificate"
        raise InvalidInput(f"{flag}: {path} holds no PEM certificate; name the file with {kind}") from None
    certificates = certificates[:1] if leaf else certificates
    if all(certificate.not_valid_after_utc < now for certificate in certificates):
        day = max(certificate.not_valid_after_utc for certificate in certificates)
        raise InvalidInput(f"{flag}: {path} expired on {day:%Y-%m-%d %H:%M} UTC; make a new certificate")
    if all(certificate.not_valid_before_utc > now for certificate in certificates):
        day = min(certificate.not_valid_before_utc for certificate in certificates)
        raise InvalidInput(f"{flag}: {path} is not valid before {day:%Y-%m-%d %H:%M} UTC; check this machine's clock")


def _check_key(data: bytes, path: str, cert: bytes, cert_path: str) -> None:
    """The private key must be readable without a passphrase and be the certificate's."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    flag = "--etcd-key-file"
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidInput(f"{flag}: {path} is encrypted; store the key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput(f"{flag}: {path} holds no PEM private key; name the client certificate's key file") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        of_cert = x509.load_pem_x509_certificates(cert)[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput(f"--etcd-cert-file: {cert_path} has a key of an unsupported kind; make another") from None
    if key.public_key().public_bytes(*form) != of_cert.public_bytes(*form):
        raise InvalidInput(f"{flag}: {path} does not belong to the certificate in {cert_path}; name its own key file")
