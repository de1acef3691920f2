"""Figures and picture of `adopt`: what became of the lines of the spec files."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import AdoptOutcome
from spreadflow.io import store
from spreadflow.report import style


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs that a spec file tells of, a block for each, and the page."""
    tables = {
        str(store.attributes(path, stage)["run"]): store.read(path, stage) for path in products
    }
    told = figures(list(tables.values())) | {
        "runs": {run: figures([table]) for run, table in tables.items()}
    }
    return told, picture(list(tables.values()), told)


def figures(tables: list[dict]) -> dict[str, Any]:
    """Return figures over some runs."""
    outcome = np.concatenate([t["lines/outcome"] for t in tables])
    kept = outcome == AdoptOutcome.ADOPTED
    n, agree = (
        np.concatenate([t[f"lines/{name}"] for t in tables])[kept].sum()
        for name in ("n_reflections", "n_agree")
    )
    return {
        "n_lines": len(outcome),
        "n_adopted": int(kept.sum()),
        "outcomes": {end.name.lower(): int((outcome == end).sum()) for end in AdoptOutcome},
        "n_reflections": int(n),
        "indices_agree": float(agree / n) if n else None,
    }


def picture(tables: list[dict], told: dict) -> Figure:
    """Return how lines ended, and how well reflections and lattices go together."""
    page = style.page(
        "adopt: lattices that were indexed elsewhere",
        f"{style.say(told['n_adopted'])} of {style.say(told['n_lines'])} lines adopted",
    )
    ends, agreement = page.subplots(1, 2)
    counts = {name.replace("_", " "): n for name, n in told["outcomes"].items() if n}
    colors = [style.GREEN if name == "adopted" else style.ORANGE for name in counts]
    style.bars(ends, list(counts), list(counts.values()), colors)
    ends.set_title(f"how {style.say(told['n_lines'])} lines ended")
    n, agree = (
        np.concatenate([t[f"lines/{name}"] for t in tables])
        for name in ("n_reflections", "n_agree")
    )
    agreement.plot(n, agree, ".", color=style.BLUE, alpha=0.6)
    agreement.axline((0, 0), slope=1, color=style.PALE, lw=0.8)
    agreement.set(
        xlabel="indexed reflections of the .refl", ylabel="where A puts their Miller index"
    )
    agreement.set_title("do reflections and lattice agree?")
    return page
