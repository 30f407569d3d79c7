"""Run the body of a cell magic as if it were the cell: in the user's namespace, the last expression as its value."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("compile_cell",)


def compile_cell(shell: Any, cell: str) -> Callable[[], Any]:
    """Compile the body of a cell; the result runs it and returns the value of its last expression (None without).

    Raises
    ------
    SyntaxError
        In the body, before anything ran.
    BadSpec
        The body awaits: the kernel's own loop is busy running the magic.
    """
    source: str = shell.transform_cell(cell)
    name = shell.compile.cache(source, _number(shell), raw_code=cell)
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = shell.transform_ast(compile(source, name, "exec", flags))
    if _awaits(tree):
        raise BadSpec(
            "a cell under %%wb_record cannot await at its top level",
            "use `with wb.record(...) as recorder:` around the line that awaits",
        )
    silent = source.rstrip().endswith(";")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    # Through the shell's compiler: it keeps the `__future__` imports of earlier cells.
    body = shell.compile(tree, name, "exec")
    value = shell.compile(ast.Expression(last.value), name, "eval") if last is not None else None

    def run() -> Any:
        __tracebackhide__ = True
        exec(body, shell.user_ns)
        result = eval(value, shell.user_ns) if value is not None else None
        return None if silent else result

    return run


def _number(shell: Any) -> int:
    """Number of the cell that is running, so that tracebacks name the cell that the user sees."""
    numbers = getattr(shell.compile, "_filename_map", {})
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename not in numbers:
        frame = frame.f_back
    return int(numbers[frame.f_code.co_filename] if frame is not None else shell.execution_count)


def _awaits(tree: ast.Module) -> bool:
    """Whether there is an await outside of every function."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
            return True
        inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, inner)]
    return False
