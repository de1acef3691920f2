"""Products of reindex and cells as `merge` takes them, with what is true of their lattices."""

from pathlib import Path

import numpy as np

from spreadflow.analysis.merging.merging import Unique
from spreadflow.config import MergeConfig
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.models import ReflectionFlag
from spreadflow.parallel import World
from spreadflow.products import Merge, Reindex
from spreadflow.stages import merge

CELL = [40.0, 40.0, 70.0, 90.0, 90.0, 90.0]
GROUP = "P 43 21 2"
D_MIN = 3.5
RUNS = {"one": 7, "two": 3}
"""parts of each run, of 8 lattices"""
PER_LATTICE = 80
"""reflections of a lattice"""
OTHER_AXES = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
"""setting of the fourth lattice of each part: its axes are others than the shared ones"""


class TwoRuns:
    """Products of two runs, the accepted list, and what is true of them."""

    def __init__(self, folder: Path, filled):
        self.rng = np.random.default_rng(1)
        self.unique = Unique(np.array(CELL), GROUP, D_MIN)
        self.truth = self.rng.exponential(size=len(self.unique)) * 100.0
        plus = self.unique.friedel > 0
        anomalous = self.rng.uniform(0.9, 1.1, plus.sum())
        self.truth[self.unique.mate[plus]] = self.truth[plus] * anomalous

        self.reindex = []
        self.cells = folder / "cells.h5"
        self.lattices = []
        self.reflections = []
        for run, n in RUNS.items():
            path = folder / run / "reindex.h5"
            ids = [self.rng.integers(0, 2**63, 8).astype(np.uint64) for _ in range(n)]
            parts = store.Parts(path, Reindex, run, [i.tolist() for i in ids])
            for block in range(n):
                parts.write(block, self._part(filled, run, ids[block]))
            parts.finish(World(), run=run)
            self.reindex.append(path)

        is_accepted = self.rng.random(len(self.lattices)) < 0.8
        self.outcome = np.where(is_accepted, LatticeOutcome.ACCEPTED, LatticeOutcome.NOISE)
        self.write_cells(filled)

    def write_cells(self, filled) -> None:
        planted = {
            f"lattices/{name}": [l[i] for l in self.lattices]
            for i, name in enumerate(("run", "shot_id", "k"))
        }
        setting = np.tile(np.eye(3), (len(self.lattices), 1, 1))
        setting[3::8] = OTHER_AXES
        planted |= {
            "lattices/cell": np.tile(CELL, (len(self.lattices), 1)),
            "lattices/outcome": self.outcome,
            "lattices/setting": setting,
            "clusters/mean": [CELL],
        }
        sizes = {"lattices": len(self.lattices), "clusters": 1, "features": 1}
        cells = filled("cells", sizes, planted)
        store.write(
            self.cells, cells, key="c", runs=list(RUNS), space_group=GROUP, features=["a"], chosen=0
        )

    def _part(self, filled, run: str, ids: np.ndarray) -> Reindex:
        """Return eight lattices on six shots: hkl of both hands, a few absent or beyond D_MIN, a
        few flagged.
        """
        n = 8 * PER_LATTICE
        shot = np.array([0, 0, 1, 2, 3, 4, 5, 5])
        lattice = np.repeat(np.arange(8), PER_LATTICE)
        row = self.rng.integers(0, len(self.unique), n)
        hkl = self.unique.hkl[row] * np.where(self.unique.friedel[row] < 0, -1, 1)[:, None]
        mean = 10.0 * np.exp(0.4 * self.rng.standard_normal(8))[lattice] * self.truth[row]
        p = self.rng.uniform(0.02, 1.0, n).astype(np.float32)
        flags = np.where(self.rng.random(n) < 0.03, ReflectionFlag.SATURATED, ReflectionFlag.EDGE)
        hkl[self.rng.random(n) < 0.02] = [0, 0, 3]
        hkl[self.rng.random(n) < 0.02] = [20, 0, 0]
        photons = self.rng.poisson(mean * p + 20.0) - 20.0
        lost = (lattice == 7) & (
            np.arange(n) % PER_LATTICE > 4
        )  # the last lattice keeps five reflections
        flags[lost] = ReflectionFlag.MASKED
        k = np.array([0, 1, 0, 0, 0, 0, 0, 1])
        self.lattices += [
            (list(RUNS).index(run), int(ids[s]), int(n)) for s, n in zip(shot, k, strict=True)
        ]
        planted = {
            "shots/shot_id": ids[:6],
            "shots/mean_energy_ev": np.full(6, 7120.0 if run == "one" else 7130.0),
            "shots/pulse_photons": np.full(6, 1e12),
            "lattices/shot": shot,
            "lattices/shot_id": ids[shot],
            "lattices/k": k,
            "reflections/lattice": lattice,
            "reflections/hkl": hkl,
            "reflections/partiality": p,
            "reflections/lorentz": np.ones(n),
            "reflections/polarization": np.ones(n),
            "reflections/capture": np.ones(n),
            "reflections/intensity": photons,
            "reflections/sigma": np.sqrt(np.maximum(photons + 40.0, 1.0)),
            "reflections/sigma_background": np.full(n, np.sqrt(40.0)),
            "reflections/flags": flags,
        }
        self.reflections.append(Reindex.reflections(hkl=hkl.copy(), flags=flags))
        hkl[lattice == 3] = hkl[lattice == 3] @ np.linalg.inv(OTHER_AXES).T
        return filled("reindex", {"shots": 6, "lattices": 8, "reflections": n}, planted)

    def run(self, out: Path, **section) -> tuple[Merge, dict]:
        """Run the stage, and return its product and attributes."""
        config = MergeConfig.model_validate({"merge": {"d_min": D_MIN} | section})
        merge.run(config, reindex=self.reindex, cells=self.cells, out=out, world=World())
        return store.read(out, Merge), store.attributes(out, Merge)
