"""The user's class inside `correlate`: found by its name, made, and its methods called with a check
of what they return.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.callbacks import ARRAYS, CALLBACKS, RoleParams, UserCorrelation
from spreadflow.errors import ConfigError
from spreadflow.stream.shots import Event

GROUP = "spreadflow.correlate"
"""Entry points of installed packages by which a user's class may be named."""

NAMES_A_CLASS = "MODULE:CLASS, MODULE.CLASS, FILE.py:CLASS, or an entry point of " + GROUP
"""How a class may be named."""

ABOUT = "docs/callbacks.md says what each is handed and returns."
"""What to do about a callback that is none."""

EARLY_CALC = ("T", "numTimesFilled", "X")
"""Arguments of the earlier form of `workerCalc`."""

LARGEST_FLAG = np.iinfo(np.int8).max
"""That fits into int8."""


class Callbacks:
    """The methods of a user's object. user: None = there is none."""

    def __init__(self, user: Any):
        self._user = user
        self.name = type(user).__name__
        self.calculator: str | None = getattr(user, "calculator", None)
        """which calculator the class asks for; None = any"""
        self.array_names = self._array_names()
        """the arrays that are calculated"""

    def get(self, name: str) -> Callable[..., Any] | None:
        """Return a method, or None where the class leaves it as it is."""
        method = getattr(self._user, name, None)
        is_default = getattr(method, "__func__", None) is getattr(UserCorrelation, name)
        return None if is_default else method

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method where there is one."""
        method = self.get(name)
        if method is not None:
            method(*arguments)

    def accepts(self, event: Event) -> bool:
        """Whether the image of a shot shall be read. Raises ConfigError where the class returns
        something else than true or false.
        """
        method = self.get("serverEventOk")
        if method is None:
            return True
        answer = method(event)
        if not isinstance(answer, bool | np.bool):
            raise self._wrong("serverEventOk", "True or False", answer)
        return bool(answer)

    def final(self, image: np.ndarray, event: Event) -> np.ndarray | None:
        """Return an image as float32, or None where its shot is dropped. Raises ConfigError where
        the class returns something else.
        """
        method = self.get("serverFinalDataArray")
        if method is None:
            return image
        changed = method(image, event)
        if changed is None:
            return None
        self._check_numbers("serverFinalDataArray", "an image", changed, image.shape)
        return np.asarray(changed, np.float32)

    def adjust(self, values: np.ndarray) -> None:
        """Have the class change the values of a shot in place. Raises ConfigError where it returns
        something: it would be lost.
        """
        method = self.get("workerAdjustData")
        if method is None:
            return
        returned = method(values)
        if returned is not None:
            expected = "nothing: `data` is changed in place"
            raise self._wrong("workerAdjustData", expected, type(returned).__name__)

    def calculated(
        self, returned: Any, n_delays: int, n_pixels: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what `workerCalc` returned: values (array, delay, pixel) float64 in the order of
        their names, counts (delay,) int64 and flags (pixel,) int8. Raises ConfigError.
        """
        method = "workerCalc"
        is_triple = isinstance(returned, tuple | list) and len(returned) == 3
        if not is_triple or not isinstance(returned[0], Mapping):
            found = type(returned).__name__
            raise self._wrong(method, "three things: arrays by name, counts and flags", found)
        arrays, counts, flags = returned
        if set(arrays) != set(self.array_names):
            raise self._wrong(method, f"arrays {sorted(self.array_names)}", sorted(arrays))
        for name, values in arrays.items():
            self._check_numbers(method, name, values, (n_delays, n_pixels))
            if not np.isfinite(values).all():
                n_wrong = int(np.count_nonzero(~np.isfinite(values)))
                raise self._wrong(method, f"{name} finite", f"{n_wrong} values that are not")
        self._check_numbers(method, "counts", counts, (n_delays,), "iu")
        self._check_numbers(method, "flags", flags, (n_pixels,), "iub")
        if np.size(flags) and not 0 <= np.min(flags) <= np.max(flags) <= LARGEST_FLAG:
            found = f"{np.min(flags)} to {np.max(flags)}"
            raise self._wrong(method, f"flags from 0 to {LARGEST_FLAG}", found)
        values = np.stack([np.asarray(arrays[name], np.float64) for name in self.array_names])
        return values, np.asarray(counts, np.int64), np.ascontiguousarray(flags, np.int8)

    def _array_names(self) -> tuple[str, ...]:
        """Return the arrays that are calculated. Raises ConfigError."""
        method = self.get("fwArrayNames")
        if method is None:
            return ARRAYS
        names = method()
        is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not is_list or not names or len(set(names)) < len(names):
            raise self._wrong("fwArrayNames", "a list of different names", names)
        if set(names) == set(ARRAYS):
            return ARRAYS
        missing = [name for name in ("workerCalc", "viewerPublish") if self.get(name) is None]
        if missing:
            expected = f"{list(ARRAYS)}, as there is no {' and no '.join(missing)}"
            raise self._wrong("fwArrayNames", expected, names)
        return tuple(names)

    def _check_numbers(
        self, method: str, what: str, values: Any, shape: tuple[int, ...], kinds: str = "fiub"
    ) -> None:
        """Raise ConfigError where a method returned something else than numbers of this shape.
        kinds: of NumPy's types.
        """
        dtype = np.asarray(values).dtype
        if np.shape(values) != shape or dtype.kind not in kinds:
            numbers = "numbers" if "f" in kinds else "whole numbers"
            found = f"{dtype} of shape {np.shape(values)}"
            raise self._wrong(method, f"{what} of shape {shape}, {numbers}", found)

    def _wrong(self, method: str, expected: str, found: object) -> ConfigError:
        """Return the error of a method that returned something else than expected."""
        return ConfigError(f"{self.name}.{method}", expected, found, ABOUT)


def is_early_form(method: Callable[..., Any]) -> bool:
    """Whether `workerCalc` takes times, their number and values in place of one object."""
    return len(inspect.signature(method).parameters) == len(EARLY_CALC)


def load_class(name: str | type) -> type:
    """Return a class that is there already, or one by its name, as `NAMES_A_CLASS`. Raises
    ConfigError.
    """
    if isinstance(name, type):
        return name
    try:
        return _class(name)
    except (ImportError, AttributeError, OSError, ValueError, SyntaxError) as error:
        todo = "Check the name and PYTHONPATH."
        where = "correlate.user_class"
        found = f"{name}: {error}"
        raise ConfigError(where, f"{NAMES_A_CLASS}, that can be imported", found, todo) from None


def _class(name: str) -> type:
    """Return a class by its name. Raises what importing it raises."""
    if not {":", "."} & set(name):
        points = entry_points(group=GROUP)
        if name not in points.names:
            raise ImportError(f"entry points are {sorted(points.names) or 'none'}")
        return points[name].load()
    module_name, _, class_name = name.rpartition(":" if ":" in name else ".")
    if not module_name.endswith(".py"):
        return getattr(importlib.import_module(module_name), class_name)
    spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, class_name)


def make(
    user_class: str | type | None,
    user_params: Mapping[str, Any],
    system_params: Mapping[str, Any],
    role: RoleParams,
    is_alternate: bool,
) -> Callbacks:
    """Return the callbacks of a rank. Raises ConfigError where there is no such class, or one of
    its methods takes other arguments.
    """
    if user_class is None:
        return Callbacks(None)
    kind = load_class(user_class)
    arguments = (dict(user_params), dict(system_params), role, is_alternate)
    if kind.__init__ is object.__init__:  # type: ignore[misc]
        user = kind()
    else:
        names = list(inspect.signature(UserCorrelation).parameters)
        _check_arguments(f"{kind.__name__}.__init__", kind, names)
        user = kind(*arguments)
    for name in CALLBACKS:
        method = getattr(user, name, None)
        if method is None or (name == "workerCalc" and is_early_form(method)):
            continue
        names = list(inspect.signature(getattr(UserCorrelation, name)).parameters)[1:]
        _check_arguments(f"{kind.__name__}.{name}", method, names)
    return Callbacks(user)


def _check_arguments(where: str, method: Callable[..., Any], names: list[str]) -> None:
    """Raise ConfigError where a method can't be called with these arguments, in this order."""
    signature = inspect.signature(method)
    try:
        signature.bind(*names)
    except TypeError:
        raise ConfigError(where, f"arguments ({', '.join(names)})", signature, ABOUT) from None
