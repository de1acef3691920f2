"""What a configuration implies for its trial: where each run comes from, and whether there is a
model of the crystals.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spreadflow.config import Config
    from spreadflow.config.simulation import StructureFactorsSection


def simulated_runs(config: "Config") -> list[str]:
    """Return the runs whose images are simulated."""
    return [name for name, run in config.runs.items() if run.simulate]


def adopted_runs(config: "Config") -> list[str]:
    """Return the runs whose lattices another program indexed."""
    return [name for name, run in config.runs.items() if run.spec or run.lattices]


def indexed_runs(config: "Config") -> list[str]:
    """Return the runs that are indexed here."""
    return [
        name
        for name in config.crystal_runs
        if not (config.runs[name].spec or config.runs[name].lattices)
    ]


def correlated_runs(config: "Config") -> list[str]:
    """Return the runs whose shots are correlated in time."""
    return [name for name, run in config.runs.items() if run.correlate is not None]


def has_crystals(config: "Config") -> bool:
    """Whether there are crystals to look for: in all trials but those whose runs are correlated."""
    return bool(config.crystal_runs) or not config.runs


def has_images(config: "Config") -> bool:
    """Whether a run has images: what needs pixels takes such runs alone."""
    return bool(config.pictured_runs)


def has_frozen_detector(config: "Config") -> bool:
    """Whether the refined detector is taken from a file."""
    return config.level0.from_file is not None


def has_model(config: "Config", stage: str) -> bool:
    """Whether there are images, and a stage's structure factors are those of the crystals in them.

    Without a model file the crystals are a phantom, which is right for simulated images alone.
    """
    factors: StructureFactorsSection = config.resolved(f"{stage}.structure_factors")
    is_phantom = factors.source == "model" and factors.model is None
    is_simulated = bool(simulated_runs(config))
    return has_images(config) and (is_simulated or not is_phantom)


def has_sites(config: "Config") -> bool:
    """Whether metal sites are named, in a model of the crystals in the images."""
    factors: StructureFactorsSection = config.resolved("stage1.structure_factors")
    is_simulated = bool(simulated_runs(config))
    has_atoms = is_simulated or factors.model is not None
    return has_images(config) and bool(factors.sites) and has_atoms


def learns_mosaicity(config: "Config") -> bool:
    """Whether mosaic domains are learned from the pixels."""
    is_asked_for = config.stage1.mosaicity == "learned"
    return is_asked_for and has_model(config, "stage1") and has_model(config, "mosaic")


def needs_wide(config: "Config") -> bool:
    """Whether a stage reads the shoeboxes of the wider range."""
    stage1_reads = has_model(config, "stage1") and config.stage1.range == "wide"
    mosaic_reads = learns_mosaicity(config) and config.mosaic.shoeboxes == "wide"
    spread_reads = has_sites(config) and config.spread.shoeboxes == "wide"
    return spread_reads or stage1_reads or mosaic_reads


def has_stage2(config: "Config") -> bool:
    """Whether reflections are chosen, their pixels packed, and their intensities refined: wherever
    stage 1 refines lattices.
    """
    return has_model(config, "stage1")
