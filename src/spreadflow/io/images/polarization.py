"""Polarization as headers state it, in shares of the light, as Kahn's K along the lab x axis."""

import numpy as np

STOKES_TOLERANCE = 0.01
"""Polarization beside that along the laboratory axes, and differences between shots, that need no
word.
"""


def along_x(name: str, shares: np.ndarray) -> tuple[float | None, list[str]]:
    """Return Kahn's K along x, mean of the shots, and what is to be said of it; None where the
    shares make no sense.

    name: of what states them. shares: (shot, 2) of the light, polarized along x less along y, and
    likewise of the two diagonals (Stokes's Q / I and U / I).
    """
    is_sound = np.hypot(shares[:, 0], shares[:, 1]) <= 1 + STOKES_TOLERANCE
    if not is_sound.all():
        return None, [f"{name} makes no sense: not used"]
    horizontal, diagonal = shares.mean(axis=0)
    remarks = []
    if abs(diagonal) > STOKES_TOLERANCE or np.ptp(shares[:, 0]) > STOKES_TOLERANCE:
        remarks.append(
            f"{name} has polarization across the laboratory axes, or other in other shots: taken "
            f"as {horizontal:.3g} along x for all"
        )
    return float(np.clip(horizontal, -1.0, 1.0)), remarks
