"""What `spread` warns of where X is unknown."""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.config import SpreadSection
from spreadflow.stages import curve_cycles
from spreadflow.stages import spread as stage

BARS = {
    "scale": ("|ln Σ|F|²/Σ(|M|² + S)|", "at most 0.05"),
    "model": ("√S of a shell over the model's r.m.s. |X|", "below 0.5"),
    "at rest": ("steps of curves and X", "as many as bring them to rest"),
}
"""Controls of X: what their figures are, and have to be."""


def warnings(
    log_scale: list[float],
    kind: str = "sandwich",
    failed: dict | None = None,
    scatter: float | None = None,
) -> list:
    """The warnings of a product that is right but for the controls that failed, name → figure."""
    failed = failed or {}
    controls = [
        {
            "name": name,
            "passed": name not in failed,
            "figure": failed.get(name, 0.0),
            "what": what,
            "bar": bar,
        }
        for name, (what, bar) in BARS.items()
    ]
    attributes = {
        "converged": True,
        "changes": [1.0, 0.01],
        "sigma_kinds": [kind],
        "sigma_over": "reflections",
        "n_parameters": 200,
        "controls": controls,
        "log_scale": log_scale,
        "scatter": scatter,
        "without_edge": [],
        "largest_bias": 0.0,
    }
    return stage._warnings(SpreadSection(), attributes)


def test_nothing_to_say_of_x_at_rest_on_the_scale_of_the_model():
    assert warnings([0.0, 0.02, -0.01]) == []
    assert warnings([]) == [], "X is the model's"
    assert warnings([0.2]) == [], "the first cycle is held, and judged by the control"


@pytest.mark.parametrize("name", ["scale", "model", "at rest"])
def test_a_control_of_x_that_fails_is_one_warning_with_what_to_do(name):
    (warning,) = warnings([0.0, 0.3 if name == "scale" else 0.0], failed={name: 0.3})
    assert warning.what == f"control failed ({name}), {BARS[name][0]}"
    assert warning.todo == stage.TODO_OF_CONTROL[name] != stage.LOOK


def test_a_scale_that_was_lost_on_the_way():
    (warning,) = warnings([0.0, 0.02, -0.08, 0.01])
    assert "cycle 3" in warning.what and warning.value == -0.08
    of_both = warnings([0.0, -0.08, -0.07], failed={"scale": 0.07})
    (warning,) = of_both  # said once
    assert warning.sentence().startswith(
        "control failed (scale), |ln Σ|F|²/Σ(|M|² + S)|: 0.07 (should be at most 0.05). f′"
    )


def test_too_few_reflections_are_called_so():
    (warning,) = warnings([], kind="scaled")
    assert warning.what.startswith("too few reflections") and "reflections" in warning.limit


def test_spots_far_off_their_models():
    assert warnings([], scatter=0.2) == []
    (warning,) = warnings([], scatter=0.4)
    assert warning.value == 0.4
    assert "stage1.mosaicity: learned" in warning.todo


def lattices(n_shoeboxes: list[int]) -> SimpleNamespace:
    """Lattices that recorded reflections so many times."""
    rest = SimpleNamespace(n=len(n_shoeboxes))
    return SimpleNamespace(rest=rest, n_shoeboxes=lambda: np.array(n_shoeboxes))


def test_too_little_is_known_of_x_where_reflections_are_met_once():
    (warning,) = curve_cycles._too_few(lattices([1, 1, 1, 1, 2]))
    assert warning.value == 1.2 and "5 reflections" in warning.what
    assert "spread.unknown_f: none" in warning.todo
    assert curve_cycles._too_few(lattices([1, 1, 2, 1, 2])) == []
    assert curve_cycles._too_few(SimpleNamespace(rest=None)) == [], "X is the model's"
