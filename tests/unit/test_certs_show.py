"""What `certs show` says of certificates, and when it says that something is to be done."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.etcd import guide_shaped_certificates
from tower.errors import InvalidInput
from tower.validator.certs import make_certificates
from tower.validator.certs_show import WARN_DAYS, CertificateFacts, describe, print_table, read_certificates, read_pair

NOW = datetime.datetime.now(datetime.UTC)


def days(count: float) -> datetime.datetime:
    return NOW + datetime.timedelta(days=count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path, members={"etcd-1": ["10.0.0.1"]}, days=100)
    return tmp_path


def show(path: Path, now: datetime.datetime = NOW, warn_days: int = WARN_DAYS) -> CertificateFacts:
    (facts,) = read_certificates([path], now, warn_days)
    return facts


def said(facts: CertificateFacts) -> tuple[str, ...]:
    return tuple(map(str, facts.problems))


def test_a_folder(folder: Path) -> None:
    found = read_certificates([folder], NOW, WARN_DAYS)
    assert [Path(facts.file).name for facts in found] == ["etcd-1.pem", "etcd-ca.pem", "validator.pem"]
    etcd, authority, validator = found
    assert (etcd.subject, etcd.issuer) == ("CN=etcd-1", "CN=tower etcd CA")
    assert set(etcd.names) == {"10.0.0.1", "localhost", "127.0.0.1"}
    assert (etcd.authority, authority.authority, validator.authority) == (False, True, False)
    assert 98 <= etcd.days_left <= 100
    for facts in found:
        assert (facts.key_mode, facts.key_matches, facts.by_own_authority, facts.problems) == ("0600", True, True, ())
    (problem,) = describe(show(folder / "etcd-1.pem", days(99)))["problems"]
    assert (problem["kind"], set(problem)) == ("soon", {"kind", "text", "fix"})
    text = describe(etcd)
    assert text["not_after"] == etcd.not_after.isoformat()
    assert text["days_left"] == etcd.days_left


def test_expired_and_soon(folder: Path) -> None:
    path = folder / "validator.pem"
    assert show(path, days(69)).problems == ()
    (problem,) = said(show(path, days(71)))
    assert problem.startswith(f"{path}: expires on ")
    assert problem.endswith(f" days; renew it: openos-validator certs renew {path}")
    assert show(path, days(71), warn_days=10).problems == ()
    (problem,) = said(show(path, days(101)))
    assert problem.startswith(f"{path}: expired on ")
    assert show(path, days(101)).days_left < 0
    (problem,) = said(show(path, days(-2)))
    assert "not valid before" in problem
    assert problem.endswith("check this machine's clock")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_use(folder: Path, mode: int) -> None:
    key = folder / "validator-key.pem"
    key.chmod(mode)
    facts = show(folder / "validator.pem")
    assert facts.key_mode == f"{mode:04o}"
    assert said(facts) == (f"{key}: mode {mode:04o} lets others use the key; type: chmod 600 {key}",)


def test_a_key_of_another_certificate(folder: Path) -> None:
    (folder / "validator-key.pem").write_bytes((folder / "etcd-1-key.pem").read_bytes())
    facts = show(folder / "validator.pem")
    assert facts.key_matches is False
    fix = f"renew the pair: openos-validator certs renew {folder / 'validator.pem'}"
    assert said(facts) == (f"{folder / 'validator-key.pem'}: does not belong to {folder / 'validator.pem'}; {fix}",)


def test_a_key_that_is_none(folder: Path) -> None:
    (folder / "validator-key.pem").write_text("no")
    facts = show(folder / "validator.pem")
    assert facts.key_matches is None
    assert said(facts) == (f"{folder / 'validator-key.pem'}: holds no PEM private key",)


def test_without_a_key_and_without_an_authority(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "validator.pem").write_bytes((folder / "validator.pem").read_bytes())
    facts = show(alone)
    assert (facts.key_file, facts.key_mode, facts.key_matches, facts.by_own_authority) == (None, None, None, None)
    assert facts.problems == ()


def test_of_another_authority_than_the_one_beside_it(folder: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    (folder / "etcd-ca.pem").write_bytes((tmp_path / "other" / "etcd-ca.pem").read_bytes())
    assert show(folder / "validator.pem").by_own_authority is False


def test_a_bundle_and_a_key_named_by_itself(folder: Path) -> None:
    bundle = folder / "bundle.crt"
    bundle.write_bytes((folder / "etcd-ca.pem").read_bytes() + (folder / "validator.pem").read_bytes())
    assert [facts.subject for facts in read_pair(bundle, None, NOW, 30)] == ["CN=tower etcd CA", "CN=validator"]
    (facts,) = read_pair(folder / "validator.pem", folder / "etcd-1-key.pem", NOW, 30)
    assert facts.key_matches is False
    (facts,) = read_pair(folder / "validator.pem", folder / "none.pem", NOW, 30)
    assert said(facts) == (f"{folder / 'none.pem'}: cannot be read: No such file or directory",)


def test_what_is_no_certificate_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, text in (
        (tmp_path / "none.pem", "none.pem: cannot be read: No such file or directory"),
        (folder / "validator-key.pem", "validator-key.pem: holds no PEM certificate"),
        (tmp_path / "empty", "empty: no certificate there; make some: openos-validator certs make --dir "),
    ):
        with pytest.raises(InvalidInput, match=text):
            read_certificates([path], NOW, 30)


def test_the_guides_own_and_the_table(tmp_path: Path) -> None:
    folder = guide_shaped_certificates(tmp_path / "guide")
    found = read_certificates([folder], NOW, WARN_DAYS)
    assert [facts.issuer for facts in found] == ["CN=etcd"] * 3
    assert all(facts.by_own_authority for facts in found)
    out = io.StringIO()
    print_table(found, Console(file=out, width=80, highlight=False))
    for text in ("etcd-ca.pem", "localhost", "127.0.0.1", f"{found[0].not_after:%Y-%m-%d}", "days left", "0644", "matches"):
        assert text in out.getvalue()
