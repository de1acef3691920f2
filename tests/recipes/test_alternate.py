"""Two descriptions in turns, on numbers: what each turn is given, and when it is over."""

import pytest

from spreadflow.recipes.alternate import alternate


def test_turns_go_on_from_each_other_until_they_stay():
    """The square root of 2 by Heron: the reciprocal is expanded, and the mean is the new state."""
    states = []

    def expand(state: float | None) -> float:
        states.append(state)
        return 2.0 / (1.0 if state is None else state)

    def reduce(expanded: float, state: float | None) -> tuple[float, float]:
        before = 1.0 if state is None else state
        mean = 0.5 * (before + expanded)
        return mean, abs(mean - before)

    turns = alternate(expand, reduce, lambda changes: changes[-1] < 1e-9)

    assert turns.state == pytest.approx(2.0**0.5, abs=1e-12)
    assert turns.expanded == 2.0 / states[-1], "of the state that the last turn began with"
    assert states[0] is None
    assert len(states) == len(turns.changes)
    assert turns.changes == sorted(turns.changes, reverse=True)


def test_the_first_turn_may_be_the_last():
    turns = alternate(lambda state: "lattices", lambda expanded, state: ("curves", 3.0), bool)
    assert turns == ("curves", "lattices", [3.0])
