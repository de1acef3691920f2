"""What the sections have in common: no unknown keys, rules that span keys, cells and space groups,
readable errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import gemmi
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from spreadflow.errors import ConfigError

T = TypeVar("T")


class Section(BaseModel):
    """A section forbids unknown keys and is immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # a stage builds the sections that it reads
    )

    @classmethod
    def defaults(cls) -> Self:
        """Return the section with all defaults, unchecked: to check them builds the section, which
        not every stage needs.
        """
        return cls.model_construct()

    @model_validator(mode="before")
    @classmethod
    def _no_traps(cls, value: Any) -> Any:
        """Refuse true and false where they are no values of a key: YAML has them for yes, no, on
        and off, and they would count as 1 and 0; and empty paths, which would stand for the folder
        that the program runs in. Raises Inconsistent.
        """
        keys = value if isinstance(value, Mapping) else {}
        for name, field in cls.model_fields.items():
            key = field.alias or name
            values = list(_values_in(keys.get(key)))
            types = set(_types_in(field.annotation))
            if any(isinstance(one, bool) for one in values) and types.isdisjoint((bool, Any)):
                expected = "a value that is neither true nor false (yes, no, on, off)"
                raise Inconsistent(key, expected, keys[key])
            if "" in values and Path in types:
                raise Inconsistent(key, "a path that is not empty", "''")
        return value


class Inconsistent(ValueError):
    """A rule that spans keys is broken: `key` (below the section that checks it), what is allowed,
    what was found.
    """

    def __init__(self, key: str, expected: str, found: object):
        self.key = key
        self.expected = expected
        self.found = found
        super().__init__(f"{key}: expected {expected}; found {found}")


def _values_in(value: Any) -> Iterator[Any]:
    """Yield a value, or those in a list and in the lists within it."""
    if isinstance(value, list):
        for inner in value:
            yield from _values_in(inner)
    else:
        yield value


def _types_in(annotation: Any) -> Iterator[Any]:
    """Yield a type and all types in it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


def _different(values: list[T]) -> list[T]:
    """Return a list as it is. Raises ValueError where it has a value twice."""
    if len({str(value) for value in values}) < len(values):
        raise ValueError("none of its values twice")
    return values


def _space_group(name: str) -> str:
    """Return the full name of a space group. Raises ValueError for a name that is none."""
    group = gemmi.find_spacegroup_by_name(name)
    if group is None:
        raise ValueError("a space group gemmi knows, such as 'C 1 2 1' or 'P 41 21 2'")
    return group.xhm()


SMALLEST_CELL = 1000.0
"""Volume of a unit cell, Å³, at least: crystals of peptides have 2000. A protein's of 100 Å along
each edge has no more in nm³.
"""

LONGEST_EDGE = 5000.0
"""Of a unit cell, Å, at most: crystals of viruses have 1500. Lists of reflections grow with the
volume.
"""


def _cell(cell: list[float]) -> list[float]:
    """Return a cell as it is. Raises ValueError for numbers that make no cell, or one that no
    crystal has.
    """
    is_possible = len(cell) == 6 and min(cell) > 0 and max(cell[3:]) < 180
    if not is_possible or not gemmi.UnitCell(*cell).volume > 0:
        raise ValueError("six positive numbers a b c (Å) α β γ (degrees, < 180) of positive volume")
    if max(cell[:3]) > LONGEST_EDGE or gemmi.UnitCell(*cell).volume < SMALLEST_CELL:
        raise ValueError(
            f"a cell of at least {SMALLEST_CELL:g} Å³ with edges of at most {LONGEST_EDGE:g} Å "
            "(in Å, not in nm)"
        )
    return cell


SpaceGroupName = Annotated[str, AfterValidator(_space_group)]
"""A space group by any name gemmi knows; becomes its full one."""

CellParameters = Annotated[list[float], AfterValidator(_cell)]
"""a b c (Å) α β γ (degrees)."""

Chosen = Annotated[list[T], Field(min_length=1), AfterValidator(_different)]
"""At least one value, none twice."""

Resolution = Annotated[float, Field(ge=0.3, le=10_000)]
"""A spacing of lattice planes, Å. Lists of reflections grow with its inverse cube."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What random numbers begin with."""

EDGE_TOLERANCE = 0.01
"""Relative difference of edges that count as equal."""

ANGLE_TOLERANCE_DEG = 1.0
"""Difference of angles that count as equal, degrees."""


def rotations_and_centring(group: gemmi.SpaceGroup) -> tuple[frozenset[str], frozenset[str]]:
    """Return what two space groups have in common whose crystals are indexed alike: the operations
    without their shifts, about the same axes, and the shifts of the centring.
    """
    operations = group.operations().derive_symmorphic()
    centring = frozenset(str(shift) for shift in operations.cen_ops)
    return frozenset(operation.triplet() for operation in operations.sym_ops), centring


def check_cell_fits_group(cell: list[float], group: str) -> None:
    """Raise Inconsistent if the space group's metric symmetry contradicts the cell by more than 1 %
    or 1°.
    """
    fits, needed = _metric_rule(cell, gemmi.find_spacegroup_by_name(group))
    if not fits:
        raise Inconsistent("cell", f"a cell with {needed} (space group '{group}')", cell)


def _metric_rule(cell: list[float], group: gemmi.SpaceGroup) -> tuple[bool, str]:
    """Return whether a cell has the metric symmetry of a space group, and what that is in words."""
    a, b, c, *angles = cell
    alpha, beta, gamma = angles
    are_right = _angles_agree(angles, (90, 90, 90))
    match group.crystal_system_str():
        case "trigonal" if group.ext == "R":
            are_equal = _angles_agree((alpha, beta), (beta, gamma))
            return _edges_agree(a, b, c) and are_equal, "a = b = c, α = β = γ"
        case "trigonal" | "hexagonal":
            are_hexagonal = _angles_agree(angles, (90, 90, 120))
            return _edges_agree(a, b) and are_hexagonal, "a = b, 90 90 120"
        case "cubic":
            return _edges_agree(a, b, c) and are_right, "a = b = c, 90 90 90"
        case "tetragonal":
            return _edges_agree(a, b) and are_right, "a = b, 90 90 90"
        case "orthorhombic":
            return are_right, "90 90 90"
        case "monoclinic":
            axis = group.monoclinic_unique_axis()
            others = {"a": (beta, gamma), "b": (alpha, gamma), "c": (alpha, beta)}[axis]
            needed = f"two right angles (unique axis {axis})"
            return _angles_agree(others, (90, 90)), needed
    return True, "any edges and angles"


def _edges_agree(*edges: float) -> bool:
    """Whether edges of a cell count as equal, each with the next."""
    return all(abs(a - b) <= EDGE_TOLERANCE * max(a, b) for a, b in pairwise(edges))


def _angles_agree(angles: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether angles of a cell count as equal to others, in their order, degrees."""
    pairs = zip(angles, expected, strict=True)
    return all(abs(angle - other) <= ANGLE_TOLERANCE_DEG for angle, other in pairs)


MOVED = {
    "gain": "gain",
    "readout_photons": "readout_photons",
    "readout_adu": "readout_photons (in photons)",
    "calibration_error": "calibration_error",
    "gain_calibration": "calibration_error",
    "psf": "psf",
    "psf_fwhm_mm": "psf_fwhm_mm",
    "size_mm": "beam_size_mm",
}
"""Keys that other sections once had → the key of `recording` that has replaced them."""


def explain(error: ValidationError, where: object, model: type[BaseModel]) -> ConfigError:
    """Return the first validation error as one sentence naming the key, what was found and what is
    allowed.
    """
    key, expected, found = first_error(error, model)
    n_more = error.error_count() - 1
    more = f" ({n_more} more)" if n_more else ""
    todo = f"See docs/config.md.{more}"
    return ConfigError(f"{where}: {key or '(whole file)'}", expected, found, todo)


def first_error(
    error: ValidationError | Inconsistent, model: type[BaseModel]
) -> tuple[str, str, str]:
    """Return the key, what is allowed and what was found of the first error in a section."""
    if isinstance(error, Inconsistent):
        return error.key, error.expected, str(error.found)
    details = error.errors()
    top = details[0]
    place = top["loc"]
    key = ".".join(map(str, place))
    cause = top.get("ctx", {}).get("error")
    if isinstance(cause, Inconsistent):
        full_key = ".".join(filter(None, (key, cause.key)))
        return full_key, cause.expected, str(cause.found)
    if top["type"] == "extra_forbidden":
        if place[-1] in MOVED:
            return key, f"recording.{MOVED[place[-1]]}, once for all stages", "an old key"
        keys = _keys(model, place[:-1])
        return key, f"one of the keys {', '.join(keys)}", "an unknown key"
    if top["type"] == "missing":
        return key, "this key", "nothing"

    branches = [top]
    if _names_a_type(model, place):  # the key allows several types: an error for each
        key = key.rpartition(".")[0]
        branches = [detail for detail in details if detail["loc"][:-1] == place[:-1]]
    allowed = [_allowed(branch["msg"]) for branch in branches]
    return key, " or ".join(allowed), repr(top["input"])


def _names_a_type(model: type[BaseModel], place: tuple) -> bool:
    """Whether the last word of an error's place is no key: pydantic then means one of the types
    that the key allows.
    """
    if not place or not isinstance(place[-1], str):
        return False
    return place[-1] not in _keys(model, place[:-1])


def _allowed(message: str) -> str:
    """Return what is allowed, from a message of pydantic."""
    return message.removeprefix("Value error, ").removeprefix("Input should be ")


def _keys(model: type[BaseModel], place: tuple) -> list[str]:
    """Return the keys of the section at `place` below `model`; list indices and names of runs are
    passed over.
    """
    for word in place:
        for name, field in model.model_fields.items():
            if word in (name, field.alias):
                model = next(_sections_in(field.annotation), model)
                break
    return [field.alias or name for name, field in model.model_fields.items()]


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections in a type such as `dict[str, RunSection] | None`."""
    for inner in _types_in(annotation):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner
