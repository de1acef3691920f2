"""Errors and warnings a person can act on, and the named ends a shot or a lattice can have."""

from enum import IntEnum
from typing import Any, NamedTuple


class SpreadflowError(Exception):
    """Wrong input. Says where, what was expected, what was found and what to do."""

    exit_code = 2

    def __init__(self, where: object, expected: str, found: object, todo: str):
        self.where, self.expected, self.found, self.todo = where, expected, found, todo
        super().__init__(f"{where}: expected {expected}; found {_one_line(found)}. {todo}")


def _one_line(found: object, longest: int = 400) -> str:
    """Return what was found as one line of bounded length: messages of libraries may hold whole
    files.
    """
    text = " ".join(str(found).split())
    return text if len(text) <= longest else f"{text[:longest]} …"


class ConfigError(SpreadflowError):
    """A config key is unknown, missing or out of range."""

    exit_code = 3


class FileError(SpreadflowError):
    """A file is missing, broken, or belongs to another run or config."""

    exit_code = 4


class RanksError(SpreadflowError):
    """The communicator is not the one the stage was told it would get."""

    exit_code = 5


class StageWarning(NamedTuple):
    """What a person must know about a result before they trust it.

    A stage keeps its warnings in the attribute `warnings` of its product and logs them; the report
    and the closing table show them first.
    """

    what: str
    """what is wrong, in words: the scales still move
    """
    value: float | str
    """the figure that shows it, with its unit"""
    limit: float | str
    """what the figure should be"""
    todo: str
    """what to do about it"""

    def sentence(self) -> str:
        """Return the warning in one line."""
        return warning_sentence(self._asdict())


def warning_sentence(warning: dict[str, Any]) -> str:
    """Return a warning, as a product or a summary holds it, in one line."""
    value, limit = (
        f"{figure:.4g}" if isinstance(figure, float) else str(figure)
        for figure in (warning["value"], warning["limit"])
    )
    return f"{warning['what']}: {value} (should be {limit}). {warning['todo']}".rstrip()


class Outcome(IntEnum):
    """How a shot ended in `index` or `reindex`. Exactly one per shot; counts add up to the shots
    read.
    """

    INDEXED = 0
    """At least one lattice."""
    NO_LATTICE = 1
    """Enough spots for a hit, but no lattice explained them, or none with signal where it predicts
    it.
    """
    BLANK = 2
    """Fewer spots than `spots.min_spots`: no crystal was hit."""
    UNREADABLE = 3
    """The file is missing or truncated, or the frame does not decompress."""
    EMPTY = 4
    """Every valid pixel is the same number (for example all zeros)."""
    SATURATED = 5
    """More than `saturated_fraction_max` of the valid pixels are above the trusted range."""
    MASKED = 6
    """Too few valid pixels are left (mask, NaN, trusted range)."""
    BAD_SPECTRUM = 7
    """The wavelength or spectrum is missing, not finite or not positive."""
    OVERFLOW = 8
    """More spots than the fixed table holds."""
    NOT_SUPPLIED = 9
    """Lattices are those of a spec file, and it has none of this shot: not read."""


class AdoptOutcome(IntEnum):
    """How a lattice of another program, a line of a spec file, ended in `adopt`. Exactly one each:
    the first that holds, or ADOPTED.
    """

    ADOPTED = 0
    """Its lattice is in `reindex`."""
    UNREADABLE = 1
    """The .expt or .refl is missing, broken, or lacks what a lattice needs, or its axes are no
    right-handed basis; the log tells what.
    """
    NO_EXPERIMENT = 2
    """The .expt has no experiment of this number, or several and the line names none."""
    NO_SHOT = 3
    """The experiment's image is none of the run's, or its name may stand for several."""
    OTHER_GROUP = 4
    """Its Laue class or centring is not that of `reindex.space_group`, on any axes that have the
    cell.
    """
    OTHER_CELL = 5
    """Its cell is further from `reindex.cell` than the tolerances, on any axes."""
    NOT_PAIRED = 6
    """Fewer than `reindex.min_indexed` reflections of the .refl are the experiment's."""
    OTHER_INDICES = 7
    """Less than half of its reflections lie where A puts their Miller indices."""
    DUPLICATE = 8
    """Turned by less than 1° against a lattice of the same shot on a line before."""
    LOST_SHOT = 9
    """The lattice is good, but its shot did not end as INDEXED."""
    UNKNOWN_MOSAICITY = 10
    """Intensities without images: neither the file nor `reindex.mosaic_spread_deg` says how mosaic
    the lattice is, and its peaks are too few to tell, so that partialities are not known.
    """


class Level0Outcome(IntEnum):
    """How a lattice of `index` ended in `level0`. Exactly one per lattice: the first that holds of
    NO_SPECTRUM, TOO_FEW, SURPLUS and UNLIKE, or USED.
    """

    USED = 0
    """The position of the detector rests on it."""
    NO_SPECTRUM = 1
    """The spectrum of its shot can't be read."""
    TOO_FEW = 2
    """Fewer than `level0.min_reflections` of its spots are indexed."""
    SURPLUS = 3
    """`level0.max_lattices` others came before it."""
    UNLIKE = 4
    """Its residuals are unlike those of the others, or too few of its spots lie as theirs do: it
    may be false. It is named in level0.fit.json, with what is wrong with it.
    """


class LatticeOutcome(IntEnum):
    """How a lattice ended in `cells`. Exactly one per lattice of `reindex`."""

    ACCEPTED = 0
    """In the chosen cluster: on the accepted list."""
    NOISE = 1
    """In no cluster of unit cells."""
    OTHER_CLUSTER = 2
    """In a cluster that is not the chosen one."""
    CELL_OUTLIER = 3
    """In the chosen cluster's neighbourhood, but beyond the Mahalanobis cut."""


class LearnedOutcome(IntEnum):
    """How a lattice ended in `mosaic`. Exactly one per lattice of the shoeboxes."""

    LEARNED = 0
    """The distribution, its own or shared, was learned from it."""
    CONTINUOUS = 1
    """Held-out shoeboxes are not likelier under what was learned: it keeps the continuous
    distribution.
    """
    LEFT_OUT = 2
    """One distribution is shared, and `mosaic.max_lattices` others taught it."""
    LOST = 3
    """No fit with the continuous distribution to begin with, or equations without solution."""


class SpreadOutcome(IntEnum):
    """How a lattice ended in `spread`. Exactly one per lattice of the shoeboxes."""

    USED = 0
    """Its pixels speak in the curves."""
    NOT_REFINED = 1
    """Stage 1 did not refine it to the end."""
    LOST = 2
    """No fit to the pixels of the wider range: too few, or no solution near that of stage 1."""


class RefinedOutcome(IntEnum):
    """How a lattice ended in `stage1`. Exactly one per lattice of `annulus`."""

    REFINED = 0
    """The fit against its pixels ended where no step promises more."""
    NOT_CONVERGED = 1
    """Still falling after `stage1.max_iterations`, or no step would lower it; the best point is
    kept.
    """
    TOO_FEW = 2
    """No more shoeboxes with pixels than unknowns."""
    LOST = 3
    """Turned by more than 0.5°, without a scale that its photons tell, or with equations that have
    no solution.
    """


class PredictedOutcome(IntEnum):
    """How a lattice ended in `predict`. Exactly one per lattice of `reindex`: the first that holds
    of SMEARED, NOT_REFINED, NEIGHBOUR and NO_SCALE, or PREDICTED.
    """

    PREDICTED = 0
    """Predicted as stage 1 refined it, and reflections were chosen."""
    NEIGHBOUR = 1
    """Stage 1 did not refine it to the end, but another lattice of its shot: predicted as in
    `reindex`, so that its pixels are not taken for the other's.
    """
    NOT_REFINED = 2
    """Stage 1 refined no lattice of its shot to the end: the image is not opened."""
    NO_SCALE = 3
    """Predicted as stage 1 refined it, but its intensities are too few, or do not stand out of
    their noise together: nothing is chosen.
    """
    SMEARED = 4
    """Stage 1 ended at a mosaic spread of more than 0.5°, which no lattice has: taken as in
    `reindex`, for a neighbour.
    """
