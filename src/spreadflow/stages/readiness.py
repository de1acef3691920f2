"""What would end a stage hours after the start, told before the first job: atoms, curves and
energies that a configuration names, and that its files or its spectra do not have.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from spreadflow import build
from spreadflow.config import Config, StructureFactorsSection, key_of
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import factor_files
from spreadflow.io.factor_files import FactorFiles
from spreadflow.recipes import curve_nodes, sites
from spreadflow.trial import BY_WORD, facts, wanted

FACTORS = "structure_factors"
"""The section that names models, sites and curves."""

MOST_OPENED = 10
"""Image files of a run that are opened, at most."""

PHANTOM_SITES = ("FE1", "FE2")
"""Atoms of iron that every phantom has: for these it need not be built."""


def check(config: Config, where: object = "config") -> None:
    """Raise ConfigError or FileError where a model, a site, a curve or the range of the curves is
    none that the trial can have. where: the files of the configuration.

    Merged intensities are not read: they may be those of the trial itself, and not there yet.
    """
    is_simulated = bool(facts.simulated_runs(config))
    channels = build.channels(config.beam) if is_simulated else np.empty(0)
    for key, section in _sections(config):
        with _named(f"{where}: {key.removesuffix(FACTORS)}"):
            _check_factors(section, _known_curves(config, key), channels)
    if "spread" in wanted(config):
        with _named(f"{where}: "):
            if is_simulated:
                curve_nodes.nodes_of(config.spread, channels)
            elif config.spread.range_ev is not None:
                _check_range(config)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put a place before the key of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        place = f"{where}{error.where}"
        raise ConfigError(place, error.expected, error.found, error.todo) from None


def _sections(config: Config) -> Iterator[tuple[str, StructureFactorsSection]]:
    """Yield the sections of structure factors that stages of a trial read, each once, with their
    keys.
    """
    words = [word for word in wanted(config) if FACTORS in BY_WORD[word].sections]
    for key in dict.fromkeys(key_of(word, FACTORS) for word in words):
        yield key, config.resolved(key)


def _known_curves(config: Config, key: str) -> Sequence[str]:
    """Return the curves that `spread` is restrained to, where it reads the section of a key."""
    is_of_spread = "spread" in wanted(config) and key == key_of("spread", FACTORS)
    return config.spread.known or [] if is_of_spread else []


def _check_factors(
    section: StructureFactorsSection, known: Sequence[str], energies_ev: np.ndarray
) -> None:
    """Raise ConfigError or FileError where a model is not of the crystal, a site not of the model,
    or a curve not of the site or not of these energies (channel,).
    """
    files = factor_files.read(section.model_copy(update={"source": "model"}), known)
    elements = _elements(section, files)
    if not len(energies_ev) or not files.curves:
        return
    from spreadflow.recipes import factors  # with JAX

    for names in filter(None, ([site.curve for site in section.sites], known)):
        for element, name in zip(elements, names, strict=True):
            if name in files.curves:
                factors.curve(element, name, energies_ev, files)


def _elements(section: StructureFactorsSection, files: FactorFiles) -> list[str]:
    """Return the element of each site. Raises ConfigError where a site is not one."""
    if files.atoms is not None:
        return sites.elements(section, sites.assign(section, files.atoms))
    atoms = {atom for site in section.sites for atom in site.selections}
    if atoms <= set(PHANTOM_SITES):
        return ["Fe"] * len(section.sites)
    from spreadflow.recipes import factors  # with JAX

    return factors.elements(section, files)


def _check_range(config: Config) -> None:
    """Raise ConfigError where the first shot that can be read and has a spectrum, of the recorded
    runs, has no channels within the range of the curves. A step finer than its channels is no
    mistake: other shots may have others.
    """
    for run in config.pictured_runs:
        images = config.runs[run].images
        assert images is not None, "no run is simulated"
        energies = _recorded(images)
        if len(energies) > 1:
            curve_nodes.check_range(config.spread, energies)
            return


def _recorded(manifest: Path) -> np.ndarray:
    """Return the channels (channel,), eV, of the first shot of a run that can be read; none where
    `MOST_OPENED` files have no such shot.
    """
    from spreadflow.io import images  # with the readers of all formats

    described = images.read_manifest(manifest)
    geometry = images.geometry_of(manifest, described)
    for listed in described.files[:MOST_OPENED]:
        try:
            file = images.open_image(manifest.parent / listed.path, geometry)
        except FileError:
            continue
        try:
            return file.spectrum(0).energies_ev
        except FileError:
            continue
        finally:
            file.close()
    return np.empty(0)
