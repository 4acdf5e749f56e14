"""Bad input to `certs` and `doctor` through the real program: one line that names it, a status, and no trace on disk."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import pytest

from tests.validator.test_bad_input import program, snapshot
from tower.validator.cert_files import certificate_pem, load_certificates, load_key
from tower.validator.certs import Authority, make_certificates, sign
from tower.validator.config import Exit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "certs", members={"etcd-1": []}, days=100)
    make_certificates(tmp_path / "others")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pem").write_text("nothing of that kind")
    (tmp_path / "text-key.pem").write_text("nothing of that kind")
    (tmp_path / "file").write_text("no folder")
    return tmp_path


USAGE = Exit.USAGE
CASES = [
    ("certs make", 1, r"certs/etcd-ca.pem: exists and is not overwritten; --keep-ca to add to what is there, --force .*"),
    ("certs make --keep-ca", 1, r"--keep-ca: nothing to add; name what with --member or --validator"),
    ("certs make --keep-ca --validator validator", 1, r"certs/validator.pem: exists and is not overwritten; .*"),
    ("certs make --keep-ca --validator x --dir empty", 1, r"empty/etcd-ca.pem: missing; new certificates need the .*"),
    ("certs make --dir file", 1, r"file/etcd-ca.pem: cannot be written: Not a directory|file: cannot be written: .*"),
    ("certs make --dir no/where", 1, r"no/where: cannot be written: No such file or directory"),
    ("certs make --dir new --host 10.0.0.300", 1, r"'10.0.0.300' is no host name and no IP address; --host takes .*"),
    ("certs make --dir new --member =10.0.0.1", 1, r"--member: '=10.0.0.1' is not NAME=HOST\[,HOST...\]; write it like .*"),
    ("certs make --dir new --member etcd-1=", 1, r"--member: 'etcd-1=' is not NAME=HOST\[,HOST...\]; write it like .*"),
    ("certs make --dir new --member etcd-1=a,,b", 1, r"--member: 'etcd-1=a,,b' is not NAME=HOST\[,HOST...\]; .*"),
    ("certs make --dir new --member a=x --member a=y", 1, r"--member: 'a' is named twice; give all of its hosts at once, .*"),
    ("certs make --dir new --member ../x=a", 1, r"--member: '../x' cannot name certificate files; take .*"),
    ("certs make --dir new --member a=b!c", 1, r"'b!c' is no host name and no IP address; --member takes one of these"),
    ("certs make --dir new --validator etcd", 1, r"'etcd' is named twice; each certificate has files of its own"),
    ("certs make --dir new --days 0", 1, r"0 days: --days takes 1 to 7300"),
    ("certs make --dir new --days 30 --ca-days 20", 1, r"--ca-days: 20 is less than --days 30; nothing outlives .*"),
    ("certs make --dir new --days many", USAGE, r"Invalid value for '--days': .*; see openos-validator certs make --help"),
    ("certs renew", USAGE, r"Missing argument 'NAME\|FILE...'.*; see openos-validator certs renew --help"),
    ("certs renew nobody", 1, r"certs/nobody.pem: missing; name a certificate whose key lies beside it, .*"),
    ("certs renew text.pem", 1, r"text.pem: holds no PEM certificate"),
    ("certs renew etcd-1 --days 8000", 1, r"8000 days: --days takes 1 to 7300"),
    ("certs renew etcd-1 --ca-dir empty", 1, r"empty/etcd-ca.pem: missing; .* or name its folder with --ca-dir"),
    ("certs renew etcd-1 --ca-dir others", 1, r"certs/etcd-1.pem: is not by the authority in others/etcd-ca.pem; .*"),
    ("certs show empty", 1, r"empty: no certificate there; make some: openos-validator certs make --dir empty"),
    ("certs show nowhere", 1, r"nowhere: cannot be read: No such file or directory"),
    ("certs show text.pem", 1, r"text.pem: holds no PEM certificate"),
    ("certs show certs/etcd-1-key.pem", 1, r"certs/etcd-1-key.pem: holds no PEM certificate"),
    ("certs show --output xml", USAGE, r"Invalid value for '--output': .*; see openos-validator certs show --help"),
    ("certs show --warn-days -1", USAGE, r"Invalid value for '--warn-days': .*"),
    ("doctor", USAGE, r"nothing to look at: give the flags of run, or those of etcd; see openos-validator doctor --help"),
    ("doctor --etcd-endpoint", USAGE, r"Option '--etcd-endpoint' requires an argument.*"),
    ("doctor --identity x.json --output xml", USAGE, r"Invalid value for '--output': .*; see openos-validator doctor --help"),
    ("doctor --identity x.json --timeout 0", USAGE, r"Invalid value for '--timeout': .*"),
    ("doctor --identity x.json --no-such-flag", USAGE, r"No such option '?--no-such-flag'?.*"),
    ("doctor --config no.toml", 1, r"--config: unable to read no.toml: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "status", "expected"), CASES, ids=[case[0] for case in CASES])
def test_one_line_a_status_and_no_trace(folder: Path, line: str, status: int, expected: str) -> None:
    before = snapshot(folder)
    found, out, err = program(folder, line)
    assert out == ""
    assert re.fullmatch(rf"Error: (?:{expected})\n", err), err
    assert found == status
    assert snapshot(folder) == before


def test_show_says_each_problem_in_a_line_of_its_own(folder: Path) -> None:
    authority, path = Authority.load(folder / "certs"), folder / "certs" / "validator.pem"
    key = load_key(folder / "certs" / "validator-key.pem")
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    old = load_certificates(path)[0]
    path.write_bytes(certificate_pem(sign(old.subject, old.issuer, key, authority.key, ended, [])))
    (folder / "certs" / "etcd-1-key.pem").chmod(0o640)
    before = snapshot(folder)
    status, out, err = program(folder, "certs show --output json")
    assert status == 1
    assert {each["file"]: [problem["kind"] for problem in each["problems"]] for each in json.loads(out)} == {
        "certs/etcd-1.pem": ["key mode"],
        "certs/etcd-ca.pem": [],
        "certs/validator.pem": ["expired"],
    }
    first, second = err.splitlines()
    assert first == "Error: certs/etcd-1-key.pem: mode 0640 lets others use the key; type: chmod 600 certs/etcd-1-key.pem"
    assert second.startswith("Error: certs/validator.pem: expired on ")
    assert second.endswith("; renew it: openos-validator certs renew certs/validator.pem")
    assert snapshot(folder) == before

    status, out, err = program(folder, "certs renew validator --days 100")  # as the line says
    assert (status, err) == (0, "")
    (folder / "certs" / "etcd-1-key.pem").chmod(0o600)
    status, out, err = program(folder, "certs show")
    assert (status, err) == (0, "")


DOCTOR_ETCD = "--etcd-cacert-file certs/etcd-ca.pem --etcd-cert-file certs/validator.pem --etcd-key-file certs/validator-key.pem"
DOCTOR_CASES = [
    ("doctor --identity no.json --url http://127.0.0.1:1", {"flags", "keys", "rpc", "tower"}, "no.json"),
    (f"doctor {DOCTOR_ETCD} --etcd-endpoint 127.0.0.1:1", {"etcd-members"}, "127.0.0.1:1: connection refused"),
    (f"doctor {DOCTOR_ETCD} --etcd-endpoint 127.0.0.1", {"etcd-members"}, "'127.0.0.1' is not host:port"),
    (f"doctor {DOCTOR_ETCD}", {"etcd-members"}, "--etcd-endpoint: not given"),
    ("doctor --etcd-endpoint 127.0.0.1:1", {"certificates", "etcd-members"}, "--etcd-cacert-file: not given"),
    (f"doctor {DOCTOR_ETCD} --etcd-endpoint 127.0.0.1:1 --etcd-cert-file text.pem", {"certificates", "etcd-members"},
     "text.pem: holds no PEM certificate"),
    (f"doctor {DOCTOR_ETCD} --etcd-endpoint 127.0.0.1:1 --etcd-key-file no.pem", {"keys", "certificates", "etcd-members"},
     "no.pem: No such file or directory"),
    (f"doctor {DOCTOR_ETCD} --etcd-endpoint 127.0.0.1:1 --etcd-cacert-file text.pem", {"certificates", "etcd-members"},
     "--etcd-cacert-file: no PEM file"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "failed", "text"), DOCTOR_CASES, ids=[case[0][-60:] for case in DOCTOR_CASES])
def test_to_the_doctor_bad_files_are_findings(folder: Path, line: str, failed: set[str], text: str) -> None:
    before = snapshot(folder)
    status, out, err = program(folder, f"{line} --output json --timeout 2")
    found = json.loads(out)["findings"]
    assert {each["check"] for each in found if each["level"] == "fail"} == failed
    assert any(text in each["found"] for each in found), found
    assert all(each["why"] and each["type"] for each in found if each["level"] != "ok")
    assert re.fullmatch(r"Error: \d+ of \d+ findings need work: .*\n", err)
    assert status == 1
    assert snapshot(folder) == before
