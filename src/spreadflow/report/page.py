"""One self-contained HTML page of all summaries and pictures of a trial."""

import base64
import html
import json
import os
from pathlib import Path
from typing import Any

from spreadflow.errors import FileError, warning_sentence
from spreadflow.io.store import write_text
from spreadflow.report import WORDS, checks, module_of
from spreadflow.report.style import say

STYLE = """
:root {
  --ink: #1d2733; --grey: #667079; --line: #dfe3e8;
  --blue: #2b6ca3; --good: #2f8f6b; --bad: #c0483f;
}
body {
  margin: 0 auto; max-width: 1180px; padding: 2rem 1.5rem 4rem;
  color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.7rem; margin: 0; }
h2 {
  font-size: 1.25rem; margin: 2.6rem 0 .4rem;
  border-top: 1px solid var(--line); padding-top: 1.4rem;
}
p.sub { color: var(--grey); margin: .2rem 0 1.2rem; }
table {
  border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: .6rem 0; font-size: .92em;
}
th, td {
  text-align: left; padding: .28rem .9rem .28rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top;
}
th { font-weight: 600; }
td.n { text-align: right; }
a { color: var(--blue); }
img { width: 100%; border: 1px solid var(--line); border-radius: 4px; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 700; }
.warnings {
  border: 2px solid var(--bad); border-radius: 4px; background: #fdf1f0;
  padding: .6rem 1rem; margin: 1rem 0;
}
.warnings h2 { color: var(--bad); border: 0; margin: 0; padding: 0; }
.warnings td { border: 0; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--grey); }
code { font-size: .92em; }
"""
"""The page's style sheet."""

SHOWN_FIGURES = {"merge": ("bins",), "spread": ("sites", "fits", "verdicts")}
"""Stage → figures that are shown as tables beneath its picture."""

RECORD_KEYS = ("stage", "software", "products", "warnings")
"""Keys of a summary that are no figures."""


def run(summaries: list[Path], out: Path) -> None:
    """Write the page from the summaries; each picture lies beside its summary."""
    path_of = {}
    figures_of = {}
    for path in summaries:
        figures = read(path)
        path_of[figures["stage"]] = path
        figures_of[figures["stage"]] = figures
    figures_of = {stage: figures_of[stage] for stage in WORDS if stage in figures_of}
    software = next(iter(figures_of.values()))["software"] if figures_of else ""
    trial = html.escape(out.absolute().parent.name)
    folder = _link(out.parent, out, str(out.parent))
    body = [
        f"<h1>Trial {trial}</h1>",
        f'<p class="sub">{html.escape(software)} · files in {folder}</p>',
        _warnings(figures_of),
        _overview(figures_of),
        _conservation(figures_of),
        *(_section(stage, path_of[stage], figures, out) for stage, figures in figures_of.items()),
    ]
    head = f'<meta charset="utf-8"><title>{trial}: spreadflow</title><style>{STYLE}</style>'
    page = f'<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'
    write_text(out, f"<!doctype html>{page}\n")


def read(path: Path) -> dict[str, Any]:
    """Return a summary. Raises FileError."""
    todo = "Run `spreadflow summary` for that stage."
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(path, "a summary (JSON)", error, todo) from None
    if figures.get("stage") not in WORDS:
        raise FileError(path, "a summary of a stage", f"stage {figures.get('stage')}", todo)
    return figures


def _warnings(figures_of: dict[str, dict]) -> str:
    """Return all stages' warnings in a box, or nothing where there are none."""
    rows = []
    for stage, figures in figures_of.items():
        for warning in figures.get("warnings", []):
            sentence = html.escape(warning_sentence(warning))
            rows.append(f'<tr><th><a href="#{stage}">{stage}</a></th><td>{sentence}</td></tr>')
    if not rows:
        return ""
    heading = "1 warning" if len(rows) == 1 else f"{len(rows)} warnings"
    return f'<div class="warnings"><h2>{heading}</h2><table>{"".join(rows)}</table></div>'


def _overview(figures_of: dict[str, dict]) -> str:
    """Return a table of the stages' headlines."""
    rows = []
    for stage, figures in figures_of.items():
        facts = "<br>".join(map(html.escape, module_of(stage).headline(figures)))
        rows.append(f'<tr><th><a href="#{stage}">{stage}</a></th><td>{facts}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _conservation(figures_of: dict[str, dict]) -> str:
    """Return a table of the counts that must agree."""
    rows = []
    for check in checks.collect(figures_of):
        verdict, mark = ("good", "✓") if check.holds else ("bad", "✗")
        rows.append(
            f'<tr><td class="{verdict}">{mark}</td><td>{html.escape(check.statement)}</td>'
            f'<td class="n">{say(check.left)}</td><td class="n">{say(check.right)}</td></tr>'
        )
    return f"<h2>Nothing disappears</h2><table>{''.join(rows)}</table>"


def _section(stage: str, path: Path, figures: dict, out: Path) -> str:
    """Return picture and figures of one stage."""
    picture = path.with_suffix(".png")
    image = ""
    if picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        image = f'<img alt="{stage}" src="data:image/png;base64,{data}">'
    files = ", ".join(_link(Path(name), out, name) for name in figures["products"])
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{_value(value)}</td></tr>"
        for key, value in figures.items()
        if key not in RECORD_KEYS
    )
    tables = "".join(_value(figures[key]) for key in SHOWN_FIGURES.get(stage, ()))
    return (
        f'<h2 id="{stage}">{stage}</h2>{image}{tables}'
        f'<p class="sub">{files} · {_link(path, out, path.name)}</p>'
        f"<details><summary>all figures</summary><table>{rows}</table></details>"
    )


def _value(value: Any) -> str:
    """Return a figure as HTML: numbers plain, lists in a row, mappings and lists of mappings as
    tables.
    """
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        return _table(value)
    if isinstance(value, dict):
        items = [f"{html.escape(str(key))}: {_value(item)}" for key, item in value.items()]
        return ", ".join(items)
    if isinstance(value, list):
        return " &ensp;".join(_value(item) for item in value)
    return html.escape(say(value, 6))


def _table(rows: dict[Any, dict]) -> str:
    """Return mappings as the rows of a table; the first tells the columns, without those that hold
    mappings themselves.
    """
    first = next(iter(rows.values()))
    keys = [key for key, value in first.items() if not isinstance(value, dict)]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
    lines = []
    for name, row in rows.items():
        cells = "".join(f"<td>{_value(row.get(key))}</td>" for key in keys)
        heading = html.escape(str(name))
        lines.append(f"<tr><th>{heading}</th>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _link(path: Path, out: Path, text: str) -> str:
    """Return a link that still works when the folder moves."""
    relative = os.path.relpath(path.absolute(), out.absolute().parent)
    return f'<a href="{html.escape(relative)}"><code>{html.escape(text)}</code></a>'
