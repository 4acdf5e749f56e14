"""The plans by which roles are made: nothing twice, nobody shut out, and every interrupted one can be gone on with."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tower.errors import InvalidInput, StoreUnavailable
from tower.keys import to_base58
from tower.stores import _etcd_messages as pb
from tower.validator.etcd_access import (
    Access,
    Permission,
    Step,
    identities_of,
    plan_disable,
    plan_enable,
    plan_grant,
    plan_revoke,
    read_access,
    role_of,
)

A, B = to_base58(bytes([1]) * 32), to_base58(bytes([2]) * 32)
NOTHING = Access(False, {}, {})


def after(access: Access, step: Step) -> Access:
    """What etcd knows once it has taken `step`; a call that etcd would refuse fails here too."""
    parts = {field.number: field for field in pb.fields(step.request)}
    name = parts[1].as_bytes().decode() if 1 in parts else ""
    users, roles = dict(access.users), dict(access.roles)
    match step.method:
        case "UserAdd":
            assert name not in users
            assert parts[3].as_bytes() == b"\x08\x01", "it has no password"
            assert 2 not in parts
            users[name] = ()
        case "RoleAdd":
            assert name not in roles
            roles[name] = ()
        case "RoleGrantPermission":
            inner = {field.number: field for field in pb.fields(parts[2].as_bytes())}
            roles[name] += (Permission(inner[1].as_int(), inner[2].as_bytes(), inner[3].as_bytes()),)
        case "UserGrantRole":
            role = parts[2].as_bytes().decode()
            assert role in roles or role == "root"
            users[name] += (role,)
        case "UserDelete":
            del users[name]
        case "AuthEnable":
            assert "root" in users["root"], "etcd refuses to be switched on without root"
            return replace(access, enabled=True)
        case "AuthDisable":
            return replace(access, enabled=False)
        case _:
            pytest.fail(step.method)
    return Access(access.enabled, users, roles)


def all_of(access: Access, steps: list[Step]) -> Access:
    for step in steps:
        access = after(access, step)
    return access


def test_a_role_names_the_identity_and_nothing_around_it() -> None:
    done = all_of(NOTHING, plan_grant(NOTHING, A, ["primary", "secondary"]))
    assert done.users == {"primary": (role_of(A),), "secondary": (role_of(A),)}
    own, scratch = done.roles[role_of(A)]
    assert own == Permission(2, f"{A}/".encode(), f"{A}0".encode())
    assert scratch == Permission(2, b"doctor/", b"doctor0")
    for key in (f"{A}/instance", f"{A}/tower", f"{A}/history/0", f"{A}/\xff"):
        assert own.key <= key.encode("latin-1") < own.range_end
    for key in (f"{B}/instance", f"{A}", f"{A}0", f"{A}1/tower", f"{A[:-1]}/tower"):
        assert not own.key <= key.encode() < own.range_end
    assert identities_of(done) == {A: ["primary", "secondary"]}


def test_a_plan_that_was_interrupted_anywhere_is_gone_on_with(rng: random.Random) -> None:
    def whole(access: Access) -> Access:
        access = all_of(access, plan_grant(access, A, ["primary", "secondary"]))
        access = all_of(access, plan_grant(access, B, ["other"]))
        return all_of(access, plan_enable(access, "root", [A, B]))

    wanted = whole(NOTHING)
    assert wanted.enabled
    for _ in range(50):
        access = NOTHING
        for _ in range(rng.randrange(1, 5)):
            choices = [plan_grant(access, A, ["primary", "secondary"]), plan_grant(access, B, ["other"])]
            steps = rng.choice(choices)
            access = all_of(access, steps[: rng.randrange(len(steps) + 1)])
        assert whole(access) == wanted
    assert plan_grant(wanted, A, ["secondary", "primary", "primary"]) == []
    assert plan_enable(wanted, "root", [A, B]) == []
    off = all_of(wanted, plan_disable(wanted))
    assert not off.enabled
    assert plan_disable(off) == []
    assert all_of(off, plan_enable(off, "root", [A])) == wanted


def test_nobody_is_shut_out_unawares() -> None:
    granted = all_of(NOTHING, plan_grant(NOTHING, A, ["primary"]))
    with pytest.raises(InvalidInput, match=f"nobody has the role of {B}: .*access grant {B} --user"):
        plan_enable(granted, "root", [A, B])
    with pytest.raises(InvalidInput, match=r"'validator''s; once authentication is on, root alone .*--validator root"):
        plan_enable(granted, "validator", [A])
    with pytest.raises(InvalidInput, match="names nobody"):
        plan_enable(granted, "", [A])
    nobody = all_of(granted, plan_revoke(granted, "primary"))
    with pytest.raises(InvalidInput, match=f"nobody has the role of {A}"):
        plan_enable(nobody, "root", [A])
    with pytest.raises(InvalidInput, match="'primary' is no user of this etcd; its users are: none"):
        plan_revoke(nobody, "primary")
    with pytest.raises(InvalidInput, match="own user and stays"):
        plan_revoke(granted, "root")


@pytest.mark.parametrize("user", ["", "root", "x" * 65, "a\nb", "a\0"])
def test_what_is_no_user_is_refused(user: str) -> None:
    with pytest.raises(InvalidInput, match="--user"):
        plan_grant(NOTHING, A, ["primary", user])


@pytest.mark.parametrize("identity", ["", "doctor", "a/b", "../x", A + "1" * 9])
def test_what_is_no_identity_gets_no_role(identity: str) -> None:
    with pytest.raises(InvalidInput, match="is not an identity"):
        plan_grant(NOTHING, identity, ["primary"])


class _Etcd34:
    """An AccessClient of an etcd that does not know `AuthStatus`, with what it says to a login without a password."""

    def __init__(self, status: str, login: str) -> None:
        self.says = {"AuthStatus": status, "Authenticate": login}

    def call(self, method: str, request: bytes = b"") -> list[pb.Field]:
        if method in self.says:
            raise StoreUnavailable(f"etcd a:1: {self.says[method]}")
        return []


UNKNOWN = "no etcd of version 3 there: unknown method AuthStatus for service etcdserverpb.Auth"


@pytest.mark.parametrize(
    ("login", "enabled"),
    [
        ("FAILED_PRECONDITION: etcdserver: authentication is not enabled", False),
        ("INVALID_ARGUMENT: etcdserver: authentication failed, invalid user ID or password", True),
        ("INVALID_ARGUMENT: etcdserver: authentication failed, password was given for no password user", True),
    ],
)
def test_before_3_5_the_answer_to_a_login_tells_whether_users_are_asked_for(login: str, enabled: bool) -> None:
    assert read_access(_Etcd34(UNKNOWN, login)) == Access(enabled, {}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("silent", ["AuthStatus", "Authenticate"])
def test_an_etcd_that_says_nothing_is_not_taken_for_one_without_users(silent: str) -> None:
    says = {"AuthStatus": UNKNOWN, "Authenticate": "authentication is not enabled"} | {silent: "no answer in time"}
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        read_access(_Etcd34(says["AuthStatus"], says["Authenticate"]))  # type: ignore[arg-type]


def test_a_long_name_keeps_its_length_on_the_wire() -> None:
    long = "ä" * 64  # 128 bytes: its length takes two
    done = all_of(NOTHING, plan_grant(NOTHING, A, [long]))
    assert done.users == {long: (role_of(A),)}
