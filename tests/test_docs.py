"""The documentation tells the truth: what it names exists, and what exists is named."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from aml_jupyter.commands import VERBS
from aml_jupyter.config.settings import KEYS
from aml_jupyter.magics.options import parser_of
from tests.requirements import need

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aml_jupyter"

FAMILIES = (
    "artifact artifacts asset budget cell config container data engine environment events export file "
    "history image input label log message metric name open outputs path queue record request rerun "
    "restore run runtime secret share snapshot ssh store supervisor sweep target tombstone trash value"
)
CODE = re.compile(rf"(?:{'|'.join(FAMILIES.split())})\.[a-z_]+")
# what looks like a code and is a file
FILES = (
    ".json",
    ".jsonl",
    ".properties",
    ".py",
    ".log",
    ".lock",
    ".sqlite",
    ".md",
    ".partial",
    ".tmp",
    ".csv",
    ".txt",
    ".sock",
)
WITHOUT_FAMILY = {"usage", "defect", "system"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def error_codes() -> set[str]:
    """Every error code that stands in the package's source."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if text in WITHOUT_FAMILY or (CODE.fullmatch(text) and not text.endswith(FILES)):
                    found.add(text)
    return found - KEYS.keys()


def test_every_error_code_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", read("docs/errors.md"), re.MULTILINE))
    assert error_codes() == documented


def test_every_verb_and_option_is_documented_as_it_is() -> None:
    specification = importlib.util.spec_from_file_location("verbs", ROOT / "docs" / "verbs.py")
    assert specification
    assert specification.loader
    verbs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(verbs)
    assert read("docs/cli.md").partition(verbs.MARK)[2] == verbs.generated(), "run: python docs/verbs.py"


@pytest.mark.parametrize("magic", ["%%amlrun", "%amlrun"])
def test_every_option_of_a_magic_is_documented(magic: str) -> None:
    options = {text for action in parser_of(magic)._actions for text in action.option_strings} - {
        "-h",
        "--help",
    }
    assert {"-d", "--name", "--dry-run"} <= options
    documented = set(re.findall(r"`(--?[a-z-]+)", read("docs/notebook.md") + read("docs/cli.md")))
    assert options <= documented


def test_every_verb_that_a_message_names_exists() -> None:
    known = set(VERBS) | {"VERB", "command"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"(?:`|: |%|, |or )aml ([a-z]+)", node.value))
                assert named <= known, f"{path.name}:{node.lineno}"


def modules() -> set[str]:
    return {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").is_file()
    }


def test_the_codemap_names_every_module_and_no_other() -> None:
    codemap = read("ARCHITECTURE.md").partition("## Codemap")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([a-z_]+)` \|", codemap, re.MULTILINE))
    assert named == modules() - {"runtime"}


PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = read(page)
    named = re.findall(r"(?:tests|docs|notebooks|benchmarks|aml_jupyter|runtime)/[\w./-]*", text)
    named += re.findall(r"\]\(([^)#:]+)\)", text)
    gone = [name for name in named if not any((root / name.rstrip(".")).exists() for root in (ROOT, PACKAGE))]
    assert not gone


def test_every_module_attribute_that_the_architecture_names_exists() -> None:
    dotted = re.findall(r"`([a-z]+)\.([A-Za-z_]+)`", read("ARCHITECTURE.md"))
    names = [(part, name) for part, name in dotted if part in modules() and f".{name}" not in FILES]
    assert names
    for module, name in names:
        path = PACKAGE / module
        sources = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else list(path.rglob("*.py"))
        text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
        part = (path / f"{name}.py").is_file() or (path / name / "__init__.py").is_file()
        assert part or re.search(rf"^(class |def )?{name}\b", text, re.MULTILINE)


def test_no_tracked_file_names_this_machine_or_a_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run([need("git"), "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    # pieced together so that this file does not hold them
    roots = "|".join(f"/{name}/" for name in ("work", "farm", "root"))
    hosts = "|".join(("pypi" + r"\.org", "registry" + r"\.npmjs", "artifact" + "ory"))
    suspect = re.compile(rf"(?<![\w.~}}>])(?:{roots})|{hosts}")
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix not in (".png", ".ico"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {hit[0]}" for hit in suspect.finditer(text)]
    assert not found
