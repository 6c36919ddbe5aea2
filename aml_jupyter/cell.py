"""A cell before it is sent: what it takes from the kernel, what only IPython understands, and its bytes.

findings = check(source, kernel=user_namespace, inputs=("df",), ipython=False)
write_cell(job, to_bytes(source), {"df": frame}, ("model",), {"rate": 0.1})
"""

from __future__ import annotations

import ast
import keyword
import os
import posixpath
import re
import sys

from aml_jupyter.errors import CellError, ConfinedError
from aml_jupyter.frozen import Value
from aml_jupyter.scopes import names_taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Any

HERE = sys.version_info[:2]
# a line for IPython: %magic, !command, ?name, name?, and the forms that assign
_MAGIC = re.compile(r"^(\s*)(?:([\w.,\s\[\]*]+?)\s*=\s*)?(%%?|!!?|\?\??)(?=\S)(.*)$")
_HELP = re.compile(r"^(\s*)(%{0,2}[\w.*]+)\?\??\s*$")
# magics whose argument is Python
_TIMED = re.compile(r"^(?:time|timeit|prun|memit|lprun)\b((?:\s+-\w+(?:\s+\d+)?)*)\s*(.*)$")
_PYTHON_CELLS = ("time", "timeit", "capture", "prun", "memit")
_EXPANDED = re.compile(r"\{([A-Za-z_]\w*)[^{}]*\}|\$([A-Za-z_]\w*)")
_MOST_MAGICS = 1000
# bytes of what a cell was asked for: names, parameters, forms of values
LARGEST_ASKED = 16 << 20
# what a kernel has and a run has too, or never needs
_PROVIDED = frozenset(
    "display get_ipython In Out exit quit open _ __ ___ _i _ii _iii _ih _oh _dh".split()  # noqa: SIM905
)


class MagicLine(Value):
    """A line that only IPython understands; `number` counts from 1."""

    number: int
    text: str


class Findings(Value):
    """What was seen in a cell that may be sent."""

    magic_lines: tuple[MagicLine, ...] = ()
    warnings: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # names that neither the cell, the kernel nor Python defines


def to_bytes(source: str) -> bytes:
    """The bytes of a cell, exactly as it was typed; raises CellError for text that no file can hold."""
    if "\0" in source:
        line = source[: source.index("\0")].count("\n") + 1
        raise CellError(f"line {line} of the cell contains a NUL character", hint="Delete it.")
    try:
        return source.encode("utf-8")
    except UnicodeEncodeError as error:
        line = source[: error.start].count("\n") + 1
        raise CellError(
            f"line {line} of the cell contains half of a character (U+{ord(source[error.start]):04X})",
            hint="It cannot be written to a file. Delete it and type the character again.",
        ) from None


def check(
    source: str,
    kernel: Mapping[str, object] | Collection[str] = (),
    *,
    inputs: Collection[str] = (),
    parameters: Collection[str] = (),
    ipython: bool | None = None,
    root: str | None = None,
    workdir: str = "",
    python: tuple[int, int] | None = HERE,
) -> Findings:
    """Look at a cell before anything is sent.

    `kernel` is the notebook's namespace (or its names alone), `inputs` and `parameters` are names that travel
    along, `ipython` is whether the target has IPython (None: unknown), `root` is the project's folder and
    `workdir` where in it the cell starts, `python` is the target's version (None: unknown).

    Raises CellError when the cell cannot run there as it is: text no file can hold, IPython lines without
    IPython, a syntax error (unless the target's Python may know better), names only the kernel has.
    """
    to_bytes(source)
    tree, magic_lines, expanded = _read(source, python)
    if magic_lines and ipython is False:
        raise _magic_error(magic_lines)
    warnings = list(_path_warnings(tree, root, workdir)) if tree else []
    if tree is None:
        warnings.append("the cell was not checked: its syntax is not that of this Python")
    taken = names_taken(tree) if tree else {}
    for name, line in expanded.items():
        taken.setdefault(name, line)
    given = {*inputs, *parameters}
    names = {name: line for name, line in taken.items() if name not in given and name not in _PROVIDED}
    missing = {name: line for name, line in names.items() if name in kernel and not _is_builtin(name, kernel)}
    if missing:
        raise _missing_error(missing, kernel, inputs)
    return Findings(
        magic_lines=magic_lines,
        warnings=tuple(warnings),
        unknown=tuple(name for name in names if not _is_builtin(name, ())),
    )


def write_cell(
    job: str,
    source: bytes,
    inputs: Mapping[str, object],
    outputs: Sequence[str],
    params: Mapping[str, object],
    *,
    python: str = "",
    arrow: bool = False,
    filename: str = "<cell>",
) -> tuple[dict[str, Any], ...]:
    """Write `cell.py`, `cell.json` and the values that travel along into a job's folder; what was sent.

    `python` ("3.11") and `arrow` (has pyarrow) are the target's where known.  Raises ValueTransferError.
    """
    import json

    sent = tuple(_write_input(job, name, value, python, arrow) for name, value in inputs.items())
    asked = {
        "format": 1,
        "filename": filename,
        "inputs": sent,
        "outputs": list(outputs),
        "params": dict(params),
        "python": "{}.{}".format(*HERE),
        "accepts": list(_accepted(outputs)),
    }
    _write(job + "/cell.py", source)
    _write(job + "/cell.json", json.dumps(asked).encode("ascii"))
    return sent


def share_values(job: str, other: str) -> None:
    """Give the values that travel with the cell of one job to another job, which has the cell without them.

    Their files are one file with two names: nothing of a run changes them, and a thousand trials of a sweep
    with a large table take the room of one.
    """
    import json

    from aml_jupyter.confined import copy_fd, read_bounded

    asked = json.loads(read_bounded(job + "/cell.json", LARGEST_ASKED))
    changed = json.loads(read_bounded(other + "/cell.json", LARGEST_ASKED))
    changed["inputs"] = asked["inputs"]
    os.makedirs(other + "/inputs", mode=0o700, exist_ok=True)
    for name in {str(one["file"]) for one in asked["inputs"]}:
        try:
            os.link(f"{job}/inputs/{name}", f"{other}/inputs/{name}")
        except OSError:  # a file system without them, or no more of them: a copy
            with (
                open(f"{job}/inputs/{name}", "rb") as source,
                open(f"{other}/inputs/{name}", "wb", opener=_private) as destination,
            ):
                copy_fd(source.fileno(), destination.fileno())
    _write(other + "/cell.json", json.dumps(changed).encode("ascii"))


def outputs_of(job: str) -> tuple[str, ...]:
    """The names that a cell's `--out` asked for, as its job keeps them; none for a script."""
    import json

    from aml_jupyter.confined import read_bounded

    try:
        outputs = json.loads(read_bounded(job + "/cell.json", LARGEST_ASKED))["outputs"]
    # a script's job has none, and a job's own hand may have made it anything
    except (ConfinedError, ValueError, RecursionError, KeyError, TypeError):
        return ()
    names = outputs if isinstance(outputs, list) else ()
    return tuple(
        name
        for name in names
        if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    )


def _accepted(outputs: Sequence[str]) -> tuple[str, ...]:
    if not outputs:
        return ()
    from aml_jupyter.values import accepts

    return accepts()


def _write_input(job: str, name: str, value: object, python: str, arrow: bool) -> dict[str, Any]:
    from aml_jupyter.values import encode

    encoded = encode(name, value, python=python, arrow=arrow)
    os.makedirs(job + "/inputs", mode=0o700, exist_ok=True)
    _write(f"{job}/inputs/{encoded.sha256}", encoded.data)
    return encoded.as_json()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


# ---- syntax ----


def _read(
    source: str, python: tuple[int, int] | None
) -> tuple[ast.Module | None, tuple[MagicLine, ...], dict[str, int]]:
    """The syntax tree without IPython's lines, those lines, and the names that they take."""
    text = source
    magic_lines: dict[int, MagicLine] = {}
    expanded: dict[str, int] = {}
    if source.lstrip().startswith("%%"):
        text = _open_cell_magic(source, magic_lines)
    for _ in range(_MOST_MAGICS):
        try:
            return _parse(text), tuple(magic_lines.values()), expanded
        except SyntaxError as error:
            found = _replace_magic(text, error.lineno or 1, magic_lines, expanded)
            if found is None:
                if python is None or python > HERE:  # a newer Python may understand it
                    return None, tuple(magic_lines.values()), expanded
                raise _syntax_error(source, error) from None
            text = found
        except (ValueError, RecursionError, MemoryError) as error:
            raise CellError(f"the cell cannot be compiled: {error}") from None
    raise CellError(f"the cell has more than {_MOST_MAGICS} lines for IPython")


def _parse(text: str) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown by the run itself
        try:
            tree = compile(text, "<cell>", "exec", flags, dont_inherit=True)
        except IndentationError:
            first = next((line for line in text.splitlines() if line.strip()), "")
            if not first[:1].isspace():
                raise
            tree = compile(_dedent(text, first), "<cell>", "exec", flags, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return tree


def _dedent(text: str, first: str) -> str:
    margin = first[: len(first) - len(first.lstrip())]
    return "".join(line.removeprefix(margin) for line in text.splitlines(keepends=True))


def _open_cell_magic(source: str, magic_lines: dict[int, MagicLine]) -> str:
    """The Python below a `%%magic`: all of it for those that take Python, nothing for the others."""
    lines = source.split("\n")
    first = next(i for i, line in enumerate(lines) if line.strip())
    magic_lines[first] = MagicLine(number=first + 1, text=lines[first].strip())
    word = lines[first].strip()[2:].split(maxsplit=1)[:1]
    body = lines[first + 1 :] if word and word[0] in _PYTHON_CELLS else []
    return "\n".join([*[""] * (first + 1), *body])


def _replace_magic(
    text: str, number: int, magic_lines: dict[int, MagicLine], expanded: dict[str, int]
) -> str | None:
    """The text with the IPython line at which Python stumbled made Python; None when there is none."""
    lines = text.split("\n")
    for index in (number - 1, number - 2):  # Python may only stumble over the line after it
        if not 0 <= index < len(lines) or index in magic_lines:
            continue
        python = _as_python(lines[index])
        if python is None:
            continue
        magic_lines[index] = MagicLine(number=index + 1, text=lines[index].strip())
        for match in _EXPANDED.finditer(lines[index]):
            expanded.setdefault(match[1] or match[2], index + 1)
        lines[index] = python
        following = index
        while lines[following + 1 :] and magic_lines[following].text.endswith("\\"):
            following += 1
            magic_lines[following] = MagicLine(number=following + 1, text=lines[following].strip())
            lines[following] = ""
        return "\n".join(lines)
    return None


def _as_python(line: str) -> str | None:
    help_ = _HELP.match(line)
    if help_:
        return help_[1] + "pass"
    magic = _MAGIC.match(line)
    if not magic:
        return None
    indent, assigned, mark, rest = magic.groups()
    timed = _TIMED.match(rest) if mark == "%" else None
    if timed and not assigned and _is_statement(timed[2]):
        return indent + timed[2]
    return f"{indent}{assigned} = None" if assigned else indent + "pass"


def _is_statement(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return bool(text.strip())


def _syntax_error(source: str, error: SyntaxError) -> CellError:
    number = error.lineno or 1
    lines = source.split("\n")
    shown = lines[number - 1].rstrip("\r") if number <= len(lines) else ""
    margin = len(shown) - len(shown.lstrip())
    caret = " " * max(0, (error.offset or 1) - 1 - margin) + "^"
    return CellError(
        f"line {number} of the cell is not Python: {error.msg}",
        code="cell.syntax",
        hint=f"    {shown.strip()}\n    {caret}",
    )


def refuse_magic(source: str) -> None:
    """Raise CellError `cell.ipython` for a cell with lines that only IPython understands."""
    _, magic_lines, _ = _read(source, None)
    if magic_lines:
        raise _magic_error(magic_lines)


def _magic_error(lines: Sequence[MagicLine]) -> CellError:
    shown = "\n".join(f"    line {line.number}: {line.text[:100]}" for line in lines[:10])
    return CellError(
        "the cell has lines that only IPython understands, and the target has no IPython",
        code="cell.ipython",
        hint=f"{shown}\nInstall ipython at the target, or write these lines in plain Python.",
    )


# ---- names ----


def _is_builtin(name: str, kernel: Mapping[str, object] | Collection[str]) -> bool:
    import builtins

    if not hasattr(builtins, name):
        return name in ("__file__", "__builtins__", "__spec__", "__annotations__", "__doc__")
    # a kernel that calls one of its variables `input` or `id` means the variable
    return not isinstance(kernel, dict) or name not in kernel or kernel[name] is getattr(builtins, name)


def _missing_error(
    missing: Mapping[str, int], kernel: Mapping[str, object] | Collection[str], inputs: Collection[str]
) -> CellError:
    advice = {name: _advice(name, kernel) for name in missing}
    values = [name for name in missing if not advice[name]]
    what = ", ".join(f"{name} (line {line})" for name, line in list(missing.items())[:20])
    lines = [text for text in advice.values() if text]
    if values:
        lines.insert(0, f"Add --in {','.join([*inputs, *values])}")
    return CellError(
        f"the cell takes from the notebook what the run will not have: {what}",
        code="cell.missing_names",
        hint="\n".join(lines),
    )


def _advice(name: str, kernel: Mapping[str, object] | Collection[str]) -> str:
    """How to have a module, function or class of the kernel; empty for values, which can be sent."""
    from types import BuiltinFunctionType, FunctionType, ModuleType

    value = kernel.get(name) if isinstance(kernel, dict) else None
    if isinstance(value, ModuleType):
        path = value.__name__
        how = f"import {path}" if path == name else f"import {path} as {name}"
        return f"{name} is a module: write `{how}` in the cell"
    if not isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return ""
    kind = "class" if isinstance(value, type) else "function"
    module = getattr(value, "__module__", None)
    if module in (None, "__main__", "builtins"):
        return (
            f"{name} is a {kind} of the notebook: define it in the cell, or move it to a file and import it"
        )
    own = getattr(value, "__name__", name)
    how = f"from {module} import {own}" + ("" if own == name else f" as {name}")
    return f"{name} is a {kind}: write `{how}` in the cell"


# ---- paths ----


def _path_warnings(tree: ast.Module, root: str | None, workdir: str) -> Iterator[str]:
    """Texts in the cell that look like paths out of the copy it runs in."""
    seen = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant):
            continue
        text = node.value
        if not isinstance(text, str) or text in seen or not 1 < len(text) < 4096 or "\n" in text:
            continue
        seen.add(text)
        if _leaves(text, workdir):
            yield f"line {node.lineno}: {text!r} is outside the project, of which the run sees only a copy"
        elif root and (text + "/").startswith(root.rstrip("/") + "/"):
            inside = posixpath.relpath(text, posixpath.join(root, workdir))
            yield f"line {node.lineno}: {text!r} is in the project itself, not in its copy: write {inside!r}"


def _leaves(text: str, workdir: str) -> bool:
    if ".." not in text or text.startswith("/") or "://" in text:
        return False
    parts = text.split("/")
    if ".." not in parts or any(part != part.strip() for part in parts):
        return False
    return (posixpath.normpath(posixpath.join(workdir, text)) + "/").startswith("../")
