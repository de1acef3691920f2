"""The shots that a section `correlate` names, wherever they come from."""

from pathlib import Path

from spreadflow.config.correlate import CorrelateSection
from spreadflow.stream import psana2
from spreadflow.stream.run_shots import RunShots
from spreadflow.stream.shots import Source
from spreadflow.stream.speckle import SimulatedShots, Speckle
from spreadflow.stream.stacks import Datasets, Stacks
from spreadflow.stream.zeromq import PulledShots


def source_of(section: CorrelateSection, images: Path | None = None) -> Source:
    """Return the shots. images: manifest of the run that they are of, in place of what the section
    names. Raises FileError or ConfigError where there are none.
    """
    block_shots = section.longest_block
    if images is not None:
        return RunShots(images, block_shots, section.n_shots)
    if section.simulated is not None:
        keys = section.simulated.model_dump() | {"saturated": section.saturated}
        keys["shape"] = tuple(keys["shape"])
        return SimulatedShots(Speckle(**keys), block_shots, section.n_shots)
    if section.stream is not None:
        stream = section.stream
        shape = tuple(stream.shape)
        return PulledShots(stream.endpoint, shape, block_shots, stream.wait_s, section.n_shots)
    if section.psana is not None:
        assert section.dataset is not None, "checked by the section"
        run = psana2.Run(
            **section.psana.model_dump(),
            image=section.dataset,
            shot_ids=section.shot_ids,
            monitors=section.monitors,
        )
        return psana2.PsanaShots(run, block_shots, section.n_shots)
    return Stacks(
        section.files,
        Datasets(section.dataset, section.shot_ids, section.monitors),
        block_shots,
        n_shots=section.n_shots,
        follow_s=section.follow_s,
    )
