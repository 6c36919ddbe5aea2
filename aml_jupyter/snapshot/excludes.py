"""What is left out of a snapshot and why: built-in excludes, ignore files, options, in that order.

    Context      the rules that hold in one folder; `Context.below` is that of a folder in it
    Verdict      in or out, the reason in words, the rule and where it stands

`.git`, the top-level `outputs` and the run store are never sent. What is left out as a credential, a virtual
environment, a checkpoint or a cache comes back in by an `.amlignore` line or an `--include` that names it;
`!*/` and the like name nothing and do not.
"""

from __future__ import annotations

import os

from aml_jupyter.snapshot.ignore import Rule, RuleList, parse, parse_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IGNORE_FILES = (".gitignore", ".amlignore")
IGNORE_LIMIT = 4 << 20

_NEVER_SENT = {
    "git's own folder": ".git",
    "outputs of earlier runs": "/outputs",
}
_LEFT_OUT = {
    "credentials": """
        .env .env.* !.env.example !.env.sample !.env.template !.env.dist *.env.local .envrc
        *.pem *.p12 *.pfx *.jks *.keystore *.kdbx *.ppk *.key !*.pub.pem !*.pub.key
        id_rsa id_dsa id_ecdsa id_ed25519 id_*_sk
        .aws/credentials .aws/config .azure/ .ssh/ .gnupg/ .kube/config .docker/config.json
        .netrc _netrc .pgpass .my.cnf .pypirc .npmrc .yarnrc.yml .dockercfg .dockerconfigjson .git-credentials
        .htpasswd .vault-token .databrickscfg .boto .s3cfg credentials.csv *_accessKeys.csv
        service-account*.json service_account*.json application_default_credentials.json
        kaggle.json client_secret*.json secrets.toml secrets.yml secrets.yaml secrets.json
        terraform.tfstate terraform.tfstate.backup *.tfvars
    """,
    "virtual environment": ".venv/ venv/ .conda/ .pixi/ .virtualenv/ __pypackages__/",
    "notebook checkpoint": ".ipynb_checkpoints/",
    "cache": """
        __pycache__/ *.py[cod] .pytest_cache/ .mypy_cache/ .ruff_cache/ .pytype/ .hypothesis/ .tox/ .nox/
        .cache/ .eggs/ *.egg-info/ node_modules/ .DS_Store Thumbs.db .sass-cache/ .parcel-cache/ .dvc/cache/
    """,
    "version control": ".hg/ .svn/ .bzr/ CVS/",
    "editor state": "*~ .*.swp .#*",
    "history of Azure ML Workbench": ".azuremlhistory_git/ /azureml-logs/ /azureml-setup/",
}


class Verdict:
    """Whether a path is sent, why, and by which rule."""

    __slots__ = ("included", "passage", "reason", "rule")

    def __init__(
        self, included: bool, reason: str = "", rule: Rule | None = None, *, passage: bool = False
    ) -> None:
        self.included = included
        self.passage = passage  # only entered for what an --include names below it
        self.reason = reason
        self.rule = rule


_IN = Verdict(True)


def _builtin(kinds: dict[str, str]) -> RuleList:
    rules = []
    for reason, patterns in kinds.items():
        for pattern in patterns.split():
            rule = parse_line(pattern.encode(), reason)
            assert rule is not None
            rules.append(rule)
    return RuleList(rules)


_never: RuleList | None = None
_left_out: RuleList | None = None


def _never_sent() -> RuleList:
    global _never  # noqa: PLW0603 - compiled at the first use, 2 ms
    if _never is None:
        _never = _builtin(_NEVER_SENT)
    return _never


def usually_left_out() -> RuleList:
    """The built-in rules that an ignore file may overrule by name."""
    global _left_out  # noqa: PLW0603 - as above
    if _left_out is None:
        _left_out = _builtin(_LEFT_OUT)
    return _left_out


def usually_out(path: str) -> bool:
    """Whether the built-in rules leave out a file of the project, or a folder it lies in."""
    rules = usually_left_out()
    raw = os.fsencode(path)
    ends = [at for at, byte in enumerate(raw) if byte == 47]
    above = ((raw[:end], True) for end in ends)
    for part, is_folder in (*above, (raw, False)):
        rule = rules.last(part.rpartition(b"/")[2], part, is_folder)
        if rule is not None and not rule.negated:
            return True
    return False


class Context:
    """The rules in one folder, deepest file first; folders without ignore files share their parent's.

    `closed` is the verdict that would have left the folder out, had not an `--include` named something in it.
    """

    __slots__ = ("_aml", "_closed", "_fixed", "_git", "_never", "_out", "_plain")

    def __init__(
        self,
        fixed: Fixed,
        git: tuple[RuleList, ...] = (),
        aml: tuple[RuleList, ...] = (),
        closed: Verdict | None = None,
    ) -> None:
        self._fixed = fixed
        self._git = git
        self._aml = aml
        self._closed = closed
        self._plain = not (aml or closed or fixed.options or fixed.leave_out)
        self._never = _never_sent()
        self._out = usually_left_out()

    def below(self, path: str, files: dict[str, bytes]) -> Context:
        """The context of folder `path` that holds these ignore files."""
        closed = None
        if path in self._fixed.passages:
            verdict = self.decide(path.rpartition("/")[2], path, True)
            closed = verdict if verdict.passage else None
        if not files and closed is self._closed:
            return self
        lists = {}
        for name, text in files.items():
            source = f"{path}/{name}" if path else name
            lists[name] = (RuleList(parse(text, source), os.fsencode(path)),)
        git = lists.get(".gitignore", ()) + self._git
        return Context(self._fixed, git, lists.get(".amlignore", ()) + self._aml, closed)

    def sends(self, name: str, path: str, is_folder: bool) -> bool:
        """Whether an entry of this folder is sent; the short form of `decide`."""
        if not self._plain:
            return self.decide(name, path, is_folder).included
        raw_name, raw = os.fsencode(name), os.fsencode(path)
        if self._never.last(raw_name, raw, is_folder) is not None:
            return False
        rule = self._out.last(raw_name, raw, is_folder)
        if rule is not None and not rule.negated:
            return False
        if not self._git:
            return True
        rule = _last(self._git, raw_name, raw, is_folder)
        return rule is None or rule.negated

    def decide(self, name: str, path: str, is_folder: bool) -> Verdict:
        """Whether an entry of this folder is sent, with the reason."""
        raw_name, raw = os.fsencode(name), os.fsencode(path)
        rule = self._never.last(raw_name, raw, is_folder)
        if rule is not None:
            return Verdict(False, rule.source, rule)
        if path in self._fixed.leave_out:
            return Verdict(False, "left out by the caller")
        verdict = self._by_rules(raw_name, raw, is_folder)
        if is_folder and not verdict.included and path in self._fixed.passages:
            return Verdict(True, verdict.reason, verdict.rule, passage=True)
        return verdict

    def _by_rules(self, name: bytes, path: bytes, is_folder: bool) -> Verdict:
        mine = self._fixed.options if self._closed is not None else (*self._fixed.options, *self._aml)
        chosen = _last(mine, name, path, is_folder)
        if chosen is not None and (not chosen.negated or chosen.named):
            return _verdict(chosen)
        if self._closed is not None:
            return Verdict(False, self._closed.reason, self._closed.rule)
        rule = self._out.last(name, path, is_folder)
        if rule is not None and not rule.negated:
            return Verdict(False, rule.source, rule)
        rule = chosen or _last(self._git, name, path, is_folder)
        return _IN if rule is None else _verdict(rule)

    def environment(self, path: str, names: Iterable[str]) -> Verdict | None:
        """The verdict on a folder that turns out to be a virtual environment; None for any other folder."""
        marker = next((name for name in names if name in ("pyvenv.cfg", "conda-meta/")), None)
        if marker is None or not path:
            return None
        verdict = self.decide(path.rpartition("/")[2], path, True)
        if verdict.rule is not None and verdict.rule.negated and verdict.rule.named:
            return None
        rule = Rule(marker.encode(), "virtual environment", 0, negated=False, folder_only=False)
        return Verdict(False, "virtual environment", rule)


def _last(lists: Iterable[RuleList], name: bytes, path: bytes, is_folder: bool) -> Rule | None:
    for rules in lists:
        rule = rules.last(name, path, is_folder)
        if rule is not None:
            return rule
    return None


def _verdict(rule: Rule) -> Verdict:
    return Verdict(rule.negated, "let in" if rule.negated else "ignored", rule)


class Fixed:
    """What holds in the whole project: options, and the paths that the caller leaves out."""

    __slots__ = ("leave_out", "options", "passages")

    def __init__(self, include: Sequence[str], exclude: Sequence[str], leave_out: Sequence[str]) -> None:
        lines = [(b"!" + os.fsencode(text), "--include") for text in include]
        lines += [(os.fsencode(text), "--exclude") for text in exclude]
        rules = [rule for text, source in lines if (rule := parse_line(text, source)) is not None]
        self.options = (RuleList(rules),) if rules else ()
        self.leave_out = frozenset(leave_out)
        self.passages = frozenset(folder for text in include for folder in _above(text))


def _above(pattern: str) -> list[str]:
    """The folders that must be entered to reach what a pattern with a literal start names."""
    parts = pattern.strip("/").split("/")[:-1]
    literal = []
    for part in parts:
        if any(char in part for char in "*?[\\"):
            break
        literal.append(part)
    return ["/".join(literal[: depth + 1]) for depth in range(len(literal))]
