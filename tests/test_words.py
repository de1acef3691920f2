"""Names are the field's terms or plain English: some words name nothing, and are no names here."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "src" / "spreadflow"
PACKAGES = sorted(path.name for path in LIBRARY.iterdir() if path.is_dir())

NO_NOUNS = {
    "begun",
    "ended",
    "given",
    "made",
    "mine",
    "near",
    "of",
    "said",
    "seen",
    "some",
    "told",
    "untold",
}
"""Words that were names once, each of several things."""


def names_in(path: Path) -> set[str]:
    """All names that a module gives or uses: variables, arguments, fields, functions, classes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name():
                names.add(node.id)
            case ast.arg():
                names.add(node.arg)
            case ast.Attribute():
                names.add(node.attr)
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_one_of_these_words(package):
    modules = sorted((LIBRARY / package).rglob("*.py"))
    bad = {
        f"{path.relative_to(LIBRARY)}: {name}"
        for path in modules
        for name in names_in(path)
        if name.strip("_").lower() in NO_NOUNS
    }

    assert bad == set()
