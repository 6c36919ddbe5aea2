"""Which names a piece of Python takes from outside: by scope, and by the order in which module code runs."""

# ruff: noqa: N815 - the names of visitor methods are given by `ast`
from __future__ import annotations

import ast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def names_taken(tree: ast.Module) -> dict[str, int]:
    """Names that the code reads before it may have given them a value, with the line of the first reading.

    A name given a value in one branch counts as given afterwards, and one given anywhere in a loop counts
    within the whole loop.  What a function reads is looked up when it is called: only names that the code
    never gives a value are taken by it.
    """
    reader = _Reader()
    reader.body(tree.body)
    for name, line in reader.later.items():
        if name not in reader.given and "*" not in reader.given:
            reader.taken.setdefault(name, line)
    return dict(sorted(reader.taken.items(), key=lambda item: item[1]))


class _Reader(ast.NodeVisitor):
    """Walks module-level code in the order in which it runs."""

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.taken: dict[str, int] = {}
        self.later: dict[str, int] = {}
        self.guarded = 0  # inside a `try` whose handler expects a missing name

    def body(self, statements: Iterable[ast.AST]) -> None:
        for statement in statements:
            self.visit(statement)

    def read(self, name: str, line: int) -> None:
        if name not in self.given and not self.guarded:
            self.taken.setdefault(name, line)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read(node.id, node.lineno)
        else:
            self.given.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.body(node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read(node.target.id, node.lineno)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.visit(node.target)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.given |= _imported(node)
        if "*" in self.given:
            self.guarded += 1  # it may define anything

    visit_ImportFrom = visit_Import

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.visit(node.target)
        self._loop(node.body)
        self.body(node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.given |= _assigned(node.body)
        self.visit(node.test)
        self._loop(node.body)
        self.body(node.orelse)

    def _loop(self, statements: list[ast.stmt]) -> None:
        first = statements[0] if statements else None
        # the very first statement runs before the loop has given anything a value
        if isinstance(first, ast.AugAssign):
            self.visit(first)
        self.given |= _assigned(statements)
        self.body(statements)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self.body(node.body)

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        expected = any(_expects_missing(handler) for handler in node.handlers)
        self.guarded += expected
        self.body(node.body)
        self.guarded -= expected
        for handler in node.handlers:
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name:
                self.given.add(handler.name)
            self.body(handler.body)
        self.body(node.orelse)
        self.body(node.finalbody)

    visit_TryStar = visit_Try

    def _capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self.generic_visit(node)
        self.given |= _captured(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _capture

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.body(node.decorator_list)
        self.body(_defaults(node.args))
        self.body(_annotations(node))
        self._defer(node)
        self.given.add(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.body(_defaults(node.args))
        self._defer(node)

    def _defer(self, node: ast.AST) -> None:
        for name, line in _free(node, set()).items():
            self.later.setdefault(name, line)
        self.given |= _declared_global(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.body(node.decorator_list)
        self.body(node.bases)
        self.body(keyword.value for keyword in node.keywords)
        inner = _Reader()
        inner.given = self.given | _type_parameters(node) | {"__qualname__", "__module__"}
        inner.guarded = self.guarded
        inner.body(node.body)
        for name, line in inner.taken.items():
            self.taken.setdefault(name, line)
        for name, line in inner.later.items():  # methods do not see the names of the class
            self.later.setdefault(name, line)
        self.given.add(node.name)

    def _comprehension(self, node: ast.AST) -> None:
        for name, line in _free(node, set()).items():
            self.read(name, line)
        self.given |= _walrus_targets(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_TypeAlias(self, node: ast.AST) -> None:  # 3.12 and later; looked up when it is asked for
        for name, line in _free(node, set()).items():
            self.later.setdefault(name, line)
        self.given |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and not _is_load(one)}


def _expects_missing(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {one.id for one in ast.walk(handler.type) if isinstance(one, ast.Name)}
    return bool(names & {"NameError", "Exception", "BaseException"})


def _annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    arguments = node.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    found = [one.annotation for one in every if one is not None and one.annotation is not None]
    parameters = _type_parameters(node)
    found += [node.returns] if node.returns is not None else []
    return [one for one in found if not parameters & _loaded(one)]


def _is_load(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _loaded(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _type_parameters(node: ast.AST) -> set[str]:
    return {one.name for one in getattr(node, "type_params", ())}


def _assigned(statements: Iterable[ast.AST]) -> set[str]:
    """Names that statements may give a value, not counting what lies in scopes of their own."""
    reader = _Reader()
    reader.guarded = 1
    reader.body(statements)
    return reader.given


def _declared_global(node: ast.AST) -> set[str]:
    return {name for one in ast.walk(node) if isinstance(one, ast.Global) for name in one.names}


def _free(node: ast.AST, enclosing: set[str]) -> dict[str, int]:
    """Names that a function, lambda or comprehension reads and neither it nor an enclosing scope binds."""
    collector = _Scope(enclosing)
    collector.enter(node)
    return collector.free()


class _Scope(ast.NodeVisitor):
    """The names of one scope that is not the module."""

    def __init__(self, enclosing: set[str]) -> None:
        self.enclosing = enclosing
        self.bound: set[str] = set()
        self.outer: set[str] = set()
        self.loads: dict[str, int] = {}
        self.inner: list[ast.AST] = []
        self.is_class = False

    def enter(self, node: ast.AST) -> None:
        self.bound |= _type_parameters(node)
        self.is_class = isinstance(node, ast.ClassDef)
        if isinstance(node, _FUNCTIONS):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
            self.bound.update(one.arg for one in every)
            self._visit_all([node.body] if isinstance(node, ast.Lambda) else node.body)
        elif isinstance(node, ast.ClassDef):
            self._visit_all(node.body)
        else:
            self.generic_visit(node)

    def free(self) -> dict[str, int]:
        own = self.bound - self.outer
        found = {name: line for name, line in self.loads.items() if name not in self.enclosing | own}
        # what a class binds is not seen by the functions in it
        visible = self.enclosing if self.is_class else self.enclosing | own
        for node in self.inner:
            seen = self.enclosing | own if isinstance(node, _COMPREHENSIONS) else visible
            for name, line in _free(node, seen | {"__class__"}).items():
                found.setdefault(name, line)
        return found

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.loads.setdefault(node.id, node.lineno)
        else:
            self.bound.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bound.add(node.name)
        self._visit_all(node.decorator_list)
        self._visit_all(_defaults(node.args))
        self._visit_all(_annotations(node))
        self.inner.append(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all(_defaults(node.args))
        self.inner.append(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bound.add(node.name)
        self._visit_all(node.decorator_list)
        self._visit_all(node.bases)
        self._visit_all(keyword.value for keyword in node.keywords)
        self.inner.append(node)

    def _comprehension(self, node: ast.AST) -> None:
        self.inner.append(node)
        self.bound |= _walrus_targets(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.bound |= _imported(node)

    visit_ImportFrom = visit_Import

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bound.add(node.name)
        self.generic_visit(node)

    def _capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self.bound |= _captured(node)
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _capture

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.outer.update(node.names)

    visit_Nonlocal = visit_Global

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *(default for default in arguments.kw_defaults if default is not None)]


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return {alias.asname or alias.name for alias in node.names}


def _captured(node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> set[str]:
    name = node.rest if isinstance(node, ast.MatchMapping) else node.name
    return {name} if name else set()


def _walrus_targets(node: ast.AST) -> set[str]:
    return {one.target.id for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
