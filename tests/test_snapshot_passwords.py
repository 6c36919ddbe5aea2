"""Passwords of compute files never enter a snapshot, and nothing else of them changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot import Store
from aml_jupyter.snapshot.passwords import without_passwords

CASES = [
    (b"type: remote\npassword: hunter22\nusername: me\n", b"type: remote\npassword: null\nusername: me\n"),
    (b'password: "hun\\"ter22"\r\nuser: x\r\n', b"password: null\r\nuser: x\r\n"),
    (b"password: 'it''s hunter22'  # mine", b"password: null  # mine"),
    (b"password: hunter 22 # mine\n", b"password: null # mine\n"),
    (b"password:\thunter22\n", b"password:\tnull\n"),
    (b"password:hunter22\n", b"password: null\n"),
    (b"a: 1\npassword: |\n  hunter22\n  more\n\nb: 2\n", b"a: 1\npassword: null\n\nb: 2\n"),
    (b"privateKey: >-\n  -----BEGIN\n  hunter22\nb: 2\n", b"privateKey: null\nb: 2\n"),
    (b"password: hunter\n  22 and more\nb: 2\n", b"password: null\nb: 2\n"),
    (b"password:\n  hunter22\nb: 2\n", b"password: null\nb: 2\n"),
    (b'{"type": "remote", "password": "hunter22", "b": 1}', b'{"type": "remote", "password": null, "b": 1}'),
    (b'{\n  "privateKey": "hun\\nter22",\n  "a": {}\n}\n', b'{\n  "privateKey": null,\n  "a": {}\n}\n'),
    (b"{type: remote, password: hunter22, b: 1}\n", b"{type: remote, password: null, b: 1}\n"),
    (b"x: {password: hunter22}\n", b"x: {password: null}\n"),
    (b"- password: hunter22\n  user: a\n", b"- password: null\n  user: a\n"),
    (b"password: &p hunter22\nuser: a\n", b"password: &p null\nuser: a\n"),
    (b"Password: hunter22", b"Password: null"),
    (b"\xef\xbb\xbfpassword: hunter22\n", b"\xef\xbb\xbfpassword: null\n"),
    (b"password: null\nprivateKey: ~\n", None),
    (b"password:\nusername: me\n", None),
    (b"password: ''\n", None),
    (b"# password: hunter22 is not one\ntype: local\n", None),
    (b"mypassword: hunter22\n", None),
]


@pytest.mark.parametrize(("before", "after"), CASES, ids=range(len(CASES)))
def test_the_value_becomes_null_and_every_other_byte_stays(before: bytes, after: bytes | None) -> None:
    cleaned, keys = without_passwords("aml_config/vm.compute", before)
    assert cleaned == (before if after is None else after)
    assert bool(keys) == (after is not None)
    assert after is None or b"unter" not in cleaned
    if b"\t" not in before and b"password:hunter" not in before:
        yaml.safe_load(cleaned)


@pytest.mark.parametrize(
    "data",
    [
        b"? password\n: hunter22\n",
        b"key: &p hunter22\npassword: *p\n",
        b"password: [hunter22]\n",
        b'password: "hunter22\n',
        "password: hunter22\n".encode("utf-16"),
        b"password: hunter22\nnote: my hunter22 again\n",
    ],
)
def test_what_is_not_understood_for_certain_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError) as caught:
        without_passwords("aml_config/vm.compute", data)
    assert caught.value.code == "snapshot.secret"
    assert "hunter22" not in str(caught.value)


def test_no_byte_of_a_password_reaches_the_store(home: str, tmp_path: Path) -> None:
    folder = tmp_path / "project" / "aml_config"
    folder.mkdir(parents=True)
    for name in ("vm.compute", "vm.compute.bak", "VM.COMPUTE~old"):
        (folder / name).write_bytes(b"type: remote\npassword: hunter22\n")
    (folder / "local.compute").write_bytes(b"type: local\n")
    store = Store(home + "/snapshots")
    taken = store.take(str(tmp_path / "project"))
    assert store.read(taken.id, "aml_config/vm.compute") == b"type: remote\npassword: null\n"
    assert len(taken.warnings) == 3
    assert "vm.compute" in "".join(taken.warnings)
    assert store.take(str(tmp_path / "project")) == taken
    for folder_name, _, files in os.walk(home):
        for name in files:
            assert b"hunter22" not in Path(folder_name, name).read_bytes()


def test_a_compute_file_as_large_as_data_keeps_no_password_either(home: str, tmp_path: Path) -> None:
    folder = tmp_path / "project" / "aml_config"
    folder.mkdir(parents=True)
    (folder / "vm.compute").write_bytes(b"# " + b"x" * (2 << 20) + b"\npassword: hunter22\n")
    store = Store(home + "/snapshots")
    taken = store.take(str(tmp_path / "project"))
    assert b"hunter22" not in store.read(taken.id, "aml_config/vm.compute")
    store.materialize(taken.id, str(tmp_path / "copy"))
    assert store.check() == []
