"""The report of a plan, from figures made by hand."""

import json

import numpy as np
import pytest

from spreadflow.report import plan


def _row(n_cells: int, restraint: str, lattices: float, error: float | None = None) -> dict:
    sigma = 0.1 * np.sqrt(lattices / np.array([100.0, 1000.0]))
    quantities = [f"{part}{kind}" for part in ("", "shape_", "constant_") for kind in ("fp", "fdp")]
    of_each = {f"sigma_{name}_e": np.minimum(sigma, 5.0) for name in quantities}
    of_each |= {f"lattices_{name}": lattices for name in quantities}
    return of_each | {
        "n_cells": n_cells,
        "psf_fwhm_mm": 0.0,
        "d_min": 2.1,
        "d_max": 4.0,
        "grid_ev": 2.0,
        "restraint": restraint,
        "n_reflections": 50.0,
        "sigma_edge_difference_ev": sigma / 5,
        "model_error": error,
    }


@pytest.mark.stage
def test_a_case_that_no_number_of_lattices_serves(tmp_path, capsys):
    """A case that is out of reach, beside one that 1234 lattices serve: page, figures and table are
    made, and say so.
    """
    kinds = [
        (20, "free", 1234.0),
        (20, "kramers_kronig", 500.0),
        (40, "free", np.inf),
        (40, "kramers_kronig", np.inf),
    ]
    figures = {
        "rows": [_row(*kind) for kind in kinds],
        "goal_e": 0.1,
        "lattices": [100, 1000],
        "sites": ["FE1"],
        "elements": ["Fe"],
        "bands_ev": [[7100.0, 7140.0]],
        "n_simulated": 2,
    }
    plan.run(figures, tmp_path / "plan.json")

    assert (tmp_path / "plan.png").stat().st_size > 20_000

    rows = json.loads((tmp_path / "plan.json").read_text())["rows"]
    assert [row["lattices_fp"] for row in rows[1:3]] == [500.0, None]
    assert "endless" in capsys.readouterr().out

    words = [text.get_text().strip() for axes in plan._picture(figures).axes for text in axes.texts]
    assert words == ["1 234", "endless"]
