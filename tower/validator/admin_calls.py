"""From the bytes of one request of the admin RPC to its answer: JSON-RPC 2.0, positional params, batches, notifications.

The error codes and the order of the fields are those of the validators in use. `null` params are no params: their command line
sends them so. What no client needs is refused before any handler runs: ids that are no string, number or null, fields that the
protocol does not know, batches of more than `MAX_BATCH` requests.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from typing import Any

from tower.errors import TowerError
from tower.validator.admin_wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    AdminError,
    error_object,
)
from tower.validator.control import Handler

__all__ = ["MAX_BATCH", "AdminCalls"]

MAX_BATCH = 64  # requests: what bounds the answer to a batch, which may be far longer than the batch
FIELDS = frozenset(("jsonrpc", "method", "params", "id"))
ID_END = 1 << 64


class AdminCalls:
    """Answers requests from `handlers` (method name to coroutine function, positional params), one after another."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    async def answer(self, raw: bytes) -> Any | None:
        """What to answer to `raw`, one JSON value; `None` if it asks for no answer."""
        try:
            request = json.loads(raw.decode(), parse_constant=_no_json)
        except (ValueError, RecursionError):
            return error_object(None, PARSE_ERROR, "Parse error")
        if not isinstance(request, list):
            return await self._answer_one(request)
        if not request:
            return error_object(None, INVALID_REQUEST, "Invalid request")
        if len(request) > MAX_BATCH:
            return error_object(None, INVALID_REQUEST, f"Invalid request: a batch of more than {MAX_BATCH} requests")
        answers = [answer for item in request if (answer := await self._answer_one(item)) is not None]
        return answers or None

    async def _answer_one(self, request: Any) -> dict[str, Any] | None:
        """The response object, `None` for a notification (a request without an id)."""
        if not isinstance(request, dict) or not _is_id(request.get("id")):  # such an id could not be echoed as JSON
            return error_object(None, INVALID_REQUEST, "Invalid request")
        method, params, ident = request.get("method"), request.get("params"), request.get("id")
        if not isinstance(method, str) or not isinstance(params, (list, dict, type(None))) or not request.keys() <= FIELDS:
            return error_object(ident, INVALID_REQUEST, "Invalid request")
        if request.get("jsonrpc") != "2.0":
            return error_object(ident, INVALID_REQUEST, "Unsupported JSON-RPC protocol version")
        try:
            response = {"jsonrpc": "2.0", "result": await self._run(method, [] if params is None else params), "id": ident}
            json.dumps(response)
        except AdminError as problem:
            response = error_object(ident, problem.code, str(problem))
        except TowerError as problem:
            response = error_object(ident, INVALID_PARAMS, str(problem))
        except Exception as problem:
            context = {"message": f"admin method {method} failed unexpectedly", "exception": problem}
            asyncio.get_running_loop().call_exception_handler(context)
            response = error_object(ident, INTERNAL_ERROR, "Internal error; see the validator's log")
        return response if "id" in request else None

    async def _run(self, method: str, params: Any) -> Any:
        handler = self._handlers.get(method)
        if handler is None:
            raise AdminError(METHOD_NOT_FOUND, "Method not found")
        if not isinstance(params, list):
            raise AdminError(INVALID_PARAMS, "Invalid params: expected an array")
        signature = inspect.signature(handler)
        try:
            signature.bind(*params)
        except TypeError:
            wanted = ", ".join(signature.parameters)
            raise AdminError(INVALID_PARAMS, f"Invalid params: {method} takes [{wanted}]") from None
        return await handler(*params)


def _is_id(ident: Any) -> bool:
    return ident is None or isinstance(ident, str) or (type(ident) is int and 0 <= ident < ID_END)


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
