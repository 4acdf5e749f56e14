"""JSON-RPC 2.0 as the validators on the cluster speak it: parsing, batches, errors. Knows no method.

>>> echo = Dispatcher({"echo": lambda params: params})
>>> echo.answer(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[7]}')
'{"jsonrpc":"2.0","result":[7],"id":1}'
>>> echo.answer(b'{"jsonrpc":"2.0","id":1,"method":"nope"}')
'{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":1}'
>>> echo.answer(b'{')
'{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}'
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "BATCH_MAX",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "Dispatcher",
    "RpcError",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
BATCH_MAX = 100

Method = Callable[[list[Any]], Any]


class RpcError(Exception):
    """An error that the caller of a method gets to see."""

    def __init__(self, code: int, message: str, data: object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    def as_json(self) -> dict[str, object]:
        error: dict[str, object] = {"code": self.code, "message": str(self)}
        if self.data is not None:
            error["data"] = self.data
        return error


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _failure(error: RpcError, request_id: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "error": error.as_json(), "id": request_id}


class Dispatcher:
    """Answers the text of a request with the text of a response."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = dict(methods)

    def answer(self, body: bytes | str) -> str | None:
        """The response, or `None` where there is none (notifications only)."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return _compact(_failure(RpcError(PARSE_ERROR, "Parse error"), None))
        if not isinstance(request, list):
            response = self._one(request)
            return None if response is None else _compact(response)
        if not request:
            return _compact(_failure(RpcError(INVALID_REQUEST, "Invalid request"), None))
        if len(request) > BATCH_MAX:
            too_many = RpcError(INVALID_REQUEST, f"Too many requests in a batch; max {BATCH_MAX}")
            return _compact(_failure(too_many, None))
        responses = [response for response in map(self._one, request) if response is not None]
        return _compact(responses) if responses else None

    def _one(self, request: object) -> dict[str, object] | None:
        if not isinstance(request, dict):
            return _failure(RpcError(INVALID_REQUEST, "Invalid request"), None)
        request_id = request.get("id")
        if isinstance(request_id, (dict, list, bool)):
            return _failure(RpcError(INVALID_REQUEST, "Invalid request"), None)
        silent = "id" not in request
        try:
            result = self._call(request)
        except RpcError as error:
            return None if silent else _failure(error, request_id)
        return None if silent else {"jsonrpc": "2.0", "result": result, "id": request_id}

    def _call(self, request: dict[str, Any]) -> object:
        name, params = request.get("method"), request.get("params", [])
        if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
            raise RpcError(INVALID_REQUEST, "Invalid request")
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        if params is None:
            params = []
        if not isinstance(params, list):
            raise RpcError(INVALID_PARAMS, "`params` should be an array")
        return method(params)
