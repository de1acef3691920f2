"""The generated documents are those of the code, and leave nothing unexplained."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from spreadflow.cli import export
from spreadflow.config import Config
from spreadflow.config.docstrings import docstrings
from spreadflow.io.images import formats
from spreadflow.products import BY_KIND
from spreadflow.trial import STAGES
from tested_exchange import EXCHANGED
from tested_formats import TESTED

REPOSITORY = Path(__file__).parent.parent
LIBRARY = REPOSITORY / "src" / "spreadflow"

WAYS = ("read", "written")
"""Which way files of other programs go."""

FILES_OF_OURS = {
    "Top level.data",
    "Top level.results",
    "runs.RUN.images",
    "beam.spectra",
    "index.mask",
    "stage1.domains",
}
"""Keys of files and folders that are images, or that we write."""


@pytest.mark.stage
def test_committed_documents_are_current():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def module_at(path: Path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py as a module."""
    return module_at(REPOSITORY / "docs" / "generate.py")


@pytest.fixture(scope="module")
def tables():
    """docs/tables.py as a module."""
    return module_at(REPOSITORY / "docs" / "tables.py")


def test_the_table_of_the_readme_has_every_stage_and_the_report(generate):
    rows = [line for line in generate.stages_table().splitlines() if line.startswith("| `")]
    words = [row.split("`")[1] for row in rows]
    assert words == [stage.word for stage in STAGES] + ["report"]


def missing(tests: tuple[str, ...]) -> list[str]:
    """The tests, as file :: name, that do not exist."""
    absent = []
    for test in tests:
        name, _, function = test.partition("::")
        path = REPOSITORY / "tests" / name
        if not path.exists() or f"\ndef {function}(" not in path.read_text():
            absent.append(test)
    return absent


def test_every_format_has_a_row_of_tests_that_exist(generate):
    assert {row.format for row in TESTED} == set(formats.FORMATS)
    page = generate.images_page()
    for row in TESTED:
        assert row.tests and row.against and row.files in page
        assert missing(row.tests) == []


def test_every_exchanged_format_has_tests_that_exist(generate):
    table = generate.exchange_table().splitlines()
    assert len(table) == 2 + len(EXCHANGED)
    for row in EXCHANGED:
        assert row.tests and row.against and row.by
        assert missing(row.tests) == []
    assert missing(("io/test_dials.py::test_round", "io/none.py::test_round_trip_is_exact"))


def keys_of(page: str) -> dict[str, str]:
    """The keys in docs/config.md, by their whole names, with their types."""
    types = {}
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").replace("runs.NAME", "runs.RUN")
        elif line.startswith("| `"):
            key, kind = (cell.strip() for cell in line.split("|")[1:3])
            types[f"{section}.{key.strip('`')}"] = kind
    return types


def test_every_way_in_and_out_has_a_row():
    """In: each key that is a path, unless its file is ours. Out: each format of the word export."""
    by = {way: " ".join(row.by for row in EXCHANGED if row.direction == way) for way in WAYS}
    assert set(re.findall(r"--to (\w+)", by["written"])) == set(export.WRITERS)

    types = keys_of((REPOSITORY / "docs" / "config.md").read_text())
    named = set(re.findall(r"`([a-z]\w*\.[\w.]+)`", by["read"]))
    assert named <= set(types)
    paths = {key for key, kind in types.items() if "path" in kind}
    assert paths - named == FILES_OF_OURS


def test_every_fault_has_a_test_that_exists():
    page = (REPOSITORY / "docs" / "faults.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| [A-Z]\d+ \|", line)]
    assert len(rows) > 60
    source = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row)
        assert names, row
        missing = [name for name in names if f"def {name}(" not in source]
        assert not missing, f"no {missing}"


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
        for n in s.model_fields
        if not docstrings(s).get(n)
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


# ---------------------------------------------------------------- measured figures


def test_the_pages_show_what_is_in_measured(tables):
    for page, text in tables.pages().items():
        assert page.read_text() == text, page


def test_every_measured_figure_has_a_commit_or_waits_for_its_benchmark(tables):
    n_figures = 0
    for path in tables.PAGES:
        cells = [cell for table in tables.read(path) for row in table["rows"] for cell in row]
        for one in tables.measurements(cells):
            assert "**" not in one["format"], one
            if "commit" in one:
                assert re.fullmatch(r"[0-9a-f]{7,12}", one["commit"]), one
                n_figures += 1
            else:
                assert one["values"] == [] and one["source"]["keys"], one
    assert n_figures > 500


@pytest.mark.parametrize(
    ("values", "form", "limits", "text"),
    [
        ([1.4, 1.4], "{:.2f}/{:.2f} e", [["<=", 1.4]], "1.40/1.40 e"),
        ([1.0, 1.404], "{:.2f}/{:.2f}", [["<=", 1.4]], "**1.00/1.40**"),
        ([0.69], "{:.2f}", [[">=", 0.7], ["<=", 1.3]], "**0.69**"),
        ([3.0], "{:.0f} min", [["<", 3]], "**3 min**"),
        (
            [-0.2, 7e-7, 1.2e5, 10900],
            "{:.1f}, {:.0e}, {:.1e}, {:,.0f}",
            [],
            "−0.2, 7e-7, 1.2e5, 10 900",
        ),
        ([0.0103, 0.0067], "{:.2p} / {:.2%}", [], "1.03 / 0.67 %"),
        ([], "equal", [["<=", 1]], "equal"),
    ],
)
def test_limits_decide_what_is_bold(tables, values, form, limits, text):
    measured = {"values": values, "format": form, "limits": limits, "commit": "abc1234"}
    assert tables.shown(measured) == text


def measurement(row: str | None, *keys: str, **more) -> dict:
    """A measurement of a benchmark, `speed`, that waits unless `more` has its values."""
    source = {"benchmark": "speed"} | ({"row": row} if row else {}) | {"keys": list(keys)}
    return {"values": [], "format": "{:.1f} s", "limits": [["<=", 5]], "source": source} | more


def small_page(tables, monkeypatch, folder: Path) -> Path:
    """A page of one table whose second column waits, in place of the real ones."""
    first = measurement("few", "seconds/0", values=[4.0], commit="abc1234")
    table = {
        "name": "speed",
        "columns": ["what", "few", "many", "commit"],
        "rows": [
            ["start", first, measurement("many", "seconds/0")],
            [
                "range",
                "",
                measurement("many", "seconds/min", "seconds/max", format="{:.0f}-{:.0f}"),
            ],
        ],
    }
    path = folder / "page.json"
    path.write_text(tables.written([table]))
    page = folder / "page.md"
    marks = tables.BEGIN.format(name="speed", file="") + tables.END
    page.write_text(f"Of <!-- commits of speed -->?<!-- end -->:\n\n{marks}\nbelow\n")
    monkeypatch.setattr(tables, "PAGES", {path: page})
    return page


def recorded_at(path: Path, figures: dict, benchmark: str = "speed") -> Path:
    """A file of a benchmark."""
    tree = {"benchmark": benchmark, "commit": "1234567", "figures": figures}
    path.write_text(json.dumps(tree))
    return path


def test_figures_are_taken_with_their_commits(tables, monkeypatch, tmp_path):
    page = small_page(tables, monkeypatch, tmp_path)
    assert list(tables.take_files([])) == []
    assert "| what | few | commit |" in page.read_text()
    assert "| start | 4.0 s | abc1234 |" in page.read_text()
    assert "range" not in page.read_text()
    assert "Of <!-- commits of speed -->abc1234<!-- end -->" in page.read_text()

    rows = {"many": {"seconds": [6.02, 3.0], "commit": "fedcba9"}, "other": {}}
    lines = list(tables.take_files([recorded_at(tmp_path / "new.json", rows)]))
    assert lines == [
        "page.md: speed, start, many: nothing → **6.0 s** (fedcba9)",
        "page.md: speed, range, many: nothing → **3-6** (fedcba9)",
    ]
    assert "| start | 4.0 s | **6.0 s** | abc1234, fedcba9 |" in page.read_text()
    assert "| range | | **3-6** | fedcba9 |" in page.read_text()
    assert "fedcba9, except for few (abc1234)" in page.read_text()
    assert page.read_text().endswith("\nbelow\n")

    again = recorded_at(tmp_path / "new.json", {"few": {"seconds": [4.04]}})
    assert list(tables.take_files([again])) == [
        "page.md: speed, start, few: 4.0 s (abc1234) → 4.0 s (1234567)"
    ]


@pytest.mark.parametrize(
    ("figures", "benchmark", "message"),
    [
        ({"few": {"seconds": []}}, "speed", r"'seconds/0' of row 'few' .* has no '0' there"),
        ({"few": {"seconds": [None]}}, "speed", "'seconds/0' is None, and has to be a number"),
        ({}, "accuracy", "no table shows figures of 'accuracy'"),
    ],
)
def test_figures_that_are_missing_are_an_error(
    tables, monkeypatch, tmp_path, figures, benchmark, message
):
    page = small_page(tables, monkeypatch, tmp_path)
    before = page.read_text()
    new = recorded_at(tmp_path / "new.json", figures, benchmark)
    with pytest.raises(tables.TableError, match=message):
        list(tables.take_files([new]))
    assert page.read_text() == before

    new.write_text(json.dumps({"rows": figures}))
    with pytest.raises(tables.TableError, match="expected benchmark, commit and figures"):
        list(tables.take_files([new]))


def test_benchmarks_write_what_is_taken(tables, monkeypatch, tmp_path):
    recorded = module_at(REPOSITORY / "benchmarks" / "recorded.py")
    monkeypatch.setattr(recorded, "commit", lambda: "1234567+")
    path = tmp_path / "new.json"
    recorded.save(path, "speed", {"few": {"seconds": [1.0]}})
    assert tables.recorded(path)[1:] == ("speed", "1234567+", {"few": {"seconds": [1.0]}})
    assert recorded.rows(path) == {"few": {"seconds": [1.0]}}
    assert recorded.rows(tmp_path / "absent.json") == {}
