"""The fenced transaction of the tower store through other clients of etcd, in this process. Each object is called for one store.

The transaction is that of `tower.stores.etcd`: the instance key at its revision, the instance key with its value, the tower
at the revision that was seen last; then put the tower, else read both. Each library says it in its own words; where its
interface lacks a part of it, its class says so and what stands in its place.
"""

from __future__ import annotations

import asyncio
import importlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["IN_PROCESS", "Etcd3Gateway", "Fenced", "PyEtcd", "RustBinding"]

TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Fenced:
    """A fence that is held, where, and what is to be stored under it."""

    host: str
    port: int
    plain_port: int  # of the same etcd, without TLS
    certificates: Path
    identity: str
    instance: bytes
    revision: int
    record: bytes

    @property
    def instance_key(self) -> str:
        return f"{self.identity}/instance"

    @property
    def tower_key(self) -> str:
        return f"{self.identity}/tower"

    @property
    def paths(self) -> dict[str, str]:
        """Of the certificates, as most clients name them."""
        folder = self.certificates
        return {
            "ca_cert": str(folder / "etcd-ca.pem"),
            "cert_cert": str(folder / "validator.pem"),
            "cert_key": str(folder / "validator-key.pem"),
        }

    def command(self) -> dict[str, Any]:
        """The same for a peer in a process of its own."""
        paths = self.paths
        return {
            "do": "prepare_store",
            "endpoint": f"https://{self.host}:{self.port}",
            "ca_cert": paths["ca_cert"],
            "cert": paths["cert_cert"],
            "key": paths["cert_key"],
            "identity": self.identity,
            "instance": self.instance.hex(),
            "instance_revision": self.revision,
            "record": self.record.hex(),
        }


class PyEtcd:
    """etcd-sdk-python: its transactions over gRPC."""

    package, note = "etcd-sdk-python", "mutual TLS"

    def __init__(self, fenced: Fenced) -> None:
        library = importlib.import_module("pyetcd")
        self._fenced, self._revision = fenced, 0
        self._client = library.client(fenced.host, fenced.port, timeout=TIMEOUT_S, **fenced.paths)

    def __call__(self) -> None:
        fenced, words = self._fenced, self._client.transactions
        stored, answers = self._client.transaction(
            compare=[
                words.mod(fenced.instance_key) == fenced.revision,
                words.value(fenced.instance_key) == fenced.instance,
                words.mod(fenced.tower_key) == self._revision,
            ],
            success=[words.put(fenced.tower_key, fenced.record)],
            failure=[words.get(fenced.instance_key), words.get(fenced.tower_key)],
        )
        assert stored
        self._revision = answers[0].response_put.header.revision

    def close(self) -> None:
        self._client.close()


class Etcd3Gateway:
    """etcd3gw: JSON over HTTP/1.1 to etcd's own gateway, on one kept connection. It takes a transaction as ready JSON."""

    package, note = "etcd3gw", "mutual TLS, through etcd's JSON gateway"

    def __init__(self, fenced: Fenced) -> None:
        client = importlib.import_module("etcd3gw.client").Etcd3Client
        self._fenced, self._revision = fenced, 0
        self._client = client(
            fenced.host, fenced.port, protocol="https", timeout=TIMEOUT_S, api_path="/v3/", **fenced.paths
        )
        self._client.session.trust_env = False  # else an authority that the environment names would take this one's place

    def __call__(self) -> None:
        fenced = self._fenced
        held, tower = _base64(fenced.instance_key.encode()), _base64(fenced.tower_key.encode())
        answer = self._client.transaction(
            {
                "compare": [
                    {"key": held, "target": "MOD", "result": "EQUAL", "mod_revision": fenced.revision},
                    {"key": held, "target": "VALUE", "result": "EQUAL", "value": _base64(fenced.instance)},
                    {"key": tower, "target": "MOD", "result": "EQUAL", "mod_revision": self._revision},
                ],
                "success": [{"request_put": {"key": tower, "value": _base64(fenced.record)}}],
                "failure": [{"request_range": {"key": held}}, {"request_range": {"key": tower}}],
            }
        )
        assert answer["succeeded"]
        self._revision = int(answer["header"]["revision"])

    def close(self) -> None:
        self._client.session.close()


class RustBinding:
    """etcd-client-py: Rust's etcd-client for asyncio. One loop, one `run_until_complete` a call.

    It has no option for TLS and its answer has no revision. So it goes without TLS, which is an advantage, and compares how
    often the tower was written in place of the revision that it was written at, which is as much work for etcd.
    """

    package, note = "etcd-client-py", "no TLS: it has none; compares the tower's version, its answers have no revision"

    def __init__(self, fenced: Fenced) -> None:
        self._library: Any = importlib.import_module("etcd_client")
        self._fenced, self._version = fenced, 0
        self._loop = asyncio.new_event_loop()
        self._connection = self._library.Client([f"http://{fenced.host}:{fenced.plain_port}"]).connect()
        self._communicator = self._loop.run_until_complete(self._enter())

    async def _enter(self) -> Any:
        return await self._connection.__aenter__()

    async def _store(self) -> None:
        fenced, library = self._fenced, self._library
        compare, equal, operation = library.Compare, library.CompareOp.EQUAL, library.TxnOp
        held, tower = fenced.instance_key.encode(), fenced.tower_key.encode()
        transaction = (
            library.Txn()
            .when(
                [
                    compare.mod_revision(held, equal, fenced.revision),
                    compare.value(held, equal, fenced.instance),
                    compare.version(tower, equal, self._version),
                ]
            )
            .and_then([operation.put(tower, fenced.record)])
            .or_else([operation.get(held), operation.get(tower)])
        )
        answer = await self._communicator.txn(transaction)
        assert answer.succeeded()
        self._version += 1

    def __call__(self) -> None:
        self._loop.run_until_complete(self._store())

    async def _leave(self) -> None:
        await self._connection.__aexit__(None, None, None)

    def close(self) -> None:
        self._loop.run_until_complete(self._leave())
        self._loop.close()


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


IN_PROCESS = {"pyetcd": PyEtcd, "etcd3gw": Etcd3Gateway, "Rust etcd-client, its Python binding": RustBinding}
