"""Collects what the doctor looks at, and hands it to the checks. Reads only, but for the scratch keys of `measure_writes`.

Each part is collected on its own: what cannot be read or reached is a fact like any other, and the rest goes on. Flags mean
what they mean for `run`. Without an identity and a vote account, only etcd is looked at: so it runs on a machine of etcd too.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from tower.errors import InvalidInput, TowerError
from tower.keys import from_base58, read_keypair_file, to_base58
from tower.lockout import require_well_formed
from tower.validator import doctor
from tower.validator.cert_files import key_of
from tower.validator.certs_show import WARN_DAYS, CertificateFacts, read_pair
from tower.validator.config import EtcdConfig
from tower.validator.doctor import Finding
from tower.validator.doctor_etcd import check_etcd, clocks_of
from tower.validator.doctor_facts import (
    CLUSTER_CLOCK_WARN_S,
    CertificateFiles,
    ClockFacts,
    EtcdFacts,
    FolderFacts,
    KeyFile,
    RpcFacts,
    TowerFacts,
    VoteFacts,
)
from tower.validator.etcd_metrics import scrape
from tower.validator.etcd_probe import measure_reads, measure_writes
from tower.validator.etcd_survey import EtcdSurvey, survey
from tower.validator.preflight import RunOptions, check_options, parse_address, parse_endpoint
from tower.validator.rpc import ClusterRpc
from tower.validator.store_options import StoreConfig, open_store
from tower.validator.urls import shown
from tower.wire import VOTE_PROGRAM_ID, decode_saved_tower, decode_vote_account

__all__ = ["Examination", "examine"]

CLOCK_SYSVAR = "SysvarC1ock11111111111111111111111111111111"
UNIX_TIME_AT = slice(32, 40)  # in its data: an i64


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, and the etcd behind it (`None`: none was named, or none could be asked)."""

    findings: tuple[Finding, ...]
    etcd: EtcdFacts | None


def examine(options: RunOptions, *, timeout: float, write: bool = False) -> Examination:
    """Look at everything that `options` name; each question waits for at most `timeout` seconds.

    With `write` the time of writes is measured, on scratch keys.
    """
    validator = options.identity is not None or options.vote_account is not None
    found: list[Finding] = []
    clocks: list[ClockFacts] = []
    if validator:
        found += doctor.check_flags(_refusal(options))
    found += doctor.check_keys(_key_files(options)) + doctor.check_folders(_folders(options) if validator else [])
    facts, etcd_config = None, None
    if _names_etcd(options):
        files = _certificates(options)
        found += doctor.check_certificates(files)
        try:
            etcd_config = _etcd_config(options)
            facts = _etcd_facts(etcd_config, options, timeout, write)
        except InvalidInput as problem:
            why, line = "etcd is not looked at, and no vote leaves without it", "the flags as the line says, then this again"
            found.append(doctor.fail("etcd-members", str(problem), why, line))
        else:
            found += check_etcd(facts)
            clocks += clocks_of(facts)
    if validator:
        cluster = asyncio.run(_cluster(options, timeout))
        found += cluster.findings
        clocks += cluster.clocks
        found += doctor.check_tower(_tower(options, etcd_config, facts, cluster, timeout))
    return Examination((*found, *doctor.check_clocks(clocks)), facts)


def _names_etcd(options: RunOptions) -> bool:
    files = (options.etcd_cacert_file, options.etcd_cert_file, options.etcd_key_file)
    return options.tower_storage == "etcd" or bool(options.etcd_endpoints) or any(files)


def _refusal(options: RunOptions) -> str | None:
    try:
        check_options(options)
    except InvalidInput as problem:
        return str(problem)
    return None


# -- this machine


def _key_files(options: RunOptions) -> list[KeyFile]:
    named = [("--identity", options.identity)]
    named += [("--authorized-voter", path) for path in options.authorized_voters]
    named += [("--unstaked-identity", options.unstaked_identity), ("--etcd-key-file", options.etcd_key_file)]
    return [_key_file(flag, path) for flag, path in named if path is not None]


def _key_file(flag: str, path: str) -> KeyFile:
    try:
        if flag != "--etcd-key-file":  # that one is read with its certificate
            read_keypair_file(path)
        status = os.stat(path)
    except InvalidInput as problem:
        return KeyFile(flag, path, error=str(problem).removeprefix(f"{path}: "))
    except (OSError, ValueError) as problem:
        return KeyFile(flag, path, error=(problem.strerror if isinstance(problem, OSError) else None) or str(problem))
    return KeyFile(flag, path, stat.S_IMODE(status.st_mode), status.st_uid not in (0, os.geteuid()))


def _folders(options: RunOptions) -> list[FolderFacts]:
    named = [("--ledger", options.ledger)]
    if options.tower is not None and options.tower_storage == "file":
        named.append(("--tower", options.tower))
    found = []
    for flag, text in named:
        path = Path(text).absolute()
        path = next((part for part in (path, *path.parents) if part.is_dir()), Path("/"))
        space = os.statvfs(path)
        found.append(FolderFacts(flag, str(path), os.access(path, os.W_OK | os.X_OK), space.f_bavail * space.f_frsize))
    return found


def _certificates(options: RunOptions) -> CertificateFiles:
    now = datetime.datetime.now(datetime.UTC)
    found: list[CertificateFacts] = []
    errors: list[str] = []
    key = options.etcd_key_file
    pairs = [("--etcd-cacert-file", options.etcd_cacert_file, None), ("--etcd-cert-file", options.etcd_cert_file, key)]
    for flag, path, key_path in pairs:
        if path is None:
            errors.append(f"{flag}: not given")
            continue
        try:
            found += read_pair(Path(path), None if key_path is None else Path(key_path), now, WARN_DAYS)
        except InvalidInput as problem:
            errors.append(f"{flag}: {problem}")
    authority = options.etcd_cacert_file
    secret = None if authority is None else key_of(Path(authority))
    return CertificateFiles(tuple(found), tuple(errors), str(secret) if secret is not None and secret.exists() else None)


# -- etcd


def _etcd_config(options: RunOptions) -> EtcdConfig:
    """What is needed to connect, without a judgement on certificates: that is etcd's. Raises `InvalidInput`."""
    files = []
    for flag, path in (
        ("--etcd-cacert-file", options.etcd_cacert_file),
        ("--etcd-cert-file", options.etcd_cert_file),
        ("--etcd-key-file", options.etcd_key_file),
    ):
        if path is None:
            raise InvalidInput(f"{flag}: not given; it is needed to ask etcd")
        try:
            files.append(Path(path).read_bytes())
        except OSError as problem:
            raise InvalidInput(f"{flag}: {path}: {problem.strerror}") from None
    if not options.etcd_endpoints:
        raise InvalidInput("--etcd-endpoint: not given; it is needed to ask etcd")
    endpoints = tuple(dict.fromkeys(parse_endpoint(text) for text in options.etcd_endpoints))
    return EtcdConfig(endpoints, files[0], files[1], files[2], options.etcd_domain_name)


def _etcd_facts(config: EtcdConfig, options: RunOptions, timeout: float, write: bool) -> EtcdFacts:
    found = survey(config, timeout)
    addresses = {member.endpoint: parse_endpoint(member.endpoint) for member in found.answered}
    with ThreadPoolExecutor(max(len(addresses), 1)) as pool:
        told = pool.map(lambda address: scrape(config, address, timeout), addresses.values())
        scrapes = dict(zip(addresses, told, strict=True))
    first = next(iter(addresses.values()), None)
    reads = measure_reads(config, first, timeout) if first is not None else None
    writes = measure_writes(config, first, timeout) if first is not None and write else None
    paths = {"cacert": options.etcd_cacert_file, "cert": options.etcd_cert_file, "key": options.etcd_key_file}
    tls = " ".join(f"--{flag}={quote(path or '')}" for flag, path in paths.items())
    return EtcdFacts(found, scrapes, reads, writes, tls, time.time(), _opened(config, found, timeout))


def _opened(config: EtcdConfig, found: EtcdSurvey, timeout: float) -> tuple[str, ...] | None:
    """The identities in the etcd, as far as this certificate can list them; `None` where it may not."""
    if not found.has_quorum:
        return ()
    store = open_store(StoreConfig("etcd", Path(), config))
    try:
        return tuple(store.identities(timeout))
    except TowerError as problem:  # what else is wrong is told by the reads that are timed
        return None if "permission denied" in str(problem) else ()
    finally:
        store.close()


# -- the cluster


@dataclass(frozen=True, slots=True)
class _Cluster:
    findings: tuple[Finding, ...]
    clocks: tuple[ClockFacts, ...] = ()
    vote: VoteFacts | None = None
    has_voted: bool | None = None


async def _cluster(options: RunOptions, timeout: float) -> _Cluster:
    """The RPC, its clock and the vote account."""
    try:
        async with ClusterRpc(options.url, timeout=timeout) as rpc:
            facts, clocks = await _rpc(rpc, options.url)
            found = doctor.check_rpc(facts)
            if options.vote_account is None:
                text = "--vote-account is not given"
                line = "--vote-account ADDRESS"
                found.append(doctor.warn("vote-account", text, "this process follows the cluster and does not vote", line))
                return _Cluster(tuple(found), clocks)
            vote, has_voted = await _vote_account(rpc, options.vote_account, facts)
            loaded = _loaded(options)
            identity = loaded[0] if loaded else ""
            keys = loaded[1:] or loaded[:1]  # without --authorized-voter it is the identity
            found += doctor.check_vote_account(vote, identity, keys, spare=not options.check_vote_account)
            return _Cluster(tuple(found), clocks, vote, has_voted)
    except InvalidInput as problem:  # a URL that is none
        return _Cluster(tuple(doctor.check_rpc(RpcFacts(options.url, error=str(problem)))))


def _loaded(options: RunOptions) -> list[str]:
    """The addresses of the identity and the authorized voters, of the files that can be read."""
    found = []
    for path in (options.identity, *options.authorized_voters):
        try:
            found.append(read_keypair_file(path or "").address)
        except InvalidInput:
            found.append("")
    return found


async def _rpc(rpc: ClusterRpc, url: str) -> tuple[RpcFacts, tuple[ClockFacts, ...]]:
    where = shown(url)
    try:
        healthy = await rpc.get_health()
        facts = RpcFacts(where, None, healthy, await rpc.get_version(), await rpc.get_slot())
        _, clock = await rpc.get_account_info(from_base58(CLOCK_SYSVAR))
    except TowerError as problem:
        return RpcFacts(where, error=str(problem)), ()
    if clock is None or len(clock.data) < UNIX_TIME_AT.stop:
        return facts, ()
    ahead = int.from_bytes(clock.data[UNIX_TIME_AT], "little", signed=True) - time.time()
    return facts, (ClockFacts("the cluster's clock", ahead, CLUSTER_CLOCK_WARN_S),)


async def _vote_account(rpc: ClusterRpc, text: str, facts: RpcFacts) -> tuple[VoteFacts, bool | None]:
    try:
        address = parse_address(text, "--vote-account")
    except InvalidInput as problem:
        return VoteFacts(text, error=str(problem)), None
    name = to_base58(address)
    if facts.error is not None:
        return VoteFacts(name, error="not looked at: the RPC does not answer"), None
    try:
        _, account = await rpc.get_account_info(address)
        if account is None:
            return VoteFacts(name), None
        if account.owner != VOTE_PROGRAM_ID:
            return VoteFacts(name, found=True, owner=to_base58(account.owner)), None
        try:
            state = decode_vote_account(account.data)
        except InvalidInput as problem:
            return VoteFacts(name, found=True, unreadable=str(problem)), None
        epoch = (await rpc.get_epoch_info()).epoch
        balance = await rpc.get_balance(state.node_pubkey)
    except TowerError as problem:
        return VoteFacts(name, error=str(problem)), None
    voters = tuple((first, to_base58(voter)) for first, voter in state.authorized_voters)
    vote = VoteFacts(name, None, True, node=to_base58(state.node_pubkey), epoch=epoch, voters=voters, balance=balance)
    return vote, bool(state.lockouts)


# -- the tower


def _tower(
    options: RunOptions, etcd: EtcdConfig | None, facts: EtcdFacts | None, cluster: _Cluster, timeout: float
) -> TowerFacts:
    """What the store holds for the account's node, which is the identity that votes, or else for the identity."""
    vote = cluster.vote
    identity = vote.node if vote is not None and vote.node else (_loaded(options) or [""])[0]
    folder = Path(options.tower if options.tower is not None else options.ledger).absolute()
    where = str(folder) if options.tower_storage == "file" else "etcd"
    if not identity:
        return TowerFacts("", where, error="not looked at: neither the identity nor the vote account could be read")
    if options.tower_storage == "file":
        if not folder.is_dir():
            return TowerFacts(identity, where, has_voted=cluster.has_voted)
        config = StoreConfig("file", folder)
    else:
        reason = _no_store(facts.survey if facts is not None else None)
        if etcd is None or reason is not None:
            return TowerFacts(identity, where, error=f"not looked at: {reason or 'etcd could not be asked'}")
        config = StoreConfig("etcd", folder, etcd)
    return _look(config, identity, where, cluster.has_voted, timeout)


def _no_store(found: EtcdSurvey | None) -> str | None:
    if found is None:
        return "etcd could not be asked"
    return None if found.has_quorum else "etcd has no quorum"


def _look(config: StoreConfig, identity: str, where: str, has_voted: bool | None, timeout: float) -> TowerFacts:
    try:
        store = open_store(config)
        try:
            sighting = store.look(identity, timeout)
        finally:
            store.close()
    except TowerError as problem:
        return TowerFacts(identity, where, error=str(problem))
    owner = sighting.owner
    holder = None if owner is None else f"{owner.who} ({owner.why})"
    if sighting.record is None:
        return TowerFacts(identity, where, holder=holder, has_voted=has_voted)
    try:
        tower = decode_saved_tower(sighting.record, identity)
        require_well_formed(tower)
    except TowerError as problem:
        return TowerFacts(identity, where, unusable=str(problem), stored=True, holder=holder)
    last = tower.lockouts[-1].slot if tower.lockouts else None
    return TowerFacts(identity, where, None, None, last, True, holder, has_voted)

