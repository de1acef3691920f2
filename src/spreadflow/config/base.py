"""What the sections have in common: no unknown keys, rules that span keys, cells and space groups,
readable errors.
"""

from collections.abc import Iterator
from typing import Annotated, Any, get_args

import gemmi
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from spreadflow.errors import ConfigError


class Section(BaseModel):
    """A section forbids unknown keys and is immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Inconsistent(ValueError):
    """A rule that spans keys is broken: `key` (below the section that checks it), what is allowed,
    what was found.
    """

    def __init__(self, key: str, expected: str, found: object):
        self.key, self.expected, self.found = key, expected, found
        super().__init__(f"{key}: expected {expected}; found {found}")


def _space_group(name: str) -> str:
    group = gemmi.find_spacegroup_by_name(name)
    if group is None:
        raise ValueError("a space group gemmi knows, such as 'C 1 2 1' or 'P 41 21 2'")
    return group.xhm()


def _cell(cell: list[float]) -> list[float]:
    if (
        len(cell) != 6
        or min(cell) <= 0
        or max(cell[3:]) >= 180
        or not gemmi.UnitCell(*cell).volume > 0
    ):
        raise ValueError("six positive numbers a b c (Å) α β γ (degrees, < 180) of positive volume")
    return cell


SpaceGroupName = Annotated[str, AfterValidator(_space_group)]
CellParameters = Annotated[list[float], AfterValidator(_cell)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def check_cell_fits_group(cell: list[float], group: str) -> None:
    """Raise Inconsistent if the space group's metric symmetry contradicts the cell by more than 1 %
    or 1°.
    """
    sg = gemmi.find_spacegroup_by_name(group)
    a, b, c, al, be, ga = cell

    def same(x, y):
        return abs(x - y) <= 0.01 * max(x, y)

    def angle(x, y):
        return abs(x - y) <= 1.0

    right = angle(al, 90) and angle(be, 90) and angle(ga, 90)
    system = sg.crystal_system_str()
    if system == "trigonal" and sg.ext == "R":
        ok = same(a, b) and same(b, c) and angle(al, be) and angle(be, ga)
        need = "a = b = c, α = β = γ"
    elif system in ("trigonal", "hexagonal"):
        ok = same(a, b) and angle(al, 90) and angle(be, 90) and angle(ga, 120)
        need = "a = b, 90 90 120"
    elif system == "cubic":
        ok = same(a, b) and same(b, c) and right
        need = "a = b = c, 90 90 90"
    elif system == "tetragonal":
        ok = same(a, b) and right
        need = "a = b, 90 90 90"
    elif system == "orthorhombic":
        ok, need = right, "90 90 90"
    elif system == "monoclinic":
        unique = sg.monoclinic_unique_axis()
        others = {"a": (be, ga), "b": (al, ga), "c": (al, be)}[unique]
        ok = all(angle(x, 90) for x in others)
        need = f"two right angles (unique axis {unique})"
    else:
        ok, need = True, ""
    if not ok:
        raise Inconsistent("cell", f"a cell with {need} (space group '{group}')", cell)


def explain(error: ValidationError, where: object, model: type[BaseModel]) -> ConfigError:
    """Return the first validation error as one sentence naming the key, what was found and what is
    allowed.
    """
    key, expected, found = first(error, model)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigError(
        f"{where}: {key or '(whole file)'}", expected, found, f"See docs/config.md.{more}"
    )


def first(error: ValidationError | Inconsistent, model: type[BaseModel]) -> tuple[str, str, str]:
    """Return (key, what is allowed, what was found) of the first error."""
    if isinstance(error, Inconsistent):
        return error.key, error.expected, str(error.found)
    top = error.errors()[0]
    key = ".".join(str(p) for p in top["loc"])
    cause = top.get("ctx", {}).get("error")
    if isinstance(cause, Inconsistent):
        return ".".join(filter(None, (key, cause.key))), cause.expected, str(cause.found)
    if top["type"] == "extra_forbidden":
        return key, f"one of the keys {', '.join(_keys(model, top['loc'][:-1]))}", "an unknown key"
    if top["type"] == "missing":
        return key, "this key", "nothing"
    branches = [top]
    if (
        top["loc"]
        and isinstance(top["loc"][-1], str)
        and top["loc"][-1] not in _keys(model, top["loc"][:-1])
    ):  # one of several types
        key = key.rpartition(".")[0]
        branches = [e for e in error.errors() if e["loc"][:-1] == top["loc"][:-1]]
    allowed = [
        e["msg"].removeprefix("Value error, ").removeprefix("Input should be ") for e in branches
    ]
    return key, " or ".join(allowed), repr(top["input"])


def _keys(model: type[BaseModel], place: tuple) -> list[str]:
    """Return the keys of the section at `place` below `model`; list indices and names of runs are
    passed over.
    """
    for part in place:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if field is not None:
            model = next(_sections_in(field.annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections in a type such as `dict[str, RunSection] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
