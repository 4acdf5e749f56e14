"""The exit statuses of `openos-validator`: a module of their own, for commands that need nothing else."""

from __future__ import annotations

import enum

__all__ = ["Exit"]


class Exit(enum.IntEnum):
    """Exit statuses of `openos-validator`, as documented in docs/operations.md."""

    OK = 0
    REFUSED = 1  # bad input, a precondition that does not hold, "not now"; one line says which and the fix
    USAGE = 2  # the command line could not be parsed
    NOBODY = 3  # of `status`: an identity was never claimed in this store
    UNHEALTHY = 4  # of `status`: held, but something is wrong; the lines under "problems" say what
    LOST_FENCE = 10  # another instance has claimed the identity; this one stopped voting and ended
    STORE_FAILED = 11  # the tower store did not confirm a write within its bound; nothing unpersisted was sent
    TOWER_UNUSABLE = 12  # the stored tower cannot be used: torn, foreign, badly signed, malformed
    INTERNAL = 13  # an invariant did not hold: a bug; voting stopped first
