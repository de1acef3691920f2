"""What the tests of whole trials share."""

import json
import os
from pathlib import Path

AS_USERS = os.environ | {"XLA_FLAGS": "--xla_cpu_parallel_codegen_split_count=1"}
"""The environment of a whole chain: its code is that of users, compiled on one thread
(docs/decisions/0027).
"""


def summary_of(folder: Path, trial: str, stage: str) -> dict:
    """Return the figures of a stage of a trial that has run in a folder."""
    return json.loads((folder / "results" / trial / f"{stage}.json").read_text())


def check_header_error(f: dict, shift_mm: float, distance_mm: float) -> None:
    """Assert that each error of the header is found within a limit and 3.5 σ (beyond which one of
    the three is by chance once in 700 trials).
    """
    pairs = [
        *zip(f["shift_mm"], f["true_shift_mm"], f["shift_sigma_mm"], [shift_mm] * 2, strict=True)
    ]
    pairs += [(f["distance_mm"], f["true_distance_mm"], f["distance_sigma_mm"], distance_mm)]
    for found, true, sigma, limit in pairs:
        assert abs(found - true) <= min(3.5 * sigma, limit), (found, true, sigma)
