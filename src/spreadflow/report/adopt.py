"""Figures and picture of `adopt`: what became of the lattices of other programs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from spreadflow.errors import AdoptOutcome
from spreadflow.io import store
from spreadflow.products import Adopt
from spreadflow.products.adopt import Lines
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import outcome_counts
from spreadflow.report.style import percent, say


def make(_stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs whose lattices are other programs', with a block for each, and
    the picture.
    """
    attributes = [store.attributes(path, Adopt) for path in products]
    names = [str(of_run["run"]) for of_run in attributes]
    runs = {name: store.read(path, Adopt) for name, path in zip(names, products, strict=True)}
    lines = Adopt.joined(list(runs.values())).lines
    figures = _figures(lines)
    figures["without_images"] = [
        name for name, of_run in zip(names, attributes, strict=True) if of_run.get("lattices")
    ]
    figures["runs"] = {run: _figures(adopt.lines) for run, adopt in runs.items()}
    return figures, _picture(lines, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    agreeing = percent(figures["indices_agree"])
    lines = [
        f"{say(figures['n_lines'])} lattices: {style.outcomes(figures)}",
        f"{agreeing} of their {say(figures['n_reflections'])} reflections where the lattice puts "
        "their Miller index",
    ]
    if figures["without_images"]:
        runs = ", ".join(figures["without_images"])
        lines.append(f"no images of {runs}: stages that need pixels leave it out")
    return lines


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "adopt" not in summaries:
        return []
    adopt = summaries["adopt"]
    equalities = [one_outcome_each("lattice of another program", adopt, "n_lines")]
    if "reindex" in summaries:
        runs = summaries["reindex"]["runs"]
        n_lattices = sum(runs[run]["n_lattices"] for run in adopt["runs"])
        statement = "each lattice adopted is one of reindex"
        equalities.append(Check(statement, adopt["n_adopted"], n_lattices))
    return equalities


def _figures(lines: Lines) -> dict[str, Any]:
    """Return figures over the lines of some runs."""
    is_adopted = lines.outcome == AdoptOutcome.ADOPTED
    n_reflections = lines.n_reflections[is_adopted].sum()
    n_agree = lines.n_agree[is_adopted].sum()
    return {
        "n_lines": len(lines),
        "n_adopted": int(is_adopted.sum()),
        "outcomes": outcome_counts(lines.outcome, AdoptOutcome),
        "n_reflections": int(n_reflections),
        "indices_agree": float(n_agree / n_reflections) if n_reflections else None,
    }


def _picture(lines: Lines, figures: dict) -> Figure:
    """Draw how lines ended, and how well reflections and lattices go together."""
    page = style.page(
        "adopt: lattices that were indexed elsewhere",
        f"{say(figures['n_adopted'])} of {say(figures['n_lines'])} lattices adopted",
    )
    outcomes, agreement = page.subplots(1, 2)
    counts = {name.replace("_", " "): n for name, n in figures["outcomes"].items() if n}
    colors = [style.GREEN if name == "adopted" else style.ORANGE for name in counts]
    style.bars(outcomes, list(counts), list(counts.values()), colors)
    outcomes.set_title(f"how {say(figures['n_lines'])} lattices ended")

    agreement.plot(lines.n_reflections, lines.n_agree, ".", color=style.BLUE, alpha=0.6)
    agreement.axline((0, 0), slope=1, color=style.PALE, lw=0.8)
    agreement.set(
        xlabel="indexed reflections of the file", ylabel="where A puts their Miller index"
    )
    agreement.set_title("do reflections and lattice agree?")
    return page
