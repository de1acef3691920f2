"""tdata: one line per lattice, the text that cctbx's `uc_metrics` clusters."""

from pathlib import Path

import numpy as np

from spreadflow.io.store import write_text
from spreadflow.physics import symmetry


def write(path: Path | str, cells: np.ndarray, space_group: str) -> None:
    """Write cells (n, 6), Å and degrees, each followed by the symbol of the lattice's own symmetry,
    without blanks.
    """
    symbol = symmetry.metric_symbol(space_group)
    lines = []
    for cell in cells:
        numbers = [f"{value:.6f}" for value in cell]
        lines.append(" ".join([*numbers, symbol]) + "\n")

    write_text(path, "".join(lines))
