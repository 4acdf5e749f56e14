"""What the admin RPC can ask of a validator, and the methods that ask it.

`ValidatorControl` is what the process implements; `control_handlers` turns it into the methods of the validators in
use (`setIdentity`, `exit`, `contactInfo`, ...) and some of our own: `rpcUrl`, `status`, `towerStorage`, `takeOver`,
`rehearseTakeOver` and `autoTakeover…`. Params are checked and keypair files are read here; whether an identity can be adopted is
the process's to decide. `docs/admin-rpc.md` lists them all, with what of the others is not here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from tower.errors import InvalidInput
from tower.keys import Keypair, read_keypair_file
from tower.validator.admin_absent import absent_handlers
from tower.validator.admin_wire import INVALID_PARAMS, AdminError

__all__ = ["AutoTakeover", "Handler", "ValidatorControl", "control_handlers"]

EXIT_DELAY_S = 0.1  # so that the answer to `exit` leaves before the process does
DEADLINE_S_MAX = 3600.0
WHY_MAX = 200  # characters of a reason that go into the history

Handler = Callable[..., Awaitable[Any]]


class AutoTakeover(Protocol):
    """Automatic take-overs; raises `InvalidInput` where they are off."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def status(self) -> Mapping[str, Any]: ...


class ValidatorControl(Protocol):
    """What the process lends to the admin server. Every call comes on the process's event loop.

    A `TowerError` becomes the answer's error text (invalid params).
    """

    @property
    def post_init(self) -> bool:
        """Whether start-up is complete: `setIdentity` and `contactInfo` answer only then."""

    def request_exit(self) -> None:
        """End the process in good order, soon."""

    def rpc_address(self) -> str | None:
        """`ip:port` of the validator's own JSON-RPC, `None` if it serves none."""

    def rpc_url(self) -> str:
        """The URL of the cluster's JSON-RPC that the process follows."""

    def set_log_filter(self, text: str) -> None: ...

    def start_time(self) -> float:
        """When the process began, Unix seconds."""

    def start_progress(self) -> str | Mapping[str, Any]:
        """`"Running"` and its like, or an object with details (protocol: progress states)."""

    def contact_info(self) -> Mapping[str, Any]:
        """`id` (base58) and the addresses; what is missing is filled in with 0.0.0.0:0."""

    def identity_transition(self) -> Mapping[str, Any]:
        """The newest change of identity; fields as in `tower.validator.transition`."""

    def status(self) -> Mapping[str, Any]:
        """`identity`, `voteAccount`, `voting`, `state`, `processedSlot`, `lastVotedSlot`, `rootSlot` and more."""

    async def add_authorized_voter(self, voter: Keypair) -> None:
        """Raises `InvalidInput("Authorized voter already present")` for a duplicate."""

    async def remove_all_authorized_voters(self) -> None: ...

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        """Returns when the identity is really adopted: fence held, tower loaded."""

    async def take_over(
        self, identity: Keypair, why: str, require_tower: bool, instance_revision: int, deadline_s: float
    ) -> Mapping[str, Any]:
        """As `set_identity`, with a reason for the history, if the newest claim is still the one at `instance_revision` and
        the claim begins within `deadline_s`. Answers `fence`, `lastVotedSlot`, `votesFromSlot`, `milliseconds`."""

    async def rehearse_take_over(self, identity: Keypair, require_tower: bool) -> Mapping[str, Any]:
        """What a take-over does before its claim, changing nothing: `lastVotedSlot`, `milliseconds`."""

    def tower_storage(self) -> Mapping[str, Any]:
        """The flags of the store, paths made absolute."""

    @property
    def spare(self) -> AutoTakeover: ...


CONTACT_ADDRESSES = (
    "gossip", "tvu", "tvu_quic", "serve_repair_quic", "tpu", "tpu_forwards", "tpu_vote", "rpc", "rpc_pubsub",
    "serve_repair",
)  # fmt: skip


def control_handlers(control: ValidatorControl) -> dict[str, Handler]:
    """The methods of the admin RPC, each bound to `control`."""
    changing_identity = asyncio.Lock()

    def need_post_init() -> None:
        if not control.post_init:
            raise AdminError(INVALID_PARAMS, "Retry once validator start up is complete")

    async def exit_() -> None:
        asyncio.get_running_loop().call_later(EXIT_DELAY_S, control.request_exit)

    async def rpc_address() -> str | None:
        return control.rpc_address()

    async def rpc_url() -> str:
        return control.rpc_url()

    async def set_log_filter(text: Any) -> None:
        control.set_log_filter(_param(text, str, "filter"))

    async def start_time() -> dict[str, int]:
        nanos = int(control.start_time() * 1e9)
        return {"secs_since_epoch": nanos // 10**9, "nanos_since_epoch": nanos % 10**9}

    async def start_progress() -> str | Mapping[str, Any]:
        return control.start_progress()

    async def add_authorized_voter(path: Any) -> None:
        await control.add_authorized_voter(_keypair_at(path, "authorized voter"))

    async def add_authorized_voter_from_bytes(secret: Any) -> None:
        await control.add_authorized_voter(_keypair_of(secret, "authorized voter"))

    async def remove_all_authorized_voters() -> None:
        await control.remove_all_authorized_voters()

    async def adopt(identity: Keypair, require_tower: Any) -> None:
        need_post_init()
        async with changing_identity:
            await control.set_identity(identity, _param(require_tower, bool, "require_tower"))

    async def set_identity(path: Any, require_tower: Any) -> None:
        await adopt(_keypair_at(path, "identity"), require_tower)

    async def set_identity_from_bytes(secret: Any, require_tower: Any) -> None:
        await adopt(_keypair_of(secret, "identity"), require_tower)

    async def take_over(path: Any, why: Any, require_tower: Any, instance_revision: Any, deadline_s: Any) -> dict[str, Any]:
        need_post_init()
        identity, deadline = _keypair_at(path, "identity"), _param(deadline_s, (int, float), "deadline_s")
        reason, tower = _param(why, str, "why")[:WHY_MAX], _param(require_tower, bool, "require_tower")
        seen = _param(instance_revision, int, "instance_revision")
        if not 0 < deadline <= DEADLINE_S_MAX:
            raise AdminError(INVALID_PARAMS, f"Invalid params: deadline_s must be above 0 and up to {DEADLINE_S_MAX:g}")
        async with changing_identity:
            return dict(await control.take_over(identity, reason, tower, seen, float(deadline)))

    async def rehearse_take_over(path: Any, require_tower: Any) -> dict[str, Any]:
        need_post_init()
        identity = _keypair_at(path, "identity")
        return dict(await control.rehearse_take_over(identity, _param(require_tower, bool, "require_tower")))

    async def tower_storage() -> dict[str, Any]:
        return dict(control.tower_storage())

    async def auto_takeover_pause() -> None:
        control.spare.pause()

    async def auto_takeover_resume() -> None:
        control.spare.resume()

    async def auto_takeover_status() -> dict[str, Any]:
        return dict(control.spare.status())

    async def contact_info() -> dict[str, Any]:
        need_post_init()
        missing = dict.fromkeys(CONTACT_ADDRESSES, "0.0.0.0:0")
        return {"id": "", **missing, "last_updated_timestamp": 0, "shred_version": 0, **control.contact_info()}

    async def identity_transition_status() -> dict[str, Any]:
        return dict(control.identity_transition())

    async def pid() -> int:
        return os.getpid()

    async def status() -> dict[str, Any]:
        return dict(control.status())

    return {
        "exit": exit_,
        "rpcAddress": rpc_address,
        "rpcUrl": rpc_url,
        "setLogFilter": set_log_filter,
        "startTime": start_time,
        "startProgress": start_progress,
        "addAuthorizedVoter": add_authorized_voter,
        "addAuthorizedVoterFromBytes": add_authorized_voter_from_bytes,
        "removeAllAuthorizedVoters": remove_all_authorized_voters,
        "setIdentity": set_identity,
        "setIdentityFromBytes": set_identity_from_bytes,
        "takeOver": take_over,
        "rehearseTakeOver": rehearse_take_over,
        "towerStorage": tower_storage,
        "autoTakeoverPause": auto_takeover_pause,
        "autoTakeoverResume": auto_takeover_resume,
        "autoTakeoverStatus": auto_takeover_status,
        "contactInfo": contact_info,
        "identityTransitionStatus": identity_transition_status,
        "pid": pid,
        "status": status,
        **absent_handlers(),
    }


def _param(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):  # to isinstance, true is an int
        raise AdminError(INVALID_PARAMS, f"Invalid params: {name} must be of type {kinds[0].__name__}")
    return value


def _keypair_at(path: Any, what: str) -> Keypair:
    try:
        return read_keypair_file(_param(path, str, "path"))
    except InvalidInput as problem:
        raise AdminError(INVALID_PARAMS, f"Failed to read {what} keypair from {problem}") from None


def _keypair_of(secret: Any, what: str) -> Keypair:
    numbers = _param(secret, list, "the keypair")
    try:
        if any(type(number) is not int or not 0 <= number <= 255 for number in numbers):
            raise InvalidInput("expected numbers from 0 to 255")
        return Keypair(bytes(numbers))
    except InvalidInput as problem:
        raise AdminError(INVALID_PARAMS, f"Failed to read {what} keypair from provided byte array: {problem}") from None
