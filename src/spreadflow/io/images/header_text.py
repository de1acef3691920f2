"""Numbers in headers that are text, as those of CBF and SMV are."""

import numpy as np

from spreadflow.errors import FileError

ABOUT_HEADERS = "See docs/files.md, CBF and SMV."
"""What to do about a header that is not as described there."""

LONGEST_EDGE = 2**16
"""Pixels along an edge of a panel, at most."""


def finite(where: object, name: str, text: str | None) -> float:
    """Return a number that a header states under a name. Raises FileError where it is not finite,
    no number or, as None, not there.
    """
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        found = "none" if text is None else repr(text)
        raise FileError(f"{where}: {name}", "a finite number", found, ABOUT_HEADERS)
    return value


def pixels(where: object, name: str, text: str | None) -> int:
    """Return a number of pixels, from 1, as `finite` does. Raises FileError."""
    value = finite(where, name, text)
    if value != int(value) or not 1 <= value <= LONGEST_EDGE:
        expected = f"an integer from 1 to {LONGEST_EDGE}"
        raise FileError(f"{where}: {name}", expected, text, ABOUT_HEADERS)
    return int(value)
