"""The generated documents are those of the code, and leave nothing unexplained."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from spreadflow.config import Config
from spreadflow.io.images import formats
from spreadflow.products import BY_KIND
from spreadflow.trial import STAGES
from tested_formats import TESTED

REPOSITORY = Path(__file__).parent.parent
LIBRARY = REPOSITORY / "src" / "spreadflow"


@pytest.mark.stage
def test_committed_documents_are_current():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py as a module."""
    path = REPOSITORY / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_readme_has_every_stage_and_the_report(generate):
    rows = [line for line in generate.stages_table().splitlines() if line.startswith("| `")]
    words = [row.split("`")[1] for row in rows]
    assert words == [stage.word for stage in STAGES] + ["report"]


def test_every_format_has_a_row_of_tests_that_exist(generate):
    assert {row.format for row in TESTED} == set(formats.FORMATS)
    page = generate.images_page()
    for row in TESTED:
        assert row.tests and row.against and row.files in page
        for test in row.tests:
            name, _, function = test.partition("::")
            text = (REPOSITORY / "tests" / name).read_text()
            assert f"def {function}(" in text, test


def test_the_index_has_every_decision_once(generate):
    pages = sorted(path.name for path in (REPOSITORY / "docs" / "decisions").glob("0*.md"))
    lines = generate.decisions_index().splitlines()
    assert len(lines) == len(pages)
    for number, (line, page) in enumerate(zip(lines, pages, strict=True), start=1):
        assert line.startswith(f"{number}. [") and line.endswith(f"]({page})")


def test_a_generated_part_replaces_what_stood_between_its_marks(generate, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{generate.BEGIN}\nold\n{generate.END}below\n")
    expected = f"above\n{generate.BEGIN}\nnew\n\n{generate.END}below\n"
    assert generate.with_part(page, "new\n") == expected

    page.write_text("above\nbelow\n")
    with pytest.raises(ValueError, match="the lines around the generated part are missing"):
        generate.with_part(page, "new\n")


def modules_named_by(heading: str) -> list[Path]:
    """The modules in a heading: (`analysis/still/spots`, `indexing`) are of one package."""
    first, *others = re.findall(r"`([\w/]+)`", heading)
    package = LIBRARY / Path(first).parent
    return [package / f"{name}.py" for name in [Path(first).name, *others]]


def names_of_functions(lines: list[str]) -> list[str]:
    """The names in the columns `function` or `where` of all tables."""
    names = []
    column = 0
    for line in lines:
        if line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
            for title in {"function", "where"} & set(cells):
                column = cells.index(title)
            names += re.findall(r"`([\w./]+)`", cells[column])
    return names


def test_physics_names_modules_and_functions_that_exist():
    lines = (REPOSITORY / "docs" / "physics.md").read_text().splitlines()
    headings = [line for line in lines if line.startswith("### ")]
    modules = [module for heading in headings for module in modules_named_by(heading)]
    assert [module for module in modules if not module.exists()] == []

    words_of: dict[str, set[str]] = {}
    """name of a module → the words in all modules of that name"""
    for path in [*LIBRARY.rglob("*.py"), *(REPOSITORY / "tests").rglob("*.py")]:
        words = words_of.setdefault(path.stem, set())
        words |= set(re.findall(r"\w+", path.read_text()))
    everywhere = set().union(*words_of.values())

    for name in names_of_functions(lines):
        *places, last = re.split(r"[./]", name)
        if last not in words_of:
            module = places[-1] if places else ""
            assert last in words_of.get(module, everywhere), name


def sections(node: BaseModel):
    yield type(node)
    for name in type(node).model_fields:
        for value in _below(getattr(node, name)):
            yield from sections(value)


def _below(value):
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _below(item)


def test_every_key_and_dataset_has_a_meaning():
    silent = [
        f"{s.__name__}.{n}"
        for s in sections(Config())
        for n, f in s.model_fields.items()
        if not f.description
    ]
    silent += [
        f"{kind}: {name}"
        for kind, product in BY_KIND.items()
        for name, column in product.described().items()
        if not column.meaning
    ]
    assert silent == []


FILE_ENDINGS = {"csv", "expt", "fit", "gram", "h5", "json", "mtz", "parts", "png", "refl", "tdata"}
"""What follows a stage's word in the names of its files."""


def test_the_keys_that_stand_for_those_of_diffbragg_exist():
    text = (REPOSITORY / "docs" / "diffbragg.md").read_text()
    named = re.findall(r"`([a-z_0-9]+)((?:\.[a-z_0-9]+)+)[:`]", text)
    n_keys = 0
    for word, rest in named:
        keys = rest.lstrip(".").split(".")
        field = Config.model_fields.get(word)
        if field is None or keys[0] in FILE_ENDINGS:
            continue
        for key in keys:
            section = field.annotation
            if not isinstance(section, type) or not issubclass(section, BaseModel):
                break  # a key that may be null, or holds others that no class names
            by_name = {inner.alias or name: inner for name, inner in section.model_fields.items()}
            assert key in by_name, f"{word}{rest}"
            field = by_name[key]
            n_keys += 1
    assert n_keys > 25
