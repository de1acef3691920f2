"""`spreadflow report`: one self-contained HTML page of all summaries and pictures of a trial."""

import base64
import html
import json
import os
from pathlib import Path
from typing import Any

from spreadflow.errors import FileError
from spreadflow.io.store import replacing
from spreadflow.report.conserved import checks
from spreadflow.report.headlines import STAGES, headline
from spreadflow.report.style import say

STYLE = """
:root { --ink: #1d2733; --grey: #667079; --line: #dfe3e8; --blue: #2b6ca3; --good: #2f8f6b; --bad: #c0483f; }
body { margin: 0 auto; max-width: 1180px; padding: 2rem 1.5rem 4rem; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; border-top: 1px solid var(--line);
     padding-top: 1.4rem; } p.sub { color: var(--grey); margin: .2rem 0 1.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; font-size: .92em; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n { text-align: right; } a { color: var(--blue); } img { width: 100%; border: 1px solid
var(--line); border-radius: 4px; } .good { color: var(--good); } .bad { color: var(--bad); font-weight: 700; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--grey); } code { font-size: .92em; }
"""

OPEN = {"spread": ("sites", "fits", "verdicts")}
"""Figures shown as tables beneath the picture of a stage."""


def run(summaries: list[Path], out: Path) -> None:
    """Write the page from the summaries; each picture lies beside its summary."""
    told = {}
    for path in summaries:
        figures = read(path)
        told[figures["stage"]] = (path, figures)
    stages = [stage for stage in STAGES if stage in told]
    figures_of = {stage: told[stage][1] for stage in stages}
    software = next(iter(figures_of.values()))["software"] if figures_of else ""
    trial = html.escape(out.absolute().parent.name)
    body = [
        f"<h1>Trial {trial}</h1>",
        f'<p class="sub">{html.escape(software)} · files in '
        f"{_link(out.parent, out, str(out.parent))}</p>",
        _overview(figures_of),
        _conservation(figures_of),
        *(_section(stage, *told[stage], out) for stage in stages),
    ]
    head = f'<meta charset="utf-8"><title>{trial}: spreadflow</title><style>{STYLE}</style>'
    with replacing(out) as temporary:
        temporary.write_text(
            "<!doctype html><html "
            f'lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
        )


def read(path: Path) -> dict[str, Any]:
    """Return a summary. Raises FileError."""
    todo = "Run `spreadflow summary` for that stage."
    try:
        figures = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(path, "a summary (JSON)", error, todo) from None
    if figures.get("stage") not in STAGES:
        raise FileError(path, "a summary of a stage", f"stage {figures.get('stage')}", todo)
    return figures


def _overview(figures: dict[str, dict]) -> str:
    rows = "".join(
        "<tr><th><a "
        f'href="#{stage}">{stage}</a></th><td>{"<br>".join(map(html.escape, headline(stage, f)))}</td></tr>'
        for stage, f in figures.items()
    )
    return f"<table>{rows}</table>"


def _conservation(figures: dict[str, dict]) -> str:
    rows = "".join(
        f'<tr><td class="{"good" if check.holds else "bad"}">{"✓" if check.holds else "✗"}</td>'
        f"<td>{html.escape(check.says)}</td>"
        f'<td class="n">{say(check.left)}</td><td class="n">{say(check.right)}</td></tr>'
        for check in checks(figures)
    )
    return f"<h2>Nothing disappears</h2><table>{rows}</table>"


def _section(stage: str, path: Path, figures: dict, out: Path) -> str:
    picture = path.with_suffix(".png")
    shown = ""
    if picture.exists():
        shown = (
            f'<img alt="{stage}" '
            f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}">'
        )
    files = ", ".join(_link(Path(name), out, name) for name in figures["products"])
    plain = {
        key: value for key, value in figures.items() if key not in ("stage", "software", "products")
    }
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{_value(value)}</td></tr>"
        for key, value in plain.items()
    )
    tables = "".join(_value(figures[key]) for key in OPEN.get(stage, ()))
    return (
        f'<h2 id="{stage}">{stage}</h2>{shown}{tables}<p class="sub">{files} · '
        f"{_link(path, out, path.name)}</p>"
        f"<details><summary>all figures</summary><table>{rows}</table></details>"
    )


def _value(value: Any) -> str:
    """Return a figure as HTML: numbers plain, lists in a row, mappings and lists of mappings as
    tables.
    """
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        keys = [k for k, v in next(iter(value.values())).items() if not isinstance(v, dict)]
        head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
        rows = "".join(
            f"<tr><th>{html.escape(str(name))}</th>"
            + "".join(f"<td>{_value(item.get(key))}</td>" for key in keys)
            + "</tr>"
            for name, item in value.items()
        )
        return f"<table><tr><th></th>{head}</tr>{rows}</table>"
    if isinstance(value, dict):
        return ", ".join(f"{html.escape(str(key))}: {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " &ensp;".join(_value(item) for item in value)
    return html.escape(say(value, 6))


def _link(path: Path, out: Path, text: str) -> str:
    """Return a link that still works when the folder moves."""
    relative = os.path.relpath(path.absolute(), out.absolute().parent)
    return f'<a href="{html.escape(relative)}"><code>{html.escape(text)}</code></a>'
