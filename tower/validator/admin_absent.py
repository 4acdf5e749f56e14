"""Methods of the validators in use that have nothing to act on here: each says why, with a code that tools understand.

The code is that of an unknown method, so that a tool which asks what a validator can do is answered truly, and the text names the
reason. Plugin methods answer word for word like a validator that runs without plugins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from tower.validator.admin_wire import INVALID_REQUEST, METHOD_NOT_FOUND, AdminError

__all__ = ["ABSENT", "absent_handlers"]

NO_PLUGINS = "No geyser plugin service"

ABSENT = {
    "setStakedNodesOverrides": "it takes no transactions, so no stake decides whose come first",
    "repairShredFromPeer": "it keeps no shreds; blocks come from the cluster's RPC",
    "repairWhitelist": "it keeps no shreds, so it repairs none",
    "setRepairWhitelist": "it keeps no shreds, so it repairs none",
    "getSecondaryIndexKeySize": "it keeps no accounts and no index of them",
    "setPublicTpuAddress": "it takes no transactions and is not in gossip",
    "setPublicTpuForwardsAddress": "it takes no transactions and is not in gossip",
    "setPublicTvuAddress": "it takes no shreds and is not in gossip",
    "selectActiveInterface": "it sends from the one address of --bind-address",
    "manageBlockProduction": "it packs no transactions; --no-leader-duty switches its block announcements off",
}
PLUGIN_METHODS = ("loadPlugin", "unloadPlugin", "reloadPlugin", "listPlugins")


def absent_handlers() -> dict[str, Callable[..., Awaitable[Any]]]:
    """A handler for each such method, whatever its params."""
    absent = {
        method: _refuses(METHOD_NOT_FOUND, f"Method not found: {method} is not here: {why}") for method, why in ABSENT.items()
    }
    return absent | {method: _refuses(INVALID_REQUEST, NO_PLUGINS) for method in PLUGIN_METHODS}


def _refuses(code: int, text: str) -> Callable[..., Awaitable[Any]]:
    async def refuse(*_: Any) -> NoReturn:
        raise AdminError(code, text)

    return refuse
