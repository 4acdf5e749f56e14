"""Who may do what in etcd: a role for each identity, given to the machines that vote with it, known by their certificates.

With `--client-cert-auth` and authentication on, etcd takes the common name of the client's certificate for the user. A user
made here has no password, so nothing but the certificate opens the door. The role of an identity covers the keys
`<identity>/...` and the doctor's scratch keys `doctor/...` (`tower.validator.etcd_probe`), and nothing else. Who has no role
can do nothing at all.

`plan_...` are pure: what is there goes in, the calls that are still needed come out, none where all is as it should be. So
each command can be repeated, also after it was interrupted. The messages are those of etcd's Auth service.

>>> for step in plan_grant(Access(False, {"primary": ()}, {}), "1" * 32, ["primary"]):
...     print(step.text)
make the role tower-11111111111111111111111111111111
let it read and write 11111111111111111111111111111111/
let it read and write doctor/
give the role to primary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from tower.errors import InvalidInput, StoreUnavailable, TowerError, WireError
from tower.stores import _etcd_messages as pb
from tower.stores._common import is_address
from tower.stores._etcd_link import CALL_ERRORS, Link, explain, read_credentials
from tower.validator.config import EtcdConfig

__all__ = [
    "ROOT",
    "Access",
    "AccessClient",
    "Permission",
    "Step",
    "apply",
    "common_name",
    "identities_of",
    "plan_disable",
    "plan_enable",
    "plan_grant",
    "plan_revoke",
    "read_access",
    "role_of",
]

ROOT = "root"  # etcd's own user and role, without which it cannot be switched on
ROLE_PREFIX = "tower-"
SCRATCH = b"doctor/"
READ_WRITE = 2
NO_PASSWORD = b"\x08\x01"  # UserAddOptions: no_password (1) = true
NAME_CHARS_MAX = 64  # of a common name
DENIED = ("permission denied", "user name is empty", "user name not found")
NOT_ENABLED, LOGIN_FAILED = "authentication is not enabled", "authentication failed"  # in etcd's words
NOT_ROOT = "only the user root may ask or change this once it is on: name root's certificate with --etcd-cert-file"


class Permission(NamedTuple):
    """What a role may do with the keys from `key` up to `range_end`; `kind` is READ (0), WRITE (1) or both (2)."""

    kind: int
    key: bytes
    range_end: bytes

    def __str__(self) -> str:
        what = {0: "read", 1: "write", READ_WRITE: "read and write"}.get(self.kind, f"kind {self.kind}")
        where = self.key.decode("utf-8", "backslashreplace")
        if self.range_end == _end_of(self.key):
            return f"{what} {where}*"
        end = self.range_end.decode("utf-8", "backslashreplace")
        return f"{what} {where}" + (f" to {end!r}" if self.range_end else "")


@dataclass(frozen=True, slots=True)
class Access:
    """What etcd knows: whether users are asked for at all, their roles, and what each role may do."""

    enabled: bool
    users: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, tuple[Permission, ...]]


class Step(NamedTuple):
    """One call of the Auth service, and what it does in words."""

    text: str
    method: str
    request: bytes


def role_of(identity: str) -> str:
    """The name of the role of an identity."""
    return ROLE_PREFIX + identity


def common_name(certificate: bytes) -> str:
    """The common name in the first certificate of PEM bytes: the user that etcd takes its client for. Empty: none."""
    found = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def identities_of(access: Access) -> dict[str, list[str]]:
    """The identities that have a role, each with the users that have it."""
    found = {name.removeprefix(ROLE_PREFIX): name for name in access.roles if is_address(name.removeprefix(ROLE_PREFIX))}
    return {
        identity: sorted(user for user, roles in access.users.items() if role in roles)
        for identity, role in sorted(found.items())
        if role.startswith(ROLE_PREFIX)
    }


# -- what is still to be done


def plan_grant(access: Access, identity: str, users: Sequence[str]) -> list[Step]:
    """Everything by which `users` may work with the keys of `identity`, and it alone. Raises `InvalidInput`."""
    role, steps = role_of(identity), []
    if not is_address(identity):
        raise InvalidInput(f"{identity!r} is not an identity: expected a base58 address")
    for user in users:
        _check_user(user)
        if user not in access.users:
            steps.append(_add_user(user))
    if role not in access.roles:
        steps.append(Step(f"make the role {role}", "RoleAdd", _text(1, role)))
    for key in (f"{identity}/".encode(), SCRATCH):
        permission = Permission(READ_WRITE, key, _end_of(key))
        if permission not in access.roles.get(role, ()):
            steps.append(Step(f"let it read and write {key.decode()}", "RoleGrantPermission", _grant(role, permission)))
    for user in dict.fromkeys(users):
        if role not in access.users.get(user, ()):
            steps.append(Step(f"give the role to {user}", "UserGrantRole", _text(1, user) + _text(2, role)))
    return steps


def plan_revoke(access: Access, user: str) -> list[Step]:
    """Takes a user away: from then on its certificate opens nothing. Raises `InvalidInput` for one that is not there."""
    if user == ROOT:
        raise InvalidInput("root is etcd's own user and stays; if its key is known, make a new authority and new certificates")
    if user not in access.users:
        raise InvalidInput(f"{user!r} is no user of this etcd; its users are: {', '.join(sorted(access.users)) or 'none'}")
    return [Step(f"remove the user {user}", "UserDelete", _text(1, user))]


def plan_enable(access: Access, own: str, stored: Sequence[str]) -> list[Step]:
    """Switches authentication on. `own` is the user that asks, `stored` the identities that have keys in this etcd.

    Raises `InvalidInput` where it would shut somebody out: us, who must be root to change anything afterwards, or the owner
    of an identity.
    """
    if own != ROOT:
        name = f"the certificate in use is {own!r}'s" if own else "the certificate in use names nobody"
        fix = "make root's: openos-validator certs make --keep-ca --validator root, and name it with --etcd-cert-file"
        raise InvalidInput(f"{name}; once authentication is on, root alone can change anything; {fix}")
    known = identities_of(access)
    without = [identity for identity in stored if not known.get(identity)]
    if without:
        fix = f"first: openos-validator access grant {without[0]} --user NAME --user NAME"
        raise InvalidInput(f"nobody has the role of {', '.join(without)}: whoever votes with it would be shut out; {fix}")
    steps = [] if ROOT in access.users else [_add_user(ROOT)]
    if ROOT not in access.users.get(ROOT, ()):
        steps.append(Step("give the role root to root", "UserGrantRole", _text(1, ROOT) + _text(2, ROOT)))
    if not access.enabled:
        steps.append(Step("switch authentication on", "AuthEnable", b""))
    return steps


def plan_disable(access: Access) -> list[Step]:
    """Switches authentication off: every client with a certificate may do everything again."""
    return [Step("switch authentication off", "AuthDisable", b"")] if access.enabled else []


def _check_user(user: str) -> None:
    if not user or len(user) > NAME_CHARS_MAX or not user.isprintable():
        raise InvalidInput(f"--user: {user!r} is no common name of a certificate: 1 to {NAME_CHARS_MAX} printable characters")
    if user == ROOT:
        raise InvalidInput("--user root: root may do everything already; give a validator a certificate of its own")


def _add_user(user: str) -> Step:
    without_password = _bytes(3, NO_PASSWORD)
    return Step(f"make the user {user}, without a password", "UserAdd", _text(1, user) + without_password)


def _grant(role: str, permission: Permission) -> bytes:
    what = bytes([1 << 3, permission.kind]) + _bytes(2, permission.key) + _bytes(3, permission.range_end)
    return _text(1, role) + _bytes(2, what)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    """A field with its length, a varint of one or two bytes: nothing here is longer than that."""
    size = len(value)
    length = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([field << 3 | 2]) + length + value


def _end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix and prefix[-1] < 0xFF else b""


# -- etcd


class AccessClient:
    """Calls etcd's Auth service at the first endpoint that answers. Raises `StoreUnavailable`, or `TowerError` for a refusal."""

    def __init__(self, config: EtcdConfig, timeout: float) -> None:
        credentials = read_credentials(config.ca_cert, config.cert, config.key)
        self._domain, self._timeout = config.domain_name, timeout
        self._links = [Link(*address, credentials, config.domain_name, timeout) for address in config.endpoints]

    def __enter__(self) -> AccessClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        for link in self._links:
            link.client.close()

    def call(self, method: str, request: bytes = b"") -> list[pb.Field]:
        """The fields of the answer to one call."""
        causes = []
        for link in self._links:
            try:
                answer: bytes = link.client.channel.unary_unary(f"/etcdserverpb.Auth/{method}")(request, timeout=self._timeout)
                return list(pb.fields(answer))
            except (*CALL_ERRORS, WireError) as problem:
                text = explain(problem, self._domain)[0]
            if any(mark in text for mark in DENIED):
                raise TowerError(f"etcd {link.name} does not permit {method}; {NOT_ROOT}")
            causes.append(f"etcd {link.name}: {text}")
        raise StoreUnavailable("; ".join(causes))


def _enabled(client: AccessClient) -> bool:
    """Whether users are asked for. Before 3.5 etcd does not say so; how it refuses a login does."""
    try:
        return any(field.number == 2 and field.as_int() for field in client.call("AuthStatus"))
    except StoreUnavailable as problem:
        if "unknown method AuthStatus" not in str(problem):
            raise
    try:
        client.call("Authenticate", _text(1, ROOT))
    except StoreUnavailable as problem:
        if NOT_ENABLED in str(problem):
            return False
        if LOGIN_FAILED not in str(problem):
            raise
    return True


def read_access(client: AccessClient) -> Access:
    """What is there now."""
    enabled = _enabled(client)
    users = {user: tuple(_names(client, "UserGet", _text(1, user))) for user in _names(client, "UserList")}
    roles = {}
    for role in _names(client, "RoleList"):
        found = client.call("RoleGet", _text(1, role))
        roles[role] = tuple(_permission(field.as_bytes()) for field in found if field.number == 2)
    return Access(enabled, users, roles)


def apply(client: AccessClient, steps: Sequence[Step]) -> None:
    """Make the calls, in their order."""
    for step in steps:
        client.call(step.method, step.request)


def _names(client: AccessClient, method: str, request: bytes = b"") -> list[str]:
    return [field.as_bytes().decode("utf-8", "replace") for field in client.call(method, request) if field.number == 2]


def _permission(data: bytes) -> Permission:
    kind, key, end = 0, b"", b""
    for field in pb.fields(data):
        if field.number == 1:
            kind = field.as_int()
        elif field.number == 2:
            key = field.as_bytes()
        elif field.number == 3:
            end = field.as_bytes()
    return Permission(kind, key, end)
