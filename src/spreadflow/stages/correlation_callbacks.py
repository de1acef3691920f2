"""The user's calculation inside `correlate`: a class of which every method may be left out.

The names are those of ParCorAna, also of its earlier revisions; docs/correlate.md has them with
their arguments. What is left out does what G2 needs.
"""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from spreadflow.errors import ConfigError

ARRAYS = ("G2", "IF", "IP")
"""Arrays that are calculated where the user's class does not say which."""


class UserCorrelation(Protocol):
    """All that a user's class may have; its constructor takes `user_params`, `system_params`,
    `mpiParams` and `testAlternate`. A rank has one object, which knows nothing of those of others.
    """

    def fwArrayNames(self) -> list[str]:
        """Return the names of the arrays that workers calculate."""

    def serverInit(self) -> None:
        """Prepare a reader."""

    def serverEventOk(self, evt: Any) -> bool:
        """Whether a shot counts; evt has its `shot_id`. The image has not been read yet."""

    def serverFinalDataArray(self, dataArray: np.ndarray, evt: Any) -> np.ndarray | None:
        """Return the image of a shot, or a changed copy, or None to drop it."""

    def workerInit(self, numElementsWorker: int) -> None:
        """Prepare a worker that owns so many pixels."""

    def workerAdjustData(self, data: np.ndarray) -> None:
        """Change the (pixel,) values of a shot in place, before they are stored."""

    def workerBeforeDataRemove(self, tm: int, row: int, workerData: Any) -> None:
        """Note that the shot of time `tm` is about to be removed from a row of `workerData.X`."""

    def workerAfterDataInsert(self, tm: int, row: int, workerData: Any) -> None:
        """Note that the shot of time `tm` was stored in a row of `workerData.X`."""

    def workerAdjustTerms(
        self, mode: int, dataIdx: int, pivotIndex: int, lenT: int, T: np.ndarray, X: np.ndarray
    ) -> None:
        """As the two before, by their earlier name: mode 1 = was stored, −1 = is about to be
        removed; pivotIndex: row of the oldest shot; lenT: rows that are filled.
        """

    def workerCalc(self, workerData: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return the arrays (delay, pixel) by name, (delay,) counts and (pixel,) int8 flags. With
        three arguments, by its earlier form: times, filled rows, X.
        """

    def viewerInit(self, mask: np.ndarray, h5GroupUser: Any) -> None:
        """Prepare the viewer."""

    def viewerPublish(
        self,
        counts: np.ndarray,
        lastEventTime: dict[str, int],
        name2delay2ndarray: dict[str, dict[int, np.ndarray]],
        int8array: np.ndarray,
        h5GroupUser: Any,
    ) -> None:
        """Publish what the workers have, as sums over partners in the shape of an image."""

    def calcAndPublishForTestAlt(
        self, sortedEventIds: np.ndarray, sortedData: np.ndarray, h5GroupUser: Any
    ) -> None:
        """Calculate the same in another way, of all shots at once, and publish it."""


class RoleParams(NamedTuple):
    """What a user's object learns of its rank: `mpiParams` of its constructor."""

    logger: logging.Logger
    maskNdarrayCoords: np.ndarray

    def logInfo(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message."""
        self.logger.info("%s", msg)

    def logDebug(self, msg: str, allWorkers: bool = False) -> None:
        """Log a message of little interest."""
        self.logger.debug("%s", msg)

    def logWarning(self, msg: str, allWorkers: bool = False) -> None:
        """Log a warning."""
        self.logger.warning("%s", msg)

    def logError(self, msg: str, allWorkers: bool = False) -> None:
        """Log an error."""
        self.logger.error("%s", msg)


class Callbacks:
    """The methods of a user's object, by name. user: None = there is none."""

    def __init__(self, user: Any):
        self._user = user
        self.name = type(user).__name__

    def get(self, name: str) -> Callable[..., Any] | None:
        """Return a method, or None where the class lacks it."""
        return getattr(self._user, name, None)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method where there is one."""
        method = self.get(name)
        if method is not None:
            method(*arguments)

    @property
    def array_names(self) -> list[str]:
        """The arrays that are calculated."""
        method = self.get("fwArrayNames")
        return list(ARRAYS if method is None else method())

    def check(self, method: str, what: str, expected: object, found: object) -> None:
        """Raise ConfigError where a method returned something else than expected."""
        if expected != found:
            where = f"{self.name}.{method}"
            todo = "See docs/correlate.md for what it has to return."
            raise ConfigError(where, f"{what} {expected}", found, todo)


def is_early_form(method: Callable[..., Any]) -> bool:
    """Whether `workerCalc` takes times, number of filled rows and data in place of one object."""
    return len(inspect.signature(method).parameters) == 3


def load_class(name: str | type) -> type:
    """Return a class that is there already, or named as MODULE:CLASS, MODULE.CLASS or
    FILE.py:CLASS. Raises ConfigError.
    """
    if isinstance(name, type):
        return name
    module_name, _, class_name = name.rpartition(":" if ":" in name else ".")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        return getattr(module, class_name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        expected = "MODULE:CLASS, MODULE.CLASS or FILE.py:CLASS that can be imported"
        todo = "Check the name and PYTHONPATH."
        raise ConfigError("correlate.user_class", expected, f"{name}: {error}", todo) from None


def make(
    user_class: str | type | None,
    user_params: Mapping[str, Any],
    system_params: Mapping[str, Any],
    role: RoleParams,
    is_alternate: bool,
) -> Callbacks:
    """Return the callbacks of a rank. Raises ConfigError."""
    if user_class is None:
        return Callbacks(None)
    kind = load_class(user_class)
    return Callbacks(kind(dict(user_params), dict(system_params), role, is_alternate))
