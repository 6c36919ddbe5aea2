"""`aml config`, `computetarget`, `runconfiguration`: the files of aml_config/."""

from __future__ import annotations

from argparse import SUPPRESS

from aml_jupyter.commands import add_json, parse_pair
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.targets import BUILT_IN, list_targets, tell_listed
from aml_jupyter.config import Target, aml_home, listing
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project


def arguments_config(parser: ArgumentParser) -> None:
    """Options of `aml config`."""
    parser.add_argument(
        "--project", metavar="DIR", help="the project; found from the working folder unless said"
    )
    parser.add_argument("--name", metavar="NAME", help="name the project for good, in .azureml/project.json")
    add_json(parser)
    actions = parser.add_subparsers(dest="action", metavar="set|get|unset|list")
    change = actions.add_parser("set", help="change a setting")
    get = actions.add_parser("get", help="print a setting")
    unset = actions.add_parser("unset", help="forget a setting")
    for action in (change, get, unset):
        action.add_argument("key", metavar="KEY", help="such as image.NAME")
    change.add_argument("value", metavar="VALUE", help="its value")
    for action in (change, unset):
        action.add_argument("--project-level", action="store_true", help="in the project's own file")
    for action in (change, get, unset, actions.add_parser("list", help="print all settings")):
        # what was said before the action is not said anew by its default
        action.add_argument("--project", metavar="DIR", default=SUPPRESS, help="the project")
        action.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")


def do_config(options: Namespace, screen: Screen) -> int:
    """Show where everything is; settings."""
    project = project_of(options)
    if options.action:
        from aml_jupyter.commands import preferences

        return preferences.do(options, project.root, screen)
    if options.name:
        from aml_jupyter.config import edit

        project = edit.name_project(project, options.name)
    home = aml_home()
    facts = {
        "AML_HOME": home,
        "project": project.root,
        "account": project.account,
        "workspace": project.workspace,
        "name": project.name,
        "named_by": project.scope_file or "the folder's name",
        "runs": f"{home}/runs/{project.key}",
    }
    if options.json:
        screen.json(facts)
    else:
        screen.table(["what", "where"], [[name, str(value)] for name, value in facts.items()])
    if project.notice:
        screen.remark(f"aml: {project.notice}")
    return 0


def arguments_computetarget(parser: ArgumentParser) -> None:
    """`aml computetarget attach KIND -n NAME ...`, `detach -n NAME`, `list`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="attach|detach|list")
    attach = actions.add_parser("attach", help="write NAME.compute and NAME.runconfig")
    attach.add_argument("kind", nargs="?", help="local, docker, remotedocker, remote or cluster")
    attach.add_argument("-n", "--name", required=True, help="the name of the target")
    attach.add_argument("-a", "--address", help="host or host:port")
    attach.add_argument("-u", "--username", help="the user on that machine")
    _add_2017(attach)
    attach.add_argument("--set", action="append", default=[], type=parse_pair, metavar="KEY=VALUE",
                        help="another key of the file")  # fmt: skip
    detach = actions.add_parser("detach", help="remove NAME.compute and NAME.runconfig")
    detach.add_argument("-n", "--name", required=True, help="the name of the target")
    for action in (attach, detach, actions.add_parser("list")):
        action.add_argument("-p", "--project", metavar="DIR", help="the project")
        add_json(action)


def _add_2017(attach: ArgumentParser) -> None:
    """Options of older versions, and those for credentials."""
    add = attach.add_argument
    add("--type", dest="kind_2017", metavar="KIND", help="the kind, as until December 2017")
    add("--cluster", dest="kind_2017", action="store_const", const="cluster", help="the kind cluster")
    add("-w", "--password", nargs="?", const="", metavar="PASSWORD",
        help="ask for the password and keep it in the keyring; others can read a command line")  # fmt: skip
    add("-k", "--use-azureml-ssh-key", action="store_true",
        help="not needed any more: your own SSH keys and agent are used")  # fmt: skip
    add("--private-key-file", metavar="FILE", help="the SSH key to use, where it is not ssh's own choice")
    add("--private-key-passphrase", metavar="TEXT", help="not taken: an SSH agent holds the opened key")


def do_computetarget(options: Namespace, screen: Screen) -> int:
    """Attach, detach and list compute targets."""
    if options.action == "list":
        return list_targets(options, screen)
    from aml_jupyter.config import edit

    project = project_of(options)
    if options.action == "attach":
        paths = _attach(project, options, screen)
    else:
        paths = edit.detach(project, options.name)
    return _show_paths(paths, options, screen)


def _attach(project: Project, options: Namespace, screen: Screen) -> Iterable[str]:
    """Write the files of a target; a password goes into the keyring and into no file.  Raises AmlError."""
    from aml_jupyter.config import edit

    kind = options.kind or options.kind_2017
    if not kind:
        raise UsageError(
            "aml computetarget attach: no kind is named", hint="Such as: attach remotedocker -n NAME -a HOST"
        )
    if options.private_key_passphrase is not None:
        raise UsageError(
            "a passphrase is not given on a command line, where others can read it",
            hint="Open the key once for all runs: ssh-add FILE",
        )
    keys = {
        "address": options.address,
        "username": options.username,
        "private_key": options.private_key_file,
        "password": None if options.password is None else "prompt",
        **_keys(options.set),
    }
    if options.password is not None and not options.address:
        raise UsageError(
            "aml computetarget attach -w: whose password is it?", hint="Name the machine: -a HOST"
        )
    paths = edit.attach(project, options.name, kind, **{k: v for k, v in keys.items() if v is not None})
    if options.password is not None:
        _keep_password(options, screen)
    return paths


def _keep_password(options: Namespace, screen: Screen) -> None:
    """Put a password that was typed into the keyring.  Raises UsageError, ConfigError."""
    from aml_jupyter import credentials
    from aml_jupyter.config import Secret

    host = Target(name=options.name, kind="remotedocker", address=options.address).host or ""
    login = credentials.entry(host, options.username)
    password = Secret(options.password) if options.password else credentials.ask(f"Password of {login}: ")
    if password is None:
        raise UsageError(
            f"no password was given for {login}",
            hint=f"Type it in a terminal, or set {credentials.variable(options.name)} where you submit.",
        )
    if options.password:
        screen.remark(
            "aml: a password on a command line can be read by others while it runs, and stays in the shell's"
            " history: -w without it asks"
        )
    credentials.keep(options.name, host, options.username, password)


def _keys(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Keys and values for a file, `true` and `false` as such.  Raises UsageError for a password."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name.lower() == "password":
            raise UsageError(
                "a password is not given on a command line, where others can read it",
                hint="Write the line  password: ...  into the .compute file, or use an SSH key.",
            )
        found[name] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def _show_paths(paths: Iterable[str], options: Namespace, screen: Screen) -> int:
    if options.json:
        screen.json(list(paths))
    else:
        for path in paths:
            screen.path(path)
    return 0


def arguments_runconfiguration(parser: ArgumentParser) -> None:
    """`aml runconfiguration create NAME -t TARGET`, `list`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list")
    create = actions.add_parser("create", help="write NAME.runconfig")
    create.add_argument("name", nargs="?", help="the name of the run configuration")
    create.add_argument("-n", "--name", dest="named", metavar="NAME", help="the same")
    create.add_argument("-t", "--target", required=True, help="the compute target it runs on")
    create.add_argument("--set", action="append", default=[], type=parse_pair, metavar="KEY=VALUE",
                        help="another key of the file")  # fmt: skip
    for action in (create, actions.add_parser("list")):
        action.add_argument("-p", "--project", metavar="DIR", help="the project")
        add_json(action)


def do_runconfiguration(options: Namespace, screen: Screen) -> int:
    """Create and list run configurations."""
    project = project_of(options)
    if options.action == "create":
        from aml_jupyter.config import edit

        name = options.name or options.named
        if not name:
            raise UsageError(
                "aml runconfiguration create: no name is given", hint="Such as: create gpu -t box"
            )
        path = edit.create_run_configuration(project, name, options.target, _keys(options.set))
        return _show_paths([path], options, screen)
    found = listing.run_configurations(project)
    if options.json:
        screen.json(found)
        return 0
    screen.table(
        ["run configuration", "target", "framework", "file"],
        [[c["name"], c["target"] or "-", c["framework"] or "-", c["file"] or BUILT_IN] for c in found],
    )
    tell_listed(found, screen)
    return 0
