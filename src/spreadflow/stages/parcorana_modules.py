"""What configurations and user modules of ParCorAna import, where it is not installed: stand-ins of
`ParCorAna`, `ParCorAna.UserG2` and `psana`, as far as a configuration needs them.

Names of psana stand for themselves: nothing can be read by them.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from spreadflow.analysis.correlation.delays import spaced
from spreadflow.callbacks import UserCorrelation


class G2Common(UserCorrelation):
    """G2 as it is configured."""


class G2atEnd(G2Common):
    """G2 of the shots at hand, formed when results are wanted."""

    calculator = "at_end"


class G2IncrementalAccumulator(G2Common):
    """G2 of the whole run, kept up as shots come."""

    calculator = "accumulating"


class G2onGoing(G2IncrementalAccumulator):
    """The same by its earlier name."""


class G2IncrementalWindowed(G2Common):
    """G2 of the shots at hand, kept up as shots come and go."""

    calculator = "windowed"


OWN_CLASSES = {
    kind.__name__: kind
    for kind in (G2Common, G2atEnd, G2IncrementalAccumulator, G2onGoing, G2IncrementalWindowed)
}
"""The classes of `ParCorAna.UserG2`, by their name."""


class Name:
    """A name of psana, such as `psana.CsPad.DataV2`, and those below it."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, word: str) -> "Name":
        if word.startswith("__"):
            raise AttributeError(word)
        return Name(f"{self._name}.{word}")

    def __call__(self, *arguments: object) -> "Name":
        return Name(f"{self._name}({', '.join(map(repr, arguments))})")

    def __repr__(self) -> str:
        return self._name


def makeDelayList(
    start: int, stop: int, num: int, spacing: str, logbase: float = np.e
) -> np.ndarray:
    """Return distinct delays, ascending. spacing: log or lin; their number does not depend on the
    base.
    """
    if spacing not in ("log", "lin"):
        raise ValueError(f"spacing must be 'log' or 'lin', not {spacing!r}")
    return spaced(start, stop, num, spacing == "log").astype(np.int32)


def makePsanaOptions(
    srcString: str,
    psanaType: Any,
    ndarrayOutKey: str | None = None,
    ndarrayCalibOutKey: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Return options of psana-1, and the type of the arrays that it would make: none."""
    return {}, ""


def checkParams(*_parameters: object, **_options: object) -> None:
    """Check nothing: a configuration is checked when it is read."""


def _modules() -> dict[str, ModuleType]:
    """Return the stand-ins by name."""
    user_g2 = ModuleType("ParCorAna.UserG2")
    vars(user_g2).update(OWN_CLASSES)
    parcorana = ModuleType("ParCorAna")
    parcorana.__path__ = []
    functions = (makeDelayList, makePsanaOptions, checkParams)
    vars(parcorana).update({function.__name__: function for function in functions})
    vars(parcorana)["UserG2"] = user_g2
    psana = ModuleType("psana")
    psana.__getattr__ = lambda word: Name(f"psana.{word}")  # type: ignore[method-assign]
    return {"ParCorAna": parcorana, "ParCorAna.UserG2": user_g2, "psana": psana}


def _is_installed(name: str) -> bool:
    """Whether a package can be imported."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


@contextmanager
def standing_in() -> Iterator[None]:
    """Let the packages be imported for a while, each by its stand-in where it is not installed."""
    missing = {
        name: module
        for name, module in _modules().items()
        if not _is_installed(name.partition(".")[0])
    }
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
