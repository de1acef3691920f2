"""The refinement of two descriptions of the same data in turns, until the second one converges.

That is the loop of SPREAD: lattices are refined against their pixels with the present curves
(expand), then the curves from all lattices together (reduce), and so on. The caller decides what is
expanded and reduced, on how many ranks, and where it is kept.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

Expanded = TypeVar("Expanded")
"""The data as described with a given state: the lattices with their Gram matrices."""

State = TypeVar("State")
"""The description that all data share: the curves."""


class Alternation(NamedTuple, Generic[State, Expanded]):
    """Where the turns ended."""

    state: State
    expanded: Expanded
    changes: list[float]
    """how far each turn moved the state"""


def alternate(
    expand: Callable[[State | None], Expanded],
    reduce: Callable[[Expanded, State | None], tuple[State, float]],
    has_converged: Callable[[list[float]], bool],
) -> Alternation[State, Expanded]:
    """Take turns until they have converged.

    expand: state of the turn before (None in the first) → the data as described with it. reduce:
    that description, and the state before → the new state, and how far it moved. has_converged:
    changes of all turns so far → whether to stop.
    """
    state: State | None = None
    changes: list[float] = []
    while True:
        expanded = expand(state)
        state, change = reduce(expanded, state)
        changes.append(change)
        if has_converged(changes):
            return Alternation(state, expanded, changes)
        del expanded  # it is as large as the next one, which needs its memory
