"""Where the files of a trial lie, and which of them each stage reads and writes: the rules of the
workflow ask this module.
"""

from spreadflow.config import Config, LatticesSection, files
from spreadflow.trial import facts
from spreadflow.trial.recorded import files_beside
from spreadflow.trial.stages import BY_WORD, wanted

Files = dict[str, str | list[str]]
"""Argument of the command → one file, or a list of files."""

TRIGGERS = "triggers"
"""Name of the input files that rerun a stage and are no argument of its command: those that its
sections name, and those that the manifests of its images name.
"""

SECTIONS = {
    "simulate": ("structure_factors", "beam"),
    "adopt": ("reindex",),
    "predict": ("stage1",),
    "stage2": ("stage1",),
    "spread": ("spread", "stage1"),
}
"""Stage → the sections whose files rerun it, where these are not its own alone."""

MATCHES_NOTHING = "$^"
"""Regular expression that no name of a run matches."""


def product(config: Config, name: str) -> str:
    """Return the path of a file of the trial."""
    return str(config.results / config.trial / name)


def manifest(config: Config, run: str) -> str:
    """Return the path of the manifest of a run's images, supplied or simulated."""
    return str(config.runs[run].images or config.data / run / "manifest.json")


def manifests(config: Config) -> list[str]:
    """Return the manifests of all runs that have images."""
    return [manifest(config, run) for run in config.pictured_runs]


def products(config: Config, word: str, runs: list[str]) -> list[str]:
    """Return the products of a stage that works run by run, one for each run."""
    return [product(config, f"{run}/{word}.h5") for run in runs]


def outputs(config: Config, word: str, run: str | None = None) -> list[str]:
    """Return the files that a stage writes, its product first. run: may be a wildcard such as
    `{run}`.
    """
    if word == "simulate":
        return [str(config.data / str(run) / "manifest.json")]
    names = [name.format(run=run) for name in BY_WORD[word].outputs]
    return [product(config, name) for name in names]


def named_by_sections(config: Config, *sections: str) -> list[str]:
    """Return the files that sections of the configuration name: they rerun a stage when they
    change.
    """
    paths = []
    for key, path in files(config).items():
        section, _, _ = key.partition(".")
        if section in sections:
            paths.append(str(path))
    return paths


def named_by_run(config: Config, run: str) -> list[str]:
    """Return the files that the section `correlate` of a run names."""
    beginning = f"runs.{run}.correlate."
    return [str(path) for key, path in files(config).items() if key.startswith(beginning)]


def beside_images(config: Config, *runs: str) -> list[str]:
    """Return the files that recorded runs are read from beside their images: masks, geometry,
    maps of pixels.
    """
    recorded = [path for path in (config.runs[run].images for run in runs) if path is not None]
    return list(dict.fromkeys(file for path in recorded for file in files_beside(path)))


def _lattices(config: Config, run: str) -> LatticesSection:
    """Return which files a run without images has."""
    lattices = config.runs[run].lattices
    assert lattices is not None, "asked of runs without images alone"
    return lattices


def _beside_lattices(section: LatticesSection) -> list[str]:
    """Return the files that are read beside those that a section names."""
    tables = [path.with_suffix(".refl") for path in section.paths if path.suffix == ".expt"]
    return [str(path) for path in [*tables, section.geometry] if path is not None]


def _learned_mosaicity(config: Config) -> Files:
    """Return the product of `mosaic` as an argument, where mosaicity is learned."""
    if facts.learns_mosaicity(config):
        return {"mosaic": product(config, "mosaic.h5")}
    return {}


def inputs(config: Config, word: str, run: str | None = None) -> Files:
    """Return the files that a stage reads, by argument of its command. run: where the stage works
    run by run.
    """
    return {TRIGGERS: triggers(config, word, run), **arguments(config, word, run)}


def triggers(config: Config, word: str, run: str | None) -> list[str]:
    """Return the files that rerun a stage and are no argument of its command, as `inputs`."""
    named = named_by_sections(config, *SECTIONS.get(word, (word,)))
    match word:
        case "level0" if config.level0.imported is not None:
            return list(dict.fromkeys(named + _beside_lattices(config.level0.imported)))
        case "adopt" if config.runs[str(run)].lattices:
            return _beside_lattices(_lattices(config, str(run)))
        case "index" | "adopt" | "reindex":
            return named + beside_images(config, str(run))
        case "correlate":
            return named_by_run(config, str(run)) + beside_images(config, str(run))
        case "annulus" | "wide" | "predict" | "pack":
            return named + beside_images(config, *config.crystal_runs)
    return named


def arguments(config: Config, word: str, run: str | None) -> Files:
    """Return the other files that a stage reads, as `inputs`."""
    reindexed = products(config, "reindex", config.crystal_runs)
    cells = product(config, "cells.h5")
    stage1 = product(config, "stage1.h5")
    pictured: Files = {
        "images": manifests(config),
        "reindex": products(config, "reindex", config.pictured_runs),
    }
    match word:
        case "simulate":
            return {}
        case "index" | "correlate":
            return {"images": manifest(config, str(run))}
        case "level0" if config.level0.imported is not None:
            return {}
        case "level0":
            runs = config.level0.runs or facts.indexed_runs(config)
            return {"index": products(config, "index", runs)}
        case "adopt" if config.runs[str(run)].lattices:
            return {"lattices": [str(path) for path in _lattices(config, str(run)).paths]}
        case "adopt":
            spec = str(config.runs[str(run)].spec)
            return {"images": manifest(config, str(run)), "spec": spec}
        case "reindex":
            geometry = str(config.level0.from_file or product(config, "level0.expt"))
            return {"images": manifest(config, str(run)), "geometry": geometry}
        case "cells":
            return {"reindex": reindexed}
        case "merge":
            return {"reindex": reindexed, "cells": cells}
        case "annulus" | "wide":
            return {**pictured, "cells": cells}
        case "ladder":
            return {"annulus": product(config, "annulus.h5"), "cells": cells}
        case "mosaic":
            return {"shoeboxes": product(config, f"{config.mosaic.shoeboxes}.h5")}
        case "stage1":
            shoeboxes = product(config, f"{config.stage1.range}.h5")
            return {**_learned_mosaicity(config), "shoeboxes": shoeboxes}
        case "predict":
            return {**pictured, "stage1": stage1}
        case "pack":
            return {**pictured, "predict": product(config, "predict.h5")}
        case "stage2":
            pack, merge = product(config, "pack.h5"), product(config, "merge.h5")
            return {**_learned_mosaicity(config), "pack": pack, "stage1": stage1, "merge": merge}
        case "spread":
            shoeboxes = product(config, f"{config.spread.shoeboxes}.h5")
            return {**_learned_mosaicity(config), "shoeboxes": shoeboxes, "stage1": stage1}
    raise KeyError(f"'{word}' is no stage")


def pattern_of_runs(config: Config, word: str) -> str:
    """Return a regular expression of the runs that a stage works on, or of none."""
    stage = BY_WORD[word]
    runs = [] if stage.runs is None else stage.runs(config)
    return "|".join(runs) or MATCHES_NOTHING


def summarized(config: Config, word: str) -> list[str]:
    """Return the products that the figures and the picture of a stage are made from."""
    stage = BY_WORD[word]
    if word == "simulate":
        return [manifest(config, run) for run in facts.simulated_runs(config)]
    if stage.runs is None:
        return [product(config, stage.summarized)]
    runs = config.crystal_runs if word == "reindex" else stage.runs(config)
    names = [stage.summarized.format(run=run) for run in runs]
    return [product(config, name) for name in names]


def summaries(config: Config) -> list[str]:
    """Return the figures of all stages that the trial has."""
    return [product(config, f"{word}.json") for word in wanted(config)]


def reported(config: Config) -> list[str]:
    """Return the products that the figures and the pictures of all stages are made from."""
    return [path for word in wanted(config) for path in summarized(config, word)]
