"""Reads what `tower.validator.looking` describes: the store, the validator of a ledger folder, the cluster, etcd's members.

The store is what counts: if it does not answer, that is the observation. What anything else does not tell is left out, with the
reason. Nothing here writes; to look at an identity that a file store has never heard of does not even create a lock file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tower.errors import InvalidInput, StoreUnavailable, TowerError
from tower.keys import from_base58, to_base58
from tower.store import ABSENT, ListingStore, Owner, Sighting
from tower.validator.admin import AdminClient, AdminError, AdminUnavailable
from tower.validator.looking import Certificate, IdentityFacts, Landed, Observation, ValidatorView
from tower.validator.rpc import ClusterRpc
from tower.validator.store_options import StoreConfig
from tower.wire import VOTE_PROGRAM_ID, decode_vote_account

if TYPE_CHECKING:
    from tower.validator.etcd_survey import EtcdSurvey

__all__ = ["Observer"]

ANSWER_S = 5.0  # that the validator here and the cluster may take, beside the store
SURVEY_EVERY_S = 5.0  # a survey connects to every member anew



class Observer:
    """Looks at one store, once or again and again. `identities` empty: all that the store knows.

    `vote_account` (32 bytes) is that of the one identity given; without, the cluster is asked whose node it is.
    """

    def __init__(
        self,
        store: ListingStore,
        config: StoreConfig,
        identities: tuple[str, ...] = (),
        *,
        ledger: Path,
        url: str | None = None,
        vote_account: bytes | None = None,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._store, self._config, self._identities = store, config, identities
        self._ledger, self._url, self._timeout = ledger, url, timeout
        self._clock, self._wall_ms = clock, wall_ms
        self._vote_accounts: dict[str, bytes] = {}
        if vote_account is not None and len(identities) == 1:
            self._vote_accounts[identities[0]] = vote_account
        self._claims: dict[str, tuple[int, tuple[Owner, ...]]] = {}
        self._warm = False
        self._surveyed: tuple[float, EtcdSurvey] | None = None
        self._certificates = _certificates(config)

    def observe(self) -> Observation:
        """One look at everything. Raises `StoreError` for a store that is there and unusable."""
        with ThreadPoolExecutor(2) as pool:  # what is slow beside the store is asked meanwhile
            surveying = pool.submit(self._survey)
            viewing = pool.submit(self._view)
            error, facts = None, []
            try:
                facts = self._looks()
            except StoreUnavailable as problem:
                error = str(problem)
            at_ms = self._wall_ms()
            view, survey = viewing.result(), surveying.result()
        if self._url is not None and facts:
            facts = asyncio.run(self._with_landed(facts, view))
        return Observation(
            at_ms, self._config.tower_storage, tuple(self._config.places), tuple(facts), view, survey, self._certificates, error
        )

    def _looks(self) -> list[IdentityFacts]:
        if self._identities and self._config.etcd is not None:
            return [self._look(identity) for identity in self._identities]
        known = self._store.identities(self._timeout)
        nothing = {name: IdentityFacts(Sighting(name, ABSENT, None, ABSENT, None)) for name in self._identities}
        return [self._look(name) if name in known else nothing[name] for name in self._identities or known]

    def _look(self, identity: str) -> IdentityFacts:
        if not self._warm:  # the first answer has the connection in it
            self._store.look(identity, self._timeout)
            self._warm = True
        began = self._clock()
        sighting = self._store.look(identity, self._timeout)
        took = self._clock() - began
        known = self._claims.get(identity)
        if known is None or known[0] != sighting.instance_revision:
            known = sighting.instance_revision, tuple(self._store.history(identity, self._timeout))
            self._claims[identity] = known
        return IdentityFacts(sighting, known[1], took)

    def _survey(self) -> EtcdSurvey | None:
        if self._config.etcd is None:
            return None
        from tower.validator.etcd_survey import survey

        if self._surveyed is None or self._clock() > self._surveyed[0] + SURVEY_EVERY_S:
            self._surveyed = self._clock(), survey(self._config.etcd, min(self._timeout, ANSWER_S))
        return self._surveyed[1]

    def _view(self) -> ValidatorView:
        try:
            status = AdminClient(self._ledger, timeout=ANSWER_S).call("status")
        except (AdminError, AdminUnavailable) as problem:
            return ValidatorView(str(self._ledger), why=f"no validator here: {problem}")
        if not isinstance(status, dict):
            return ValidatorView(str(self._ledger), why="the validator here gives no status")
        return ValidatorView(str(self._ledger), status)

    # ---- the cluster

    async def _with_landed(self, facts: list[IdentityFacts], view: ValidatorView) -> list[IdentityFacts]:
        async with ClusterRpc(self._url or "", timeout=ANSWER_S) as rpc:
            found = []
            for each in facts:
                try:
                    landed, why = await self._landed(rpc, each.sighting.identity, view)
                except TowerError as problem:
                    landed, why = None, str(problem)
                found.append(IdentityFacts(each.sighting, each.claims, each.look_s, landed, why))
            return found

    async def _landed(self, rpc: ClusterRpc, identity: str, view: ValidatorView) -> tuple[Landed | None, str]:
        address = self._vote_accounts.get(identity)
        if address is None:
            address = await _vote_account_of(rpc, identity, view)
            if address is None:
                return None, "no vote account names this identity as its node; name one with --vote-account"
            self._vote_accounts[identity] = address
        slot, account = await rpc.get_account_info(address)
        if account is None or account.owner != VOTE_PROGRAM_ID:
            raise InvalidInput("--vote-account: not a vote account on this cluster")
        state = decode_vote_account(account.data)
        earned = state.epoch_credits[-1][1] if state.epoch_credits else 0
        return Landed(to_base58(address), state.last_voted_slot, state.root, earned, slot), ""


async def _vote_account_of(rpc: ClusterRpc, identity: str, view: ValidatorView) -> bytes | None:
    """The vote account of an identity: as the validator here says, or the best staked one whose node it is."""
    said = view.status or {}
    if said.get("identity") == identity and isinstance(said.get("voteAccount"), str):
        return from_base58(said["voteAccount"])
    accounts = await rpc.get_vote_accounts()
    own = [each for each in (*accounts.current, *accounts.delinquent) if each.node == identity]
    best = max(own, key=lambda each: each.activated_stake, default=None)
    return None if best is None else from_base58(best.vote_account)


def _certificates(config: StoreConfig) -> tuple[Certificate, ...]:
    """When what the flags name expires: of an authority's file the last certificate, of a client's the first."""
    if config.etcd is None:
        return ()
    from cryptography import x509

    authorities = x509.load_pem_x509_certificates(config.etcd.ca_cert)
    client = x509.load_pem_x509_certificates(config.etcd.cert)[0]
    return (
        Certificate("--etcd-cacert-file", max(each.not_valid_after_utc for each in authorities)),
        Certificate("--etcd-cert-file", client.not_valid_after_utc),
    )
