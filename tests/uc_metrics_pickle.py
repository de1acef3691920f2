"""Covariance pickles as uc_metrics makes them, where it is not installed."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

LABELS = np.array([1, 1, -1, 4, 1, 4, 2, -1])
"""Clusters of lattices: component 0 is label 1, component 1 is label 4; label 2 is too small."""


class OtherPrograms(NamedTuple):
    """Classes that a pickle names."""

    populations: type
    covariance: type


def plant_uc_metrics(monkeypatch) -> type:
    """The class of uc_metrics, which can be imported for as long as a test runs."""
    for package in ("uc_metrics", "uc_metrics.clustering"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    return _planted(monkeypatch, "uc_metrics.clustering.util", "get_population_permutation")


def plant_scikit_learn(monkeypatch) -> type:
    """One in place of scikit-learn's."""
    module = "sklearn.covariance._empirical_covariance"
    return _planted(monkeypatch, module, "EmpiricalCovariance")


def _planted(monkeypatch, module: str, name: str) -> type:
    """A class that can be imported from a module."""
    planted = ModuleType(module)
    own_class = type(name, (), {"__module__": module})
    setattr(planted, name, own_class)
    monkeypatch.setitem(sys.modules, module, planted)
    return own_class


def _with(own_class: type, **attributes):
    """An instance with attributes."""
    instance = own_class()
    vars(instance).update(attributes)
    return instance


def content(
    other_programs: OtherPrograms,
    features: Sequence[str],
    location: np.ndarray,
    covariance: np.ndarray,
) -> dict:
    """What is pickled of one or two populations."""
    fits = [
        _with(
            other_programs.covariance,
            store_precision=True,
            assume_centered=False,
            location_=mean,
            covariance_=matrix,
            precision_=np.linalg.inv(matrix),
        )
        for mean, matrix in zip(location, covariance, strict=True)
    ]
    populations = _with(
        other_programs.populations,
        n_clusters_=3,
        n_noise_=2,
        reverse_lookup={1: 0, 4: 1, 2: 2},
        labels=LABELS,
        populations={1: 3, 4: 2, 2: 1},
        main_components=[np.int64(1), np.int64(4)][: len(fits)],
        fit_components=fits,
    )
    info = [{"file": "a.expt", "weight": np.float64(1.0)}]
    names = list(features)
    return {"populations": populations, "features": names, "info": info, "sample": "a sample"}
