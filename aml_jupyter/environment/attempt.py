"""One attempt at a whole environment, and the examination of its parts when that failed."""

from __future__ import annotations

import re

from aml_jupyter.environment import building, conda_packages, pip_packages
from aml_jupyter.environment.asked import pip_name, stands_on_base, too_old
from aml_jupyter.environment.lock import is_of_python
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.environment.asked import Asked
    from aml_jupyter.environment.lock import Package

_UNBUILT = "has only a source archive, which cannot be built"
TOO_OLD = "a run needs Python 3.8 or newer"


class Question(Value):
    """For what is solved: the platform and the Python of the base (None: it has none)."""

    platform: str
    base_python: str | None
    tell: Callable[[str], None]
    credentials: Mapping[str, str] = {}
    # requirements whose source archives cannot be built, with the reasons
    unbuildable: Mapping[str, str] = {}

    @property
    def only_wheels(self) -> tuple[str, ...]:
        """The packages of which no source archive is taken."""
        return tuple(sorted({pip_name(requirement) for requirement in self.unbuildable}))


class Found(Value):
    """What an attempt gave: packages and Python, or why there are none (`problem`)."""

    packages: tuple[Package, ...] = ()
    python: str = ""
    owns_python: bool = False
    problem: str = ""


class Problem(Value):
    """An item that cannot be had by itself; `kind` is `python`, `conda`, `pip` or `together`."""

    kind: str
    item: str
    reason: str


def attempt(asked: Asked, question: Question) -> Found:
    """Solve all that is asked for at once.

    Raises EnvironmentFailed where a tool is missing or a channel or index does not answer.
    """
    if too_old(asked.python):
        return Found(problem=TOO_OLD)
    if stands_on_base(asked, question.base_python):
        assert question.base_python
        found = _resolve(asked.replace(pip=_with_pip(asked)), question, question.base_python)
        if found.problem:
            return Found(problem=found.problem)
        return Found(packages=found.packages, python=_minor(question.base_python))
    return _from_channels(asked, question)


def _from_channels(asked: Asked, question: Question) -> Found:
    question.tell(f"solving conda packages ({', '.join(asked.channels)})")
    # the base's version first: what is known of the base's Python then holds in the environment too
    first = [] if asked.python or not question.base_python else [_python_spec(_minor(question.base_python))]
    wanted = [*asked.conda, _python_spec(asked.python)]
    questions = [[*wanted, *first], wanted] if first else [wanted]
    answers = _ask_channels(asked, questions, question)
    answer = next((one for one in answers if not one.problem), answers[-1])
    if answer.problem:
        return Found(problem=answer.problem)
    python = python_of(answer.packages)
    if python is None:
        return Found(problem="no package of the channels brings a Python")
    pip = _beside(asked, question, python, answer.packages)
    if pip.problem:
        return Found(problem=pip.problem)
    return Found(packages=(*answer.packages, *pip.packages), python=python, owns_python=True)


def _beside(asked: Asked, question: Question, python: str, conda: Sequence[Package]) -> pip_packages.Answer:
    """The pip packages that go with conda packages, without what these already bring."""
    have = {pip_name(package.name): package.version for package in conda if is_of_python(package)}
    constraints = [f"{name}=={version}" for name, version in have.items()]
    answer = _resolve(asked, question, python, constraints)
    if answer.problem and not answer.network:
        # pip would put its own version over conda's: so be it, where nothing else is possible
        again = _resolve(asked, question, python)
        if not again.problem:
            question.tell("pip packages replace some of the conda packages")
            answer = again
    kept = [one for one in answer.packages if have.get(pip_name(one.name)) != one.version]
    return answer.replace(packages=tuple(kept))


def _with_pip(asked: Asked) -> tuple[str, ...]:
    """The pip items and pip itself, which every conda environment has, so that `!pip` means this one."""
    asks = [item for item in asked.conda if re.match(r"pip\b", item)]
    if not asks and not asked.pip:
        return ()
    pin = asks[0].removeprefix("pip").strip() if asks else ""
    fuzzy = re.fullmatch(r"={1,2}([\d.]+)(=.*)?", pin)
    return (*asked.pip, f"pip=={fuzzy[1]}.*" if fuzzy else f"pip{pin}")


def python_of(packages: Sequence[Package]) -> str | None:
    """The version of Python among conda packages."""
    return next((package.version for package in packages if package.name == "python"), None)


def _python_spec(pin: str | None) -> str:
    if not pin:
        return "python"
    return f"python={pin}" if pin[0].isdigit() else f"python {pin}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _ask_channels(
    asked: Asked, questions: Sequence[Sequence[str]], question: Question
) -> list[conda_packages.Answer]:
    return conda_packages.solve_conda(
        asked.channels, questions, question.platform, question.tell, credentials=question.credentials
    )


def _resolve(
    asked: Asked, question: Question, python: str, constraints: Sequence[str] = ()
) -> pip_packages.Answer:
    return pip_packages.resolve(
        asked,
        python=python,
        platform=question.platform,
        tell=question.tell,
        constraints=constraints,
        credentials=question.credentials,
        only_wheels=question.only_wheels,
    )


# --- examining each item ------------------------------------------------------------------------------------


def examine(asked: Asked, question: Question, failure: str) -> tuple[list[Problem], str]:
    """Every item that cannot be had by itself, and what could not be asked; `failure` is of all together.

    Raises EnvironmentFailed where a channel or index does not answer and nothing else is known to be wrong.
    """
    question.tell("looking for the items that cannot be had")
    problems, unasked = [], ""
    if too_old(asked.python):
        problems.append(Problem(kind="python", item=_python_spec(asked.python), reason=TOO_OLD))
        asked = asked.replace(python=None)
    python = question.base_python or _here()
    if not stands_on_base(asked, question.base_python):
        try:
            found, python = _examine_conda(asked, question, python)
            problems += found
        except EnvironmentFailed as error:
            if not problems or error.code != "environment.channel_unreachable":
                raise
            unasked = error.message
    problems += _examine_pip(asked, question, python)
    if not problems:
        problems.append(Problem(kind="together", item="all of it together", reason=failure))
    return problems, unasked


def _examine_conda(asked: Asked, question: Question, python: str) -> tuple[list[Problem], str]:
    spec = _python_spec(asked.python)
    answers = _ask_channels(asked, [[spec], *([item, spec] for item in asked.conda)], question)
    alone = answers[0]
    if alone.problem:
        # without its Python every item fails; each is asked for by itself
        problems = [Problem(kind="python", item=spec, reason=alone.problem)]
        answers = [alone, *_ask_channels(asked, [[item] for item in asked.conda], question)]
    else:
        problems, python = [], python_of(alone.packages) or python
    problems += [
        Problem(kind="conda", item=item, reason=answer.problem)
        for item, answer in zip(asked.conda, answers[1:], strict=True)
        if answer.problem
    ]
    return problems, python


def _examine_pip(asked: Asked, question: Question, python: str) -> list[Problem]:
    def ask(item: str) -> pip_packages.Answer:
        return pip_packages.resolve(
            asked.replace(pip=(item,)),
            python=python,
            platform=question.platform,
            tell=lambda _: None,
            credentials=question.credentials,
            quick=True,
            only_wheels=question.only_wheels,
        )

    calls: list[Any] = [lambda item=item: ask(item) for item in asked.pip]
    problems = []
    answers = pip_packages.in_parallel(calls)
    reasons = _examine_sources(asked, question, python, answers)
    for item, answer in zip(asked.pip, answers, strict=True):
        if answer.network and "://" not in item:
            raise EnvironmentFailed(
                f"the package index cannot be read: {answer.problem}",
                code="environment.channel_unreachable",
                hint="Set a proxy (HTTPS_PROXY) or another index (UV_DEFAULT_INDEX, or --index-url in the "
                "pip section), then try again.",
            )
        reason = reasons.get(pip_name(item)) or answer.problem
        if reason:
            problems.append(Problem(kind="pip", item=item, reason=reason.removeprefix(f"{item} ")))
    return problems


def _examine_sources(
    asked: Asked, question: Question, python: str, answers: Sequence[pip_packages.Answer]
) -> dict[str, str]:
    """Why items that only have a source archive cannot be built, by name, where that is or can be known."""
    reasons = {pip_name(requirement): requirement for requirement in question.unbuildable}
    found = {
        name: f"{requirement} {_UNBUILT}: {question.unbuildable[requirement]}"
        for item, answer in zip(asked.pip, answers, strict=True)
        if answer.problem and (requirement := reasons.get(name := pip_name(item)))
    }
    if not building.is_this_python(python, question.platform):
        return found
    names = {pip_name(item) for item in asked.pip}
    sources = {
        pip_name(package.name): package
        for answer in answers
        for package in answer.packages
        if building.is_source(package) and pip_name(package.name) in names
    }
    if sources:
        listed = ", ".join(f"{one.name}=={one.version}" for one in sources.values())
        question.tell(f"trying to build what has only a source archive: {listed}")
    tried = pip_packages.build_each(asked, [*sources.values()], question.credentials)
    for (name, package), reason in zip(sources.items(), tried, strict=True):
        if reason:
            found[name] = f"{package.name}=={package.version} {_UNBUILT}: {reason}"
    return found


def _here() -> str:
    import sys

    return f"{sys.version_info.major}.{sys.version_info.minor}"
