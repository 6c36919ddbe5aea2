"""What differs between two locks."""

from __future__ import annotations

from aml_jupyter.environment.asked import pip_name
from aml_jupyter.environment.lock import Package, is_of_python
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.environment.lock import Lock


class Difference(Value):
    """Packages that one has and the other has not, and those that both have otherwise.

    Each is (name, what the first has, what the second has); "" where it has none.
    """

    added: tuple[tuple[str, str, str], ...]
    removed: tuple[tuple[str, str, str], ...]
    changed: tuple[tuple[str, str, str], ...]
    platform: tuple[str, str]
    python: tuple[str, str]

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Everything that differs."""
        return (*self.added, *self.removed, *self.changed)

    @property
    def same(self) -> bool:
        """Whether both install the same."""
        return not self.rows and self.platform[0] == self.platform[1] and self.python[0] == self.python[1]

    def as_json(self) -> dict[str, Any]:
        """The difference as plain data."""
        keys = ("name", "from", "to")
        rows = {
            kind: [dict(zip(keys, row, strict=True)) for row in getattr(self, kind)]
            for kind in ("added", "removed", "changed")
        }
        return {
            "same": self.same,
            **rows,
            "platform": dict(zip(("from", "to"), self.platform, strict=True)),
            "python": dict(zip(("from", "to"), self.python, strict=True)),
        }


def diff(first: Lock, second: Lock) -> Difference:
    """What the second lock has that the first has not, and the other way round."""
    old, new = _by_name(first), _by_name(second)
    return Difference(
        added=tuple((name, "", _shown(new[name])) for name in sorted(new.keys() - old.keys())),
        removed=tuple((name, _shown(old[name]), "") for name in sorted(old.keys() - new.keys())),
        changed=tuple(
            (name, *_told(old[name], new[name]))
            for name in sorted(old.keys() & new.keys())
            if old[name].identity != new[name].identity
        ),
        platform=(first.platform, second.platform),
        python=(first.python, second.python),
    )


def by_version(lock: Lock) -> Lock:
    """A lock of which only names and versions are left, to be compared with a list of packages."""
    packages = (
        Package(name=name, version=one.version, source="pypi")
        for name, one in _by_name(lock).items()
        if name != "python" and (one.source != "conda" or is_of_python(one))
    )
    return lock.replace(packages=tuple(packages))


def _by_name(lock: Lock) -> dict[str, Package]:
    # where conda and pip both bring a package, pip's is the one that stays
    return {pip_name(package.name): package for package in (*lock.conda, *lock.pip)}


def _told(old: Package, new: Package) -> tuple[str, str]:
    """Both versions, with as much more as tells them apart."""
    forms = (
        lambda package: package.version,
        _shown,
        lambda package: f"{package.version} ({package.sha256[:12] or package.url})",
    )
    for form in forms:
        if form(old) != form(new):
            return form(old), form(new)
    return _shown(old), _shown(new)


def _shown(package: Package) -> str:
    source = f"{package.build}, conda" if package.source == "conda" else package.source
    return f"{package.version} ({source})"
