"""Ignore rules: git is the oracle, and no pattern takes long."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from aml_jupyter.snapshot import Rules, explain
from aml_jupyter.snapshot.excludes import usually_left_out
from aml_jupyter.snapshot.ignore import RuleList, parse
from tests.requirements import need

_LETTERS = [b"a", b"a", b"b", b"c", b"A", b"ab", b"foo", b"bar", b"\xc3\xa9", b"\xff", b" ", b"-", b"[", b"]"]
_LETTERS += [b"\\", b"*", b"?", b"!", b"#", b"^", b"1", b"_", b".", b"\t", b"x.py", b"\n", b"\r"]
_PIECES = [b"*", b"*", b"**", b"***", b"?", b"/", b"/", b"a", b"b", b"c", b"A", b"foo", b"bar", b".", b"x.py"]
_PIECES += [
    b"[ab]",
    b"[!a]",
    b"[^a]",
    b"[a-c]",
    b"[]a]",
    b"[a",
    b"[[:alpha:]]",
    b"[[:digit:]b]",
    b"[[:foo:]]",
]
_PIECES += [b"[\\]]", b"[a\\-c]", b"[-a]", b"[a-]", b"[[:space:]]", b"[!]]", b"[]-a]", b"[[:punct:]]", b"[/]"]
_PIECES += [b"\\a", b"\\*", b"\\[", b"\\\\", b"\\", b"\\ ", b" ", b"\xc3\xa9", b"\xff", b"-", b"#", b"!"]
_PIECES += [b"**/", b"/**", b"/**/", b"a/b", b"**a", b"a**", b"\t", b"\\/", b"[[:upper:]_]", b"1", b"\r"]


def _git(root: Path, *arguments: str) -> bytes:
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, check=True)
    return done.stdout


def _listed_by_git(root: Path) -> set[str]:
    out = _git(root, "ls-files", "-o", "--exclude-standard", "-z")
    return {os.fsdecode(path) for path in out.split(b"\0") if path}


def _listed_by_us(root: Path) -> set[str]:
    found = explain(str(root), Rules(links="skip"))
    return {decision.path for decision in found.decisions if decision.included}


def _name(chance: random.Random) -> bytes:
    name = b"".join(chance.choice(_LETTERS) for _ in range(chance.randint(1, 3)))
    taken = name in (b".", b"..") or usually_left_out().last(name, name, True) is not None
    return b"d" if taken else name


def _pattern(chance: random.Random, names: list[bytes]) -> bytes:
    if chance.random() < 0.3 and names:
        path = chance.choice(names)
        line = path if chance.random() < 0.5 else b"/".join(path.split(b"/")[: chance.randint(1, 3)])
        if chance.random() < 0.4:
            at = chance.randint(0, len(line))
            line = line[:at] + chance.choice(_PIECES) + line[at + chance.randint(0, 1) :]
    else:
        line = b"".join(chance.choice(_PIECES) for _ in range(chance.randint(1, 6)))
    if chance.random() < 0.25:
        line = b"!" + line
    if chance.random() < 0.15:
        line += b"/"
    if chance.random() < 0.1:
        line = b"/" + line
    return line + (b"  " if chance.random() < 0.05 else b"") + (b"\r" if chance.random() < 0.05 else b"")


def _make_case(root: bytes, seed: int) -> None:
    chance = random.Random(seed)
    folders = [b""]
    for _ in range(chance.randint(2, 6)):
        folder = os.path.join(chance.choice(folders), _name(chance))
        if folder.count(b"/") < 4 and folder not in folders:
            folders.append(folder)
    for folder in folders:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    files = []
    for _ in range(chance.randint(6, 20)):
        path = os.path.join(chance.choice(folders), _name(chance))
        if not os.path.lexists(os.path.join(root, path)):
            files.append(path)
            if chance.random() < 0.1:
                os.symlink(b"nowhere", os.path.join(root, path))
            else:
                os.close(os.open(os.path.join(root, path), os.O_CREAT | os.O_WRONLY, 0o644))
    for folder in [b"", *chance.sample(folders[1:], min(len(folders) - 1, chance.randint(0, 2)))]:
        inside = [path[len(folder) :].lstrip(b"/") for path in files if path.startswith(folder)]
        lines = [_pattern(chance, inside) for _ in range(chance.randint(1, 6))]
        text = b"\n".join(lines) + (b"\n" if chance.random() < 0.8 else b"")
        if chance.random() < 0.05:
            text = b"\xef\xbb\xbf" + text
        Path(os.fsdecode(os.path.join(root, folder, b".gitignore"))).write_bytes(text)


def _differences(root: Path, seeds: range) -> list[str]:
    for seed in seeds:
        _make_case(os.fsencode(root / f"case{seed}"), seed)
    return sorted(_listed_by_git(root) ^ _listed_by_us(root))


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_hundreds_of_random_trees_get_the_answers_of_git(tmp_path: Path, first: int) -> None:
    need("git")
    _git(tmp_path, "init", "-q")
    assert _differences(tmp_path, range(first, first + 100)) == []


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_rules_at_the_root_get_the_answers_of_git(tmp_path: Path, seed: int) -> None:
    need("git")
    _git(tmp_path, "init", "-q")
    _make_case(os.fsencode(tmp_path), seed)
    assert sorted(_listed_by_git(tmp_path) ^ _listed_by_us(tmp_path)) == []


@pytest.mark.soak
@pytest.mark.parametrize("first", range(100_000, 120_000, 200))
def test_thousands_of_random_trees_get_the_answers_of_git(tmp_path: Path, first: int) -> None:
    need("git")
    _git(tmp_path, "init", "-q")
    assert _differences(tmp_path, range(first, first + 200)) == []


def _sent(lines: bytes, path: str, *, is_folder: bool = False) -> bool:
    rule = RuleList(parse(lines, "test")).last(
        os.fsencode(path.rpartition("/")[2]), os.fsencode(path), is_folder
    )
    return rule is None or rule.negated


def test_a_star_run_behind_a_literal_start_counts_as_leading() -> None:
    assert not _sent(b"/foo**/bar\n", "foobar")
    assert not _sent(b"/foo**/bar\n", "foo/x/bar")


def test_a_question_mark_is_one_byte() -> None:
    assert _sent(b"?\n", "é")
    assert not _sent(b"??\n", "é")


@pytest.mark.parametrize(
    "pattern",
    [
        b"*a" * 100 + b"b",
        b"**/" * 100 + b"b",
        b"/" + b"*a" * 60 + b"/**/" + b"a*" * 60 + b"b",
        b"a" * 1_000_000,
        b"*" * 1_000_000 + b"x",
        b"[" * 200_000,
        b"?" * 1_000_000 + b"/x",
        b"[a-z]*" * 100 + b"!",
        (b"**/a*/" * 40) + b"z",
    ],
    ids=lambda pattern: f"{pattern[:6]!r}x{len(pattern)}",
)
@pytest.mark.timeout(60)
def test_S17_no_pattern_hangs(pattern: bytes) -> None:
    rules = RuleList(parse(pattern + b"\n", "test"))
    for name in (b"a" * 250, b"ab" * 120):
        rules.last(name, name, False)
        rules.last(name, b"/".join([name[:100]] * 30), False)


@pytest.mark.timeout(60)
def test_S17_many_negations_are_answered_in_time(tmp_path: Path) -> None:
    text = b"".join(b"*.%d\n!*.%d\n" % (n, n) for n in range(3000))
    rules = RuleList(parse(text, "test"))
    for number in range(20_000):
        assert rules.last(b"f%d.txt" % number, b"f%d.txt" % number, False) is None
