"""What the documents and the commented YAML say about each key: the docstring below it."""

import ast
import inspect
from itertools import pairwise


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstring of each attribute of a class, by name; one that is inherited has that of
    the class that declares it. They are read from the source, which a stage has no time for: it
    would take a third of what the classes of the configuration take.
    """
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "spreadflow":
            texts |= _declared(base)
    return texts


def _declared(kind: type) -> dict[str, str]:
    """Return the docstrings of the attributes that a class itself declares."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for node, following in pairwise(definition.body):
        match node, following:
            case (
                ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)),
                ast.Expr(ast.Constant(str(text))),
            ):
                texts[name] = inspect.cleandoc(text)
    return texts
