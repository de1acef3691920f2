"""How much a line of code holds: syntax-tree nodes per function and per line, by package.

A reader's measure, not a gate. The aim is a median of at most 9 nodes per line of a function, at
most 400 nodes and at most 60 lines a function, at most 8 parameters, modules of at most 400 lines
(600 where a module is one thing).

    python benchmarks/density.py              # src, by package, then tests and benchmarks
    python benchmarks/density.py --worst 20   # and the functions that hold most
    python benchmarks/density.py src/spreadflow/io/store.py
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).parents[1]

N_LINES_COUNTED = 3
"""Functions shorter than this have no typical line, and do not count for nodes per line."""


class Function(NamedTuple):
    """A function of a module, and how large it is: lines with its signature, nodes of its body,
    both without docstring.
    """

    name: str
    n_lines: int
    n_nodes: int
    n_parameters: int

    @property
    def nodes_per_line(self) -> float:
        """Syntax-tree nodes over lines."""
        return self.n_nodes / self.n_lines


class Module(NamedTuple):
    """A file: its lines, its functions, and its assignments `a, b = f(x), g(y)` among all."""

    path: Path
    n_lines: int
    functions: list[Function]
    n_packed: int
    n_assignments: int


def _n_lines(node: ast.stmt) -> int:
    """Return how many lines a statement of a parsed file has."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def functions_of(tree: ast.Module, path: Path) -> Iterator[Function]:
    """Yield every function and method of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            n_lines = _n_lines(node)
            if ast.get_docstring(node, clean=False) is not None:
                n_lines -= _n_lines(body[0])
                body = body[1:]
            if body:
                a = node.args
                yield Function(
                    name=f"{path}:{node.lineno} {node.name}",
                    n_lines=n_lines,
                    n_nodes=sum(1 for statement in body for _ in ast.walk(statement)),
                    n_parameters=len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs),
                )


def is_packed(node: ast.Assign) -> bool:
    """Whether an assignment computes several things at once: a tuple of targets, a tuple with a
    call among the values.
    """
    is_tuple = isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    return is_tuple and any(isinstance(part, ast.Call) for part in ast.walk(node.value))


def measure(path: Path) -> Module:
    """Count a file."""
    text = path.read_text()
    tree = ast.parse(text)
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return Module(
        path=path,
        n_lines=len(text.splitlines()),
        functions=list(functions_of(tree, path)),
        n_packed=sum(map(is_packed, assignments)),
        n_assignments=len(assignments),
    )


def row(name: str, modules: list[Module]) -> str:
    """Describe some modules in one line of the table."""
    functions = [function for module in modules for function in module.functions]
    if not functions:
        return f"{name:26} {len(modules):5}"
    lines = [function.n_lines for function in functions]
    nodes = [function.n_nodes for function in functions]
    dense = [f.nodes_per_line for f in functions if f.n_lines >= N_LINES_COUNTED] or [0.0]
    packed = sum(m.n_packed for m in modules) / max(sum(m.n_assignments for m in modules), 1)
    cells = [
        f"{name:26} {len(modules):5}",
        three([module.n_lines for module in modules]),
        three(lines),
        three(nodes),
        f"{np.median(dense):6.1f} /{np.percentile(dense, 90):5.1f}",
        f"{100 * packed:5.1f} %",
        f"{max(function.n_parameters for function in functions):4}",
    ]
    return "  ".join(cells)


def three(values: list[int]) -> str:
    """Median, 90th percentile and largest."""
    return f"{np.median(values):5.0f} /{np.percentile(values, 90):4.0f} /{max(values):5}"


def files_of(paths: list[Path]) -> list[Path]:
    """Return the Python files among some files and below some folders."""
    return sorted(p for path in paths for p in (path.rglob("*.py") if path.is_dir() else [path]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders, default the project")
    parser.add_argument("--worst", type=int, default=0, help="also list the densest functions")
    arguments = parser.parse_args()
    source = REPOSITORY / "src" / "spreadflow"
    packages = sorted(path for path in source.rglob("*") if (path / "__init__.py").exists())
    groups = {"src": [source]}
    groups |= {str(p.relative_to(source)): [*p.glob("*.py")] for p in packages}
    groups |= {name: [REPOSITORY / name] for name in ("tests", "benchmarks")}
    if arguments.paths:
        groups = {str(path): [path] for path in arguments.paths}
    head = ("package", "files", "lines of a module", "lines of a function", "nodes of a function")
    print("{:26} {:5}  {:17}  {:17}  {:17}  nodes per line   packed  most parameters".format(*head))
    every: list[Function] = []
    for name, paths in groups.items():
        modules = [measure(path) for path in files_of(paths)]
        every += [function for module in modules for function in module.functions]
        print(row(name, modules))
    worst = sorted(set(every), key=lambda function: -function.n_nodes)[: arguments.worst]
    for function in worst:
        print(f"{function.n_nodes:6} nodes {function.n_lines:4} lines  {function.name}")


if __name__ == "__main__":
    main()
