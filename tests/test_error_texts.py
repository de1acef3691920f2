"""What errors and logs send a user to exists: every `section.key` in a text is a key of the
configuration.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from spreadflow.config import Config

SOURCE = Path(__file__).parent.parent / "src" / "spreadflow"


def sections() -> dict[str, type[BaseModel]]:
    """Return the sections of the configuration by name; an overlay has the keys of what it lies
    over.
    """
    defaults = Config()
    found = {}
    for name in Config.model_fields:
        value = getattr(defaults, name)
        if isinstance(value, BaseModel):
            found[name] = type(value)
    for overlay, below in (("reindex", "index"), ("wide", "annulus")):
        found[overlay] = found[below]
    return found


SECTIONS = sections()
KEY = re.compile(rf"\b({'|'.join(SECTIONS)})\.([a-z][a-z_0-9]*)")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string of a module: errors and logs are among them, by way of
    variables too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def docstrings(tree: ast.Module) -> set[int]:
    """Return the lines on which strings stand that are no values."""
    return {
        node.value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def exists(section: str, key: str) -> bool:
    """Whether a section has a key, by its name in the file."""
    fields = SECTIONS[section].model_fields
    return key in fields or key in {field.alias for field in fields.values()}


PATHS = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent.name != "physics"]
"""All modules but the kernels, whose texts are for programmers."""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_key_that_is_named_exists(path):
    tree = ast.parse(path.read_text())
    left_out = docstrings(tree)
    wrong = [
        f"{path.name}:{line}: {section}.{key}"
        for line, text in texts(tree)
        if line not in left_out
        for section, key in KEY.findall(text)
        if not exists(section, key) and not is_file(section, key)
    ]
    assert wrong == []


def is_file(section: str, key: str) -> bool:
    """Whether the words are the name of a product, such as cells.h5, and no key."""
    return key in {
        "h5",
        "json",
        "png",
        "csv",
        "expt",
        "refl",
        "mtz",
        "tdata",
        "gram",
        "parts",
        "fit",
        "cycles",
    }


def test_readers_of_files_name_no_keys():
    """Only the caller knows which key named a file."""
    named = []
    for path in sorted((SOURCE / "io").rglob("*.py")):
        tree = ast.parse(path.read_text())
        left_out = docstrings(tree)
        for line, text in texts(tree):
            if line not in left_out:
                keys = [
                    f"{section}.{key}" for section, key in KEY.findall(text) if exists(section, key)
                ]
                named += [f"{path.name}: {key}" for key in keys]
    assert named == ["mosaic.py: stage1.mosaicity"], (
        "the one that chooses by the section it is given"
    )
