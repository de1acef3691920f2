"""Nothing disappears: the counts that must agree from stage to stage."""

from typing import Any, NamedTuple

from spreadflow.report import WORDS, module_of

Summaries = dict[str, dict[str, Any]]
"""Word of a stage → its figures."""


class Check(NamedTuple):
    """Two counts that must be equal."""

    statement: str
    """what their equality means, in words"""
    left: int
    right: int

    @property
    def holds(self) -> bool:
        """Whether the counts are equal."""
        return self.left == self.right


def collect(summaries: Summaries) -> list[Check]:
    """Return the checks of all stages that have summaries, in the order of the workflow."""
    modules = dict.fromkeys(module_of(word) for word in WORDS)
    return [
        check
        for module in modules
        if hasattr(module, "checks")
        for check in module.checks(summaries)
    ]


def with_images(summaries: Summaries, figure: str) -> int:
    """Return a figure of `cells` over the runs that have images: what needs pixels takes these."""
    without = summaries.get("adopt", {}).get("without_images", [])
    runs = summaries["cells"].get("runs", {})
    left_out = sum(runs[name][figure] for name in without)
    return summaries["cells"][figure] - left_out


def one_outcome_each(member: str, figures: dict[str, Any], total: str) -> Check:
    """Return the check that outcomes add up to the number of those that had to have one.

    member: what has an outcome, in words. total: key of the figure that counts them.
    """
    n_outcomes = sum(figures["outcomes"].values())
    return Check(f"each {member} has one outcome", n_outcomes, figures[total])
