"""Writes the tables of measured figures into the pages, from docs/measured/*.json.

    python docs/tables.py take FILE...

puts what a benchmark wrote with --json into docs/measured, and into the pages.

A file in docs/measured has the tables of one page: `name`, `columns`, and `rows` of cells. A cell
is a text, a measurement, or a list of both. A measurement has

    values, format    numbers, and how they are shown; a format without numbers is words
    commit            that of the code which was measured
    limits            [sign, number] that each value has to keep, or they are shown in bold
    source            where `take` finds the values: `benchmark`, `row` where its rows are measured
                      one by one, and `keys`, a path for each value

One without a commit waits for its first figures: rows and columns of nothing else are not shown. A
last column `commit` is filled from those of the row; where a page says in words of which commit a
table is, `<!-- commits of NAME -->` and `<!-- end -->` stand around them.
"""

import argparse
import json
import math
import operator
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent

PAGES = {
    DOCS / "measured" / "status.json": DOCS / "status.md",
    DOCS / "measured" / "spread.json": DOCS / "spread.md",
    DOCS / "measured" / "performance.json": DOCS / "performance.md",
    DOCS / "measured" / "size.json": DOCS / "scaling.md",
    DOCS / "measured" / "ranks.json": DOCS / "scaling.md",
    DOCS / "measured" / "correlate.json": DOCS / "correlate.md",
    DOCS / "measured" / "benchmarks.json": DOCS.parent / "benchmarks" / "README.md",
}
"""File of tables → page that shows them; a page may show those of several."""

BEGIN = (
    "<!-- table {name}: written by docs/tables.py, down to the closing mark: edit {file}, "
    "not this text -->\n"
)
"""Line above a table."""

END = "<!-- the generated text ends here -->\n"
"""Line below it."""

TABLE = re.compile(r"<!-- table (\S+): .*?-->\n.*?" + re.escape(END), re.DOTALL)
"""A table and its marks."""

COMMITS = re.compile(r"(<!-- commits of (\S+) -->).*?(<!-- end -->)", re.DOTALL)
"""The commits of a table in a sentence, and their marks."""

SIGNS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
"""Signs of limits."""

RANGE: dict[str, Callable] = {"min": min, "max": max}
"""Ends of the range of several values, as steps of a key."""

OPTIONAL = {"limits", "source", "commit"}
"""Keys that a measurement may lack."""


class TableError(ValueError):
    """A file that is not as it has to be; the message says where."""


# ---------------------------------------------------------------- cells


class _Numbers(string.Formatter):
    """Shows numbers as the pages do: 7e-7, 10 900, −0.2, 99.5 %; 99.5 of the same by `p`."""

    def format_field(self, value: Any, spec: str) -> str:
        if spec.endswith("p"):
            value, spec = 100.0 * value, f"{spec[:-1]}f"
        text = re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", format(value, spec))
        text = text.replace(",", " ").replace("%", " %")
        return re.sub(r"^-", "−", text)


def parts_of(cell: Any) -> list[Any]:
    """Return the texts and measurements of a cell."""
    return cell if isinstance(cell, list) else [cell]


def measurements(cells: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the measurements in some cells."""
    for cell in cells:
        yield from (part for part in parts_of(cell) if isinstance(part, dict))


def are_waiting(cells: Iterable[Any]) -> bool:
    """Whether cells have measurements, and none of them has been taken yet."""
    commits = ["commit" in one for one in measurements(cells)]
    return bool(commits) and not any(commits)


def is_missed(measurement: dict[str, Any]) -> bool:
    """Whether a value is beyond one of its limits."""
    return any(
        not SIGNS[sign](value, limit)
        for sign, limit in measurement.get("limits", [])
        for value in measurement["values"]
    )


def shown(cell: Any) -> str:
    """Return the text of a cell: nothing while it waits."""
    if any("commit" not in one for one in measurements([cell])):
        return ""
    return "".join(map(_part, parts_of(cell)))


def _part(part: Any) -> str:
    """Return the text of a part of a cell."""
    if isinstance(part, str):
        return part
    text = _Numbers().format(part["format"], *part["values"])
    return f"**{text}**" if is_missed(part) else text


# ---------------------------------------------------------------- tables


def rendered(table: dict[str, Any]) -> str:
    """Return a table as Markdown."""
    rows = [row for row in table["rows"] if not are_waiting(row)]
    titles = _titles(table)
    columns = [
        column for column in range(len(titles)) if not are_waiting(row[column] for row in rows)
    ]
    lines = [[titles[column] for column in columns], ["---" for _ in columns]]
    lines += [[shown(row[column]) for column in columns] for row in rows]
    if titles != table["columns"]:
        lines[0].append("commit")
        lines[1].append("---")
        for line, row in zip(lines[2:], rows, strict=True):
            line.append(", ".join(_commits(row)))
    return "".join(map(_line, lines))


def _titles(table: dict[str, Any]) -> list[str]:
    """Return the titles of the columns that the file has: all but `commit`."""
    titles = table["columns"]
    return titles[:-1] if titles[-1] == "commit" else titles


def _line(cells: list[str]) -> str:
    """Return a line of a table."""
    if set(cells) == {"---"}:
        return f"|{'|'.join(cells)}|\n"
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|\n"


def _commits(cells: Iterable[Any]) -> list[str]:
    """Return the commits of some cells, each once."""
    return list(dict.fromkeys(one["commit"] for one in measurements(cells) if "commit" in one))


def commits_in_words(table: dict[str, Any]) -> str:
    """Return the commits of a table: that of most of its figures, and the columns, rows and cells
    that are of another.
    """
    rows = table["rows"]
    counts = Counter(one["commit"] for row in rows for one in measurements(row) if "commit" in one)
    main, *others = [commit for commit, _ in counts.most_common()] or [""]
    exceptions = [f"{', '.join(_places(table, commit))} ({commit})" for commit in others]
    return f"{main}, except for {' and '.join(exceptions)}" if exceptions else main


def _places(table: dict[str, Any], commit: str) -> list[str]:
    """Return the columns, rows and cells of a table that are of a commit."""
    titles = _titles(table)
    columns = [
        number
        for number in range(len(titles))
        if _commits(row[number] for row in table["rows"]) == [commit]
    ]
    names = [titles[number] for number in columns]
    for row in table["rows"]:
        cells = [
            (title, cell)
            for number, (title, cell) in enumerate(zip(titles, row, strict=True))
            if number not in columns
        ]
        if _commits(cell for _, cell in cells) == [commit]:
            names.append(shown(row[0]))
        else:
            of_commit = [title for title, cell in cells if commit in _commits([cell])]
            names += [f"{title} of {shown(row[0])}" for title in of_commit]
    return names


# ---------------------------------------------------------------- files and pages


def read(path: Path) -> list[dict[str, Any]]:
    """Return the tables of a file. Raises TableError where a cell is not as it has to be."""
    tables = json.loads(path.read_text())["tables"]
    for table in tables:
        n_cells = len(_titles(table))
        for row in table["rows"]:
            where = f"{path.name}, table {table['name']}, row {parts_of(row[0])[0]}"
            if len(row) != n_cells:
                raise TableError(f"{where}: {len(row)} cells, and {n_cells} columns")
            for measurement in measurements(row):
                _check(measurement, where)
    return tables


def _check(measurement: dict[str, Any], where: str) -> None:
    """Raise TableError where a measurement is not as it has to be."""
    if measurement.keys() - OPTIONAL != {"values", "format"}:
        raise TableError(f"{where}: {measurement} needs values and format, and may have {OPTIONAL}")
    fields = [field for _, field, _, _ in string.Formatter().parse(measurement["format"])]
    counts = {sum(field is not None for field in fields)}
    if "source" in measurement:
        counts.add(len(measurement["source"]["keys"]))
    if "commit" in measurement:
        counts.add(len(measurement["values"]))
    if len(counts) != 1:
        raise TableError(f"{where}: {measurement} has not as many values as its format and source")
    if not measurement.keys() & {"commit", "source"}:
        raise TableError(f"{where}: {measurement} has neither a commit nor a source")


def written(tables: list[dict[str, Any]]) -> str:
    """Return tables as the text of their file, a cell a line."""
    blocks = []
    for table in tables:
        head = ",\n".join(f"  {_json(key)}: {_json(table[key])}" for key in ("name", "columns"))
        rows = []
        for row in table["rows"]:
            cells = ",\n".join(f"    {_json(cell)}" for cell in row)
            rows.append(f"   [\n{cells}\n   ]")
        blocks.append(f" {{\n{head},\n" + '  "rows": [\n' + ",\n".join(rows) + "\n  ]\n }")
    return '{"tables": [\n' + ",\n".join(blocks) + "\n]}\n"


def _json(value: Any) -> str:
    """Return a value on one line."""
    return json.dumps(value, ensure_ascii=False)


def filled(text: str, tables: dict[str, list[dict[str, Any]]]) -> str:
    """Return the text of a page with its tables and their commits written anew. tables: by file.

    Raises TableError where the page has not each table once.
    """
    files = " and ".join(tables)
    file_of = {table["name"]: file for file, of_file in tables.items() for table in of_file}
    by_name = {table["name"]: table for of_file in tables.values() for table in of_file}
    names = [match[1] for match in TABLE.finditer(text)]
    if sorted(names) != sorted(by_name) or len(by_name) != sum(map(len, tables.values())):
        raise TableError(
            f"{files} has tables {sorted(by_name)}, and its page shows {sorted(names)}"
        )
    unknown = {match[2] for match in COMMITS.finditer(text)} - by_name.keys()
    if unknown:
        raise TableError(f"the page of {files} says commits of {sorted(unknown)}, which it has not")

    if re.search(r"^<!-- commits", text, re.MULTILINE):
        raise TableError(
            f"the page of {files}: a mark of commits ends a paragraph where it begins a line"
        )

    def table_of(match: re.Match[str]) -> str:
        name = match[1]
        begin = BEGIN.format(name=name, file=file_of[name])
        return f"{begin}\n{rendered(by_name[name])}\n{END}"

    def commits_of(match: re.Match[str]) -> str:
        return f"{match[1]}{commits_in_words(by_name[match[2]])}{match[3]}"

    return COMMITS.sub(commits_of, TABLE.sub(table_of, text))


def pages() -> dict[Path, str]:
    """Return the pages with measured figures, and what their texts have to be."""
    of_pages: dict[Path, dict[str, list[dict[str, Any]]]] = {}
    for path, page in PAGES.items():
        of_pages.setdefault(page, {})[f"docs/measured/{path.name}"] = read(path)
    return {page: filled(page.read_text(), tables) for page, tables in of_pages.items()}


# ---------------------------------------------------------------- taking figures


class Recorded(NamedTuple):
    """What a benchmark wrote with --json."""

    path: Path
    benchmark: str
    commit: str
    figures: Any


def recorded(path: Path) -> Recorded:
    """Read a file that a benchmark wrote. Raises TableError where it is none."""
    tree = json.loads(path.read_text())
    if not isinstance(tree, dict) or tree.keys() != {"benchmark", "commit", "figures"}:
        raise TableError(
            f"{path}: expected benchmark, commit and figures, as benchmarks write them with --json "
            "(rows of an older spread.py: benchmarks/spread.py --score)"
        )
    return Recorded(path, **tree)


def take(tables: list[dict[str, Any]], new: Recorded) -> Iterator[str]:
    """Replace values and commits of the cells whose source is a benchmark, and row, that a file
    has; yield a line for each cell that changes.
    """
    for table in tables:
        for row in table["rows"]:
            for title, cell in zip(_titles(table), row, strict=True):
                before = shown(cell), _commits([cell])
                for measurement in measurements([cell]):
                    _replace(measurement, new)
                after = shown(cell), _commits([cell])
                if after != before:
                    old, now = (
                        f"{text} ({', '.join(commits)})" for text, commits in (before, after)
                    )
                    where = f"{table['name']}, {shown(row[0])}, {title}"
                    yield f"{where}: {old if before[1] else 'nothing'} → {now}"


def _replace(measurement: dict[str, Any], new: Recorded) -> None:
    """Take values and commit of a measurement from a file, if it has them."""
    source = measurement.get("source", {})
    if source.get("benchmark") != new.benchmark:
        return
    figures = new.figures
    commit = new.commit
    if "row" in source:
        if source["row"] not in figures:
            return
        figures = figures[source["row"]]
        commit = figures.get("commit", commit)
    measurement["values"] = [_value(figures, key, source, new) for key in source["keys"]]
    measurement["commit"] = commit


def _value(figures: Any, key: str, source: dict[str, Any], new: Recorded) -> float:
    """Return the number that a path of names and numbers leads to. Raises TableError where there is
    none.
    """
    value = figures
    for step in key.split("/"):
        try:
            value = _step(value, step)
        except (KeyError, IndexError, ValueError, TypeError):
            of_row = f" of row {source['row']!r}" if "row" in source else ""
            raise TableError(
                f"{new.path}: {key!r}{of_row} is shown in docs/measured, and the file has no "
                f"{step!r} there"
            ) from None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TableError(f"{new.path}: {key!r} is {value!r}, and has to be a number")
    return value


def _step(value: Any, step: str) -> Any:
    """Return an item of a list or mapping, or the smallest or largest (`min`, `max`) of all."""
    if step in RANGE:
        return RANGE[step](value.values() if isinstance(value, dict) else value)
    return value[int(step)] if isinstance(value, list) else value[step]


def take_files(paths: list[Path]) -> Iterator[str]:
    """Put files of benchmarks into docs/measured and the pages; yield what changes.

    Nothing is written before all files are read.
    """
    tables = {path: read(path) for path in PAGES}
    for new in map(recorded, paths):
        every = [table for of_page in tables.values() for table in of_page]
        cells = [cell for table in every for row in table["rows"] for cell in row]
        sources = [one["source"]["benchmark"] for one in measurements(cells) if "source" in one]
        if new.benchmark not in sources:
            raise TableError(f"{new.path}: no table shows figures of {new.benchmark!r}")
        for path, of_page in tables.items():
            yield from (f"{PAGES[path].name}: {line}" for line in take(of_page, new))
    for path, of_page in tables.items():
        path.write_text(written(of_page))
    for page, text in pages().items():
        page.write_text(text)


def main() -> int:
    """Take files of benchmarks, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["take"])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    try:
        for line in take_files(arguments.files):
            print(line)
    except TableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
