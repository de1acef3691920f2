"""Which columns of an MTZ table hold merged intensities or amplitudes: by their type first, by
usual labels then.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

INTENSITIES = ("imean", "i", "iobs", "i-obs", "i_obs")
"""Usual labels of intensities, without sign and in lower case, in order of preference; any other
column of the type is taken after them.
"""

AMPLITUDES = ("f", "fp", "fobs", "f-obs", "f_obs", "fc", "fmodel", "f-model")
"""The same of amplitudes."""

MAP_COEFFICIENTS = re.compile(r"fofc|fwt|^del")
"""Amplitudes of maps, such as FWT, DELFWT and 2FOFCWT: they are of the type of amplitudes, and none
of a crystal.
"""

SIGMA_TYPES = "QLM"
"""MTZ types of standard deviations: of any value, of F of a mate, of I of a mate."""

OF_MATES = {"J": "K", "F": "G"}
"""Type of a mean → type of the same for each Friedel mate."""

SIGN = re.compile(r"\([+-]\)|[+-]$|plus|minus")
"""What says in a label, in lower case, which Friedel mate a column is of."""

MINUS = {"(+)": "(-)", "+": "-", "plus": "minus"}
"""Sign of I(+) → that of I(−)."""


class Column(NamedTuple):
    """A column of an MTZ table."""

    label: str
    type: str
    """one letter"""


class Choice(NamedTuple):
    """The columns that hold intensities or amplitudes: numbers of one column, or of those of (+)
    and (−).
    """

    values: tuple[int, ...]
    sigmas: tuple[int | None, ...]
    """of the same; None = there is none"""
    is_amplitude: bool


class Kind(NamedTuple):
    """A kind of values."""

    type: str
    """MTZ type of the mean"""
    is_of_mates: bool
    preferred: Sequence[str]


MEAN_FIRST = (
    Kind("J", False, INTENSITIES),
    Kind("J", True, INTENSITIES),
    Kind("F", False, AMPLITUDES),
    Kind("F", True, AMPLITUDES),
)
"""Kinds of values in order of preference where Friedel mates are averaged."""

MATES_FIRST = (
    Kind("J", True, INTENSITIES),
    Kind("J", False, INTENSITIES),
    Kind("F", True, AMPLITUDES),
    Kind("F", False, AMPLITUDES),
)
"""The same where Friedel mates are apart."""


def chosen(columns: Sequence[Column], kinds: Sequence[Kind]) -> Choice | None:
    """Return the columns of the first kind that there is: those with the most usual label, else
    those with σ, else the first. None = no column is of any kind.
    """
    lowered = [Column(column.label.lower(), column.type) for column in columns]
    for kind in kinds:
        choices = list(_of_kind(lowered, kind))
        if choices:
            return min(choices, key=lambda choice: _rank(lowered, choice, kind))
    return None


def _of_kind(columns: Sequence[Column], kind: Kind) -> Iterator[Choice]:
    """Yield the choices among columns, labels in lower case, of a kind."""
    is_amplitude = kind.type == "F"
    for number, (label, type_) in enumerate(columns):
        sign = SIGN.search(label)
        if is_amplitude and MAP_COEFFICIENTS.search(label):
            continue
        if not kind.is_of_mates and sign is None and type_ == kind.type:
            yield Choice((number,), (_sigma(columns, number),), is_amplitude)
        is_plus = sign is not None and sign.group() in MINUS
        if kind.is_of_mates and is_plus and type_ in (kind.type, OF_MATES[kind.type]):
            minus = _numbered(columns, _of_minus(label), type_)
            if minus is not None:
                sigmas = (_sigma(columns, number), _sigma(columns, minus))
                yield Choice((number, minus), sigmas, is_amplitude)


def _rank(columns: Sequence[Column], choice: Choice, kind: Kind) -> tuple[int, bool, int]:
    """Return what is smaller for a choice that is preferred to another."""
    label = SIGN.sub("", columns[choice.values[0]].label)
    usual = [*kind.preferred, label].index(label)
    return usual, None in choice.sigmas, choice.values[0]


def _of_minus(label: str) -> str:
    """Return the label of (−) beside that of (+), both in lower case."""
    return SIGN.sub(lambda sign: MINUS[sign.group()], label, count=1)


def _sigma(columns: Sequence[Column], number: int) -> int | None:
    """Return the number of the column that has the standard deviations of another: the one that is
    labelled so, else the next one if it is of such a type.
    """
    labelled = _numbered(columns, f"sig{columns[number].label}", SIGMA_TYPES)
    if labelled is not None:
        return labelled
    after = columns[number + 1 : number + 2]
    return number + 1 if after and after[0].type in SIGMA_TYPES else None


def _numbered(columns: Sequence[Column], label: str, types: str) -> int | None:
    """Return the number of the column of a label, and of one of some types, if there is one."""
    for number, column in enumerate(columns):
        if column.label == label and column.type in types:
            return number
    return None
