"""`aml targets`, `config`, `computetarget`, `runconfiguration`: the files of aml_config/."""

from __future__ import annotations

from aml_jupyter.commands import parse_pair
from aml_jupyter.commands.submit import project_of
from aml_jupyter.config import aml_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen


BUILT_IN = "(built in)"


def arguments_targets(parser: ArgumentParser) -> None:
    """Options of `aml targets`."""
    parser.add_argument("--project", metavar="DIR")
    parser.add_argument("--json", action="store_true")


def do_targets(options: Namespace, screen: Screen) -> int:
    """List compute targets and the run configurations that use them."""
    from aml_jupyter.config import listing

    project = project_of(options)
    targets, configurations = listing.compute_targets(project), listing.run_configurations(project)
    if options.json:
        screen.json({"targets": targets, "run_configurations": configurations})
        return 0
    used = {
        one["name"]: ", ".join(c["name"] for c in configurations if c.get("target") == one["name"])
        for one in targets
    }
    screen.table(
        ["target", "kind", "run configurations", "file"],
        [
            [t["name"], t.get("kind") or "-", used[t["name"]] or "-", t.get("file") or "(built in)"]
            for t in targets
        ],
    )
    for one in [*targets, *configurations]:
        for text in [*one.get("warnings", ()), *filter(None, [one.get("error")])]:
            screen.remark(f"aml: {text}")
    return 0


def arguments_config(parser: ArgumentParser) -> None:
    """Options of `aml config`."""
    parser.add_argument("--project", metavar="DIR")
    parser.add_argument("--json", action="store_true")


def do_config(options: Namespace, screen: Screen) -> int:
    """Show where everything is."""
    project = project_of(options)
    facts = {
        "AML_HOME": aml_home(),
        "project": project.root,
        "account": project.account,
        "workspace": project.workspace,
        "name": project.name,
        "named_by": project.scope_file or "the folder's name",
        "runs": f"{aml_home()}/runs/{project.key}",
    }
    if options.json:
        screen.json(facts)
    else:
        screen.table(["what", "where"], [[name, str(value)] for name, value in facts.items()])
    return 0


def arguments_computetarget(parser: ArgumentParser) -> None:
    """`aml computetarget attach KIND -n NAME ...`, `detach -n NAME`, `list`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="attach|detach|list")
    attach = actions.add_parser("attach", help="write NAME.compute and NAME.runconfig")
    attach.add_argument("kind", help="local, docker, remotedocker, remote or cluster")
    attach.add_argument("-n", "--name", required=True)
    attach.add_argument("-a", "--address", help="host or host:port")
    attach.add_argument("-u", "--username")
    attach.add_argument("--set", action="append", default=[], type=parse_pair, metavar="KEY=VALUE",
                        help="another key of the file")  # fmt: skip
    detach = actions.add_parser("detach", help="remove NAME.compute and NAME.runconfig")
    detach.add_argument("-n", "--name", required=True)
    for action in (attach, detach, actions.add_parser("list")):
        action.add_argument("-p", "--project", metavar="DIR")
        action.add_argument("--json", action="store_true")


def do_computetarget(options: Namespace, screen: Screen) -> int:
    """Attach, detach and list compute targets."""
    if options.action == "list":
        return do_targets(options, screen)
    from aml_jupyter.config import edit

    project = project_of(options)
    if options.action == "attach":
        given = {"address": options.address, "username": options.username, **dict(options.set)}
        written = edit.attach(
            project,
            options.name,
            options.kind,
            **{key: value for key, value in given.items() if value is not None},
        )
    else:
        written = edit.detach(project, options.name)
    for path in written:
        screen.write(f"{path}\n")
    return 0


def arguments_runconfiguration(parser: ArgumentParser) -> None:
    """`aml runconfiguration create NAME -t TARGET`, `list`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list")
    create = actions.add_parser("create", help="write NAME.runconfig")
    create.add_argument("name")
    create.add_argument("-t", "--target", required=True, help="the compute target it runs on")
    create.add_argument("--set", action="append", default=[], type=parse_pair, metavar="KEY=VALUE")
    for action in (create, actions.add_parser("list")):
        action.add_argument("-p", "--project", metavar="DIR")
        action.add_argument("--json", action="store_true")


def do_runconfiguration(options: Namespace, screen: Screen) -> int:
    """Create and list run configurations."""
    project = project_of(options)
    if options.action == "create":
        from aml_jupyter.config import edit

        written = edit.create_run_configuration(project, options.name, options.target, dict(options.set))
        screen.write(f"{written}\n")
        return 0
    from aml_jupyter.config import listing

    found = listing.run_configurations(project)
    if options.json:
        screen.json(found)
    else:
        screen.table(
            ["run configuration", "target", "framework", "file"],
            [
                [c["name"], c.get("target") or "-", c.get("framework") or "-", c.get("file") or "(built in)"]
                for c in found
            ],
        )
    return 0
