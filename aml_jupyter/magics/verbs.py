"""`%aml VERB`: the verbs of the command, shown as a notebook shows things."""

from __future__ import annotations

import io
from html import escape

from aml_jupyter import runs
from aml_jupyter.commands import HelpShown, build, execute, split_after_dashes
from aml_jupyter.commands.screen import Screen
from aml_jupyter.config import aml_home, find_project
from aml_jupyter.errors import RunFailed
from aml_jupyter.experiment import SWEEP
from aml_jupyter.magics.live import TAIL, TEXT_BUDGET
from aml_jupyter.magics.options import words_of
from aml_jupyter.magics.page import Page
from aml_jupyter.printable import page_text, safe_name, safe_text, shown_size
from aml_jupyter.run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from aml_jupyter.runs import RunDirectory

# verbs whose exit status is that of a run
_STATUS_OF_RUN = ("wait", "experiment")


def do(shell: Any, line: str) -> None:
    """Do one line."""
    page = Page(shell)
    words = [_this_cell(word, page) for word in words_of(line)]
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if verb == "run":
        from aml_jupyter.magics.submit import run_line

        run_line(shell, line.strip()[len("run") :])
    elif verb == "rerun" and "--json" not in rest:
        from aml_jupyter.magics.again import rerun

        rerun(page, rest)
    elif verb == "attach":
        _attach(page, rest)
    elif verb == "show" and "--json" not in rest:
        _show(page, rest)
    elif verb in ("diff", "compare") and "--json" not in rest:
        _compare(page, verb, rest)
    else:
        _execute(page, words)


def _this_cell(word: str, page: Page) -> str:
    """`@cell` as a run id: only here is it known which cell asks."""
    if word != "@cell":
        return word
    return runs.find(word, aml_home(), find_project(), cell_id=page.cell_id()).run_id


def _attach(page: Page, words: list[str]) -> None:
    directory = _run_of("attach", words, "run")
    if directory is None:
        return
    if runs.load_record(directory).kind == SWEEP:
        from aml_jupyter.magics import sweep

        sweep.attach(page, directory)
        return
    from aml_jupyter.cell import outputs_of
    from aml_jupyter.magics.live import Live
    from aml_jupyter.magics.submit import Interrupts, attend

    page.define({"_run": Run(directory)})
    live = Live(page, directory, outputs=outputs_of(directory.job))
    with Interrupts() as interrupts:
        attend(page, directory, live, interrupts)


def _show(page: Page, words: list[str]) -> None:
    directory = _run_of("show", words, "run_reference")
    if directory is None:
        return
    if runs.load_record(directory).kind == SWEEP:
        from aml_jupyter.magics import sweep

        sweep.show(page, directory)
        return
    page.publish(Run(directory)._repr_mimebundle_(), display_id=f"aml-card-{directory.run_id}")
    from aml_jupyter.commands.assets import lineage_bundle
    from aml_jupyter.commands.history import verdict_of

    if lineage := lineage_bundle(directory):
        page.publish(lineage, display_id=f"aml-lineage-{directory.run_id}")
    verdict = verdict_of(directory)
    if verdict is not None:
        from aml_jupyter.portability.shown import bundle

        page.publish(bundle(verdict), display_id=f"aml-verdict-{verdict.experiment_id}")


def _compare(page: Page, verb: str, words: list[str]) -> None:
    from aml_jupyter.commands.compare import comparison_of
    from aml_jupyter.compare.page import html
    from aml_jupyter.compare.plain import text

    parser, _ = build(verb, prog="%aml")
    try:
        options = parser.parse_args(split_after_dashes(words)[0])
    except HelpShown:
        return
    found = comparison_of(options)
    page.publish({"text/html": html(found, every=options.all), "text/plain": text(found, every=options.all)})


def _run_of(verb: str, words: list[str], name: str) -> RunDirectory | None:
    from aml_jupyter.commands.watch import find_run

    parser, _ = build(verb, prog="%aml")
    try:
        options = parser.parse_args(split_after_dashes(words)[0])
    except HelpShown:
        return None
    return find_run(getattr(options, name))


def _execute(page: Page, words: list[str]) -> None:
    screen = NotebookScreen(page)
    try:
        status = execute(words, screen, prog="%aml")
    except KeyboardInterrupt:
        if not words or words[0] != "logs":
            raise
        status = 0  # who follows a log has seen enough of it
    finally:
        screen.finish()
    if status and words and words[0] == "exec":
        raise RunFailed(f"the program ended with exit status {status}", exit_code=status)
    if status and words and words[0] in _STATUS_OF_RUN:
        raise RunFailed("the run did not complete", hint="%aml show @last", exit_code=status)


class NotebookScreen(Screen):
    """Writes below a cell; of a long text the first 256 KiB and its end."""

    def __init__(self, page: Page) -> None:
        super().__init__(io.StringIO(), io.StringIO())
        self.page = page
        self.stream, self.waiting = "stdout", ""
        self.printed = 0
        self.end = ""
        self.hidden = 0

    @property
    def interactive(self) -> bool:
        """A person reads it, in a notebook as on the terminal that IPython runs on."""
        return True

    def write(self, text: str) -> None:
        """Print data."""
        self._print("stdout", text)

    def output(self, stream: str, text: str) -> None:
        """Print what a run printed, at once."""
        self._print(stream, safe_text(text))
        self.flush()

    def remark(self, text: str) -> None:
        """Tell something; not on standard error, which a notebook shows as if something were wrong."""
        self._print("stdout", safe_text(text) + "\n")

    def progress(self, text: str) -> None:
        """Tell at once what is being done."""
        self.remark(text)
        self.flush()

    def become(self, words: Sequence[str], variables: Mapping[str, str], folder: str | None) -> int:
        """Run a program below the cell: the kernel stays what it is."""
        from aml_jupyter.magics.program import run

        return run(words, variables, folder, self, self.page)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """Show rows below their columns."""
        self.flush()
        text = _Table()
        text.table(columns, rows)
        self.page.publish({"text/html": table_html(columns, rows), "text/plain": text.found.rstrip("\n")})

    def _print(self, stream: str, text: str) -> None:
        room = max(0, TEXT_BUDGET - self.printed)
        if stream != self.stream or len(self.waiting) > TAIL:
            self.flush()
        self.stream = stream
        self.waiting += text[:room]
        self.printed += len(text[:room])
        if rest := text[room:]:
            self.hidden += len(rest)
            self.end = (self.end + rest)[-TAIL:]

    def flush(self) -> None:
        """Send what was printed so far."""
        if self.waiting:
            self.page.write(self.stream, self.waiting)
            self.waiting = ""

    def finish(self) -> None:
        """Print the end of what was too long."""
        self.flush()
        if self.hidden:
            left = self.hidden - len(self.end)
            if left:
                self.page.write("stdout", f"\n… {shown_size(left)} more; a terminal shows all …\n")
            self.page.write("stdout", self.end)
            self.hidden, self.end = 0, ""


class _Table(Screen):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), io.StringIO())
        self.found = ""

    def write(self, text: str) -> None:
        """Keep it."""
        self.found += text


def table_html(columns: list[str], rows: list[list[str]]) -> str:
    """Rows as an HTML table; every word is escaped."""
    head = "".join(f'<th scope="col" style="text-align:left">{_cell(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{_cell(one)}</td>' for one in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return escape(page_text(safe_name(text)))
