"""What a dependency file asks for, sorted for the two solvers; what no lock can hold is refused by name."""

from __future__ import annotations

import re

from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# the runtime of a run needs it
OLDEST_PYTHON = (3, 8)

# what conda itself means by `defaults`
DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
# they come with every Python: asking for them asks for no channel
_WITH_PYTHON = ("python", "pip")

_NAME = re.compile(r"(?:(?P<channel>[^\s:]+)::)?(?P<name>[\w.-]+)")
_PIP_NAME = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(\[[^\]]*\])?")
# option of pip -> whether it takes a value
_OPTIONS = {
    **dict.fromkeys(("--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--trusted-host"), True),
    **dict.fromkeys(("--no-binary", "--only-binary"), True),
    **dict.fromkeys(("--pre", "--no-index", "--prefer-binary"), False),
}
_SHORT = {"-i": "--index-url", "-f": "--find-links"}
_FILES = {
    "-r": "Write the lines of that file here, as items of the pip section.",
    "-c": "Write the version of each package at its own item.",
    "-e": "Code of the project is part of the snapshot: import it from there.",
}
_FILES |= {"--requirement": _FILES["-r"], "--constraint": _FILES["-c"], "--editable": _FILES["-e"]}


class Asked(Value):
    """What is asked for: `python` is its pin (`3.11`, `>=3.8`) or None; `conda` holds all other conda items.

    `index` is the index of pip packages where one is named; the rest of the fields are options of pip.
    """

    channels: tuple[str, ...]
    conda: tuple[str, ...]
    python: str | None
    pip: tuple[str, ...]
    index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def needs_channel(self) -> bool:
        """Whether anything besides Python itself comes from a channel."""
        return any(conda_name(item) not in _WITH_PYTHON for item in self.conda)


def sort(dependencies: Mapping[str, Any]) -> Asked:
    """Sort what a job asks for.

    Raises EnvironmentFailed `environment.unsupported` for what no lock can hold.
    """
    items = [str(item) for item in dependencies.get("dependencies", ())]
    options: dict[str, list[str]] = {}
    pip = [text for item in dependencies.get("pip", ()) if (text := _pip_item(str(item), options))]
    given = {name: tuple(values) for name, values in options.items()}
    index = given.get("--index-url", ())
    flags = [
        [name, *([value] if _OPTIONS[name] else [])] for name in _PASSED for value in given.get(name, ())
    ]
    return Asked(
        channels=tuple(_channels(dependencies.get("channels") or ("defaults",))),
        conda=tuple(item for item in items if conda_name(item) != "python"),
        python=dependencies.get("python") or _pin(items),
        pip=tuple(pip),
        index=index[-1] if index else None,
        extra_indexes=given.get("--extra-index-url", ()),
        find_links=given.get("--find-links", ()),
        trusted_hosts=given.get("--trusted-host", ()),
        options=tuple(word for flag in flags for word in flag),
    )


def _pin(items: Sequence[str]) -> str | None:
    pins = [item[len("python") :].strip() for item in items if conda_name(item) == "python"]
    return pins[0].lstrip("=") or None if pins else None


_PASSED = ("--no-binary", "--only-binary", "--pre", "--no-index")


def conda_name(item: str) -> str:
    """The name of a conda item; of an address the address itself."""
    if "://" in item:
        return item
    found = _NAME.match(item)
    return found["name"].lower() if found else item


def conda_bare(item: str) -> str:
    """A conda item without its version and build; the channel stays."""
    found = _NAME.match(item)
    return found[0] if found and "://" not in item else item


def conda_as_pip(item: str) -> str:
    """A conda item as pip writes it: `numpy=1.13` becomes `numpy==1.13.*`; builds are given up."""
    found = re.fullmatch(r"([\w.-]+)\s*(.*)", item.rpartition("::")[2])
    if "://" in item or found is None:
        return item
    name, spec = found[1], found[2]
    exact = re.match(r"(={0,2})(\d[^=\s]*)", spec)
    if exact is None:
        return name + spec
    version = exact[2].removesuffix("*").removesuffix(".")
    return f"{name}=={version}" + ("" if exact[1] == "==" else ".*")


def pip_name(item: str) -> str:
    """The normalized name of a pip item; of an address the address itself."""
    found = _PIP_NAME.match(item)
    if found is None or ("://" in item and "@" not in item.partition("://")[0]):
        return item
    return re.sub(r"[-_.]+", "-", found[1]).lower()


def pip_bare(item: str) -> str:
    """A pip item without its version; extras and markers stay.  An address stays as it is."""
    found = _PIP_NAME.match(item)
    if found is None or "://" in item:
        return item
    marker = item.partition(";")[2].strip()
    return found[1] + (found[2] or "") + (f" ; {marker}" if marker else "")


def satisfies(version: str, pin: str | None) -> bool:
    """Whether a version of Python (`3.11.4`, or `3.11` for any of its kind) is within a pin."""
    return all(_within(version, part.strip()) for part in (pin or "").split(",") if part.strip())


def stands_on_base(asked: Asked, base_python: str | None) -> bool:
    """Whether the base's own Python is enough, so that no channel is needed."""
    return base_python is not None and not asked.needs_channel and satisfies(base_python, asked.python)


def too_old(pin: str | None) -> bool:
    """Whether every version of Python within a pin is older than a run can use."""
    if not pin:
        return False
    newest = [f"{major}.{minor}" for major, minor in ((3, m) for m in range(OLDEST_PYTHON[1], 40))]
    return not any(satisfies(version, pin) for version in newest)


def _within(version: str, part: str) -> bool:
    found = re.match(r"(>=|<=|==|!=|~=|>|<|=)?\s*([\d.]+)(\.?\*)?", part)
    if found is None:
        return True  # the solver knows more forms than this
    sign, wanted = found[1] or "=", _numbers(found[2])
    have = _numbers(version)
    width = min(len(have), len(wanted))
    have, short = have[:width], wanted[:width]
    if sign in ("=", "=="):
        return have == short
    if sign == "!=":
        return have != short or len(wanted) > width
    if sign == "~=":
        return have >= short and have[: len(wanted) - 1] == wanted[:-1][: len(have)]
    return {
        ">=": have >= short,
        "<=": have <= short,
        ">": have > short or (len(wanted) > width and have == short),
        "<": have < short or (len(wanted) > width and have == short),
    }[sign]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _channels(names: Any) -> list[str]:
    found: list[str] = []
    for name in names:
        text = str(name)
        if text == "defaults":
            found += DEFAULTS
        elif text == "nodefaults":
            continue
        elif text.startswith((".", "~")) or "\\" in text:
            raise _unsupported(
                f"the channel {text!r} is a folder without its whole path",
                "Write file:///whole/path, or the address of a channel.",
            )
        else:
            found.append(f"file://{text}" if text.startswith("/") else text)
    return found


def _pip_item(item: str, options: dict[str, list[str]]) -> str | None:
    """The requirement of an item, or None after noting what option it is."""
    text = item.strip()
    if text.startswith("-"):
        _option(text, options)
        return None
    if _is_path(text):
        raise _unsupported(
            f"the pip item {text!r} is a file of the project, absent while packages are installed",
            "Put the package on an index or behind an address (https://...), "
            "or import its code from the snapshot.",
        )
    if text.startswith("file:") or "@ file:" in text or "@file:" in text:
        raise _unsupported(
            f"the pip item {text!r} is a file of one machine", "Write the address of an index or archive."
        )
    return text


def _is_path(text: str) -> bool:
    plain = text.partition(";")[0].strip()
    archive = plain.endswith((".whl", ".tar.gz", ".zip", ".tar.bz2"))
    return "://" not in plain and "@" not in plain and (archive or "/" in plain or "\\" in plain)


def _option(text: str, options: dict[str, list[str]]) -> None:
    name, _, value = text.replace("=", " ", 1).partition(" ")
    value = value.strip()
    if name in _FILES:
        raise _unsupported(f"the pip item {text!r} names a file of the project", _FILES[name])
    if name not in _OPTIONS:
        raise _unsupported(
            f"the pip item {text!r} is no option that a dependency file may hold",
            f"Known are {', '.join(_OPTIONS)}.",
        )
    if _OPTIONS[name] and not value:
        raise _unsupported(f"the pip item {text!r} lacks its value", f"Write {name} VALUE in one line.")
    if name in ("--find-links", "-f") and "://" not in value:
        raise _unsupported(f"the pip item {text!r} names a folder", "Write the address of a page of links.")
    options.setdefault(_SHORT.get(name, name), []).append(value)


def _unsupported(message: str, hint: str) -> EnvironmentFailed:
    return EnvironmentFailed(message, code="environment.unsupported", hint=hint)
