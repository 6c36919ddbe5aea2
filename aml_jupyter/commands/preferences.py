"""`aml config set|get|unset|list`."""

from __future__ import annotations

from aml_jupyter.config import settings
from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from aml_jupyter.commands.screen import Screen


def do(options: Namespace, root: str, screen: Screen) -> int:
    """One action on the settings of the person, or with `--project-level` of the project in `root`."""
    return _ACTIONS[options.action](options, root, screen)


def _set(options: Namespace, root: str, screen: Screen) -> int:
    level = root if options.project_level else None
    if options.key == settings.STORE:
        from aml_jupyter.artifacts.opening import check_url

        check_url(options.value)
    path = settings.put(level, options.key, options.value)
    overridden = level is None and settings.value(root, options.key) != options.value
    if options.json:
        facts = {"key": options.key, "value": options.value, "level": "project" if level else "user"}
        screen.json({**facts, "file": path})
    if overridden:
        screen.remark(f"aml: here {settings.file_of(root)} says otherwise, and wins")
    return 0


def _get(options: Namespace, root: str, screen: Screen) -> int:
    value = settings.value(root, options.key)
    if value is None:
        raise _not_set(options.key, "")
    if options.json:
        screen.json({"key": options.key, "value": value})
    else:
        screen.write(value + "\n")
    return 0


def _unset(options: Namespace, root: str, screen: Screen) -> int:
    level = root if options.project_level else None
    if not settings.remove(level, options.key):
        raise _not_set(options.key, f" in {settings.file_of(level)}")
    if options.json:
        screen.json({"key": options.key, "removed": True})
    return 0


def _list(options: Namespace, root: str, screen: Screen) -> int:
    found = settings.settings(root)
    if options.json:
        screen.json([one.as_dict() for one in found])
        return 0
    screen.table(
        ["setting", "value", "level"],
        [[one.key, one.value, one.level + ("" if one.effective else " (overridden)")] for one in found],
    )
    return 0


def _not_set(key: str, where: str) -> ConfigError:
    return ConfigError(f"{key} is not set{where}", code="config.not_set", hint="aml config list")


_ACTIONS = {"set": _set, "get": _get, "unset": _unset, "list": _list}
