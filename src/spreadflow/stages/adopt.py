"""adopt: lattices that another program indexed, named by a spec file, take the place of those that
`reindex` would find.

Each line of the spec file ends in one `AdoptOutcome`. A is kept; the detector is that of the
experiments; spots, mosaic spread and integrated reflections are made from the images as in
`reindex`, with the spectra of the `.lam` files where lines name any. Writes <run>/reindex.h5 and,
beside it, adopt.h5, which says what became of each line, and reindex.spectra.h5, those spectra. A
run without images has files with intensities in place of a spec file (`stated_lattices`).
"""

import filecmp
from collections import Counter
from functools import lru_cache
from logging import Logger
from pathlib import Path

import numpy as np

from spreadflow.config import AdoptConfig, IndexSection
from spreadflow.errors import AdoptOutcome, FileError, Outcome
from spreadflow.io import store, supplied_spectra
from spreadflow.io.images import Source, open_source
from spreadflow.io.lattices import dials
from spreadflow.io.lattices import spec as spec_files
from spreadflow.io.lattices.dials import SAME_DETECTOR_PX
from spreadflow.io.lattices.pairs import Pair
from spreadflow.io.lattices.shot_finder import Rule, ShotFinder
from spreadflow.io.lattices.spec import SpecLine
from spreadflow.log import Progress, logger
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.products import Adopt, Reindex
from spreadflow.recipes import target_axes
from spreadflow.recipes.pair import Line, judge, unmistakable
from spreadflow.recipes.shot import is_new
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import shots, stated_lattices
from spreadflow.units import wavelength

LINES_PER_BLOCK = 64
"""Number of lines that a rank reads at a time."""

WAVELENGTH_TOLERANCE = 0.03
"""Relative difference of a spectrum's mean from the wavelength of its experiment: pulses jitter by
a tenth of this, and other units or another beam time are farther off.
"""

GAIN_TOLERANCE = 0.01
"""Relative difference of the manifest's gain from that of experiments that needs no word."""

MAX_WARNINGS = 20
"""Largest number of lines that are not adopted which the log names one by one."""


def run(
    config: AdoptConfig,
    *,
    images: Path | None = None,
    spec: Path | None = None,
    lattices: list[Path] | None = None,
    run: str | None = None,
    out: Path,
    world: World,
    word: str = "adopt",
) -> None:
    """Write `out`, a product of reindex, and adopt.h5.

    images: the run's manifest; spec: file whose lines name pairs of .expt and .refl. In place of
    the two, lattices: files with lattices and intensities; run: its name. Raises FileError.
    """
    if lattices:
        stated_lattices.adopt(config, lattices, run or Path(out).parent.name, out, world, word)
    elif images is None or spec is None:
        found = "--images alone" if images else "--spec alone" if spec else "neither"
        raise FileError(word, "--images and --spec, or --lattices", found, "Name the files.")
    else:
        _adopt(config, images, spec, out, world, word)


def _adopt(
    config: AdoptConfig, images: Path, spec: Path, out: Path, world: World, word: str
) -> None:
    """Adopt the lattices that a spec file names in the images of a run."""
    section = config.reindex
    log = logger(word, world)
    named = spec_files.read(spec)
    detector = _detector(spec, named)
    source = open_source(images, section, detector)
    lines = _read(section, source, named, world, word)
    _check_detectors(spec, named, lines)
    world.once(lambda: _warn(log, named, lines))
    world.once(lambda: _tell(log, section, lines))
    world.once(lambda: _warn_of_gain(log, named, source.manifest.adu_per_photon))
    if not any(line.A is not None for line in lines):
        todo = "Do the experiments belong to these images and to reindex.cell?"
        raise FileError(spec, "lattices that can be adopted", _in_words(lines), todo)
    source = _with_spectra(Path(out), section, source, named, lines, world)
    lattices: dict[int, list[np.ndarray]] = {}
    for line in lines:
        if line.A is not None:
            lattices.setdefault(line.shot, []).append(line.A)
    inputs = {
        "images": source.identity,
        "geometry": store.digest(detector._asdict()),
        "lattices": store.digest(sorted(lattices.items())),
    }
    product = shots.ShotProduct(out, Reindex, word)
    shots.index_shots(product, section, config.recording, source, inputs, world, lattices)
    world.once(lambda: _write(Path(out), section, source, named, lines, log))


def _detector(path: Path, named: list[SpecLine]) -> Detector:
    """Return the detector of the first experiment that can be read. Raises FileError where none
    can.
    """
    why = ""
    for line in named:
        try:
            return dials.ExperimentList(line.expt)[line.experiment or 0].detector
        except FileError as error:
            why = why or str(error)
    raise FileError(path, "an experiment that can be read", why, "Correct the paths.")


class Reader:
    """Reads lines one after the other. A file that several lines in a row name is opened once."""

    def __init__(self, section: IndexSection, source: Source):
        self._section = section
        self._detector = source.detector
        self._shots = ShotFinder(source.path.parent, source.manifest.files)
        self._pair = lru_cache(maxsize=1)(Pair)

    def read(self, named: SpecLine) -> Line:
        """Return one line, read and judged as far as neither other lines nor the image decide."""
        try:
            pair = self._pair(named.expt, named.refl)
            number = named.experiment or 0
            is_ambiguous = named.experiment is None and len(pair) > 1
            if number >= len(pair) or is_ambiguous:
                why = f"{named.expt} has {len(pair)} experiments"
                return Line(AdoptOutcome.NO_EXPERIMENT, why)
            lattice = pair[number]
            if lattice.image == Path(named.expt):
                return Line(AdoptOutcome.UNREADABLE, f"{named.expt} names no images")
            if named.spectrum is not None:
                self._check_spectrum(named.spectrum, lattice.wavelength)
        except FileError as error:
            return Line(AdoptOutcome.UNREADABLE, str(error))
        place = self._shots.find(lattice.image, lattice.frame)
        line = Line(
            AdoptOutcome.ADOPTED,
            experiment=number,
            shot=place.shot,
            image=lattice.image,
            rule=place.rule,
        )
        return judge(line, lattice, self._detector, self._section)

    def _check_spectrum(self, path: Path, wavelength_ang: float) -> None:
        """Raise FileError where a file is no spectrum, or none about the experiment's wavelength:
        diffBragg takes the mean of the spectrum for it.
        """
        mean = float(wavelength(supplied_spectra.read_lam(path).mean_energy_ev))
        if abs(mean / wavelength_ang - 1.0) > WAVELENGTH_TOLERANCE:
            expected = f"wavelengths about {wavelength_ang:g} Å, that of the experiment"
            raise FileError(path, expected, f"a mean of {mean:g} Å", "Is it the right file, in Å?")


def _read(
    section: IndexSection, source: Source, named: list[SpecLine], world: World, word: str
) -> list[Line]:
    """Return all lines, judged; the second of two lines with one lattice is DUPLICATE.
    Collective.
    """
    firsts = range(0, len(named), LINES_PER_BLOCK)
    blocks = [named[first : first + LINES_PER_BLOCK] for first in firsts]
    reader = Reader(section, source)
    own_blocks: dict[int, list[Line]] = {}
    with Progress(word, len(blocks), world, "blocks of lines") as progress:
        for number in world.share(len(blocks)):
            progress.at(number)
            own_blocks[number] = [reader.read(line) for line in blocks[number]]
            world.count("lines", len(blocks[number]))
    lines = [line for block in world.gather_blocks(own_blocks) for line in block]
    return _without_duplicates(unmistakable(lines), section)


def _without_duplicates(lines: list[Line], section: IndexSection) -> list[Line]:
    """Return the lines; each whose lattice an earlier line of its shot has becomes DUPLICATE."""
    of_shots: dict[int, list[np.ndarray]] = {}
    judged = []
    for line in lines:
        if line.A is not None:
            others = of_shots.setdefault(line.shot, [])
            if is_new(line.A, others, section):
                others.append(line.A)
            else:
                line = line._replace(outcome=AdoptOutcome.DUPLICATE, A=None)
        judged.append(line)
    return judged


def _check_detectors(path: Path, named: list[SpecLine], lines: list[Line]) -> None:
    """Raise FileError for the first line with another detector."""
    for spec_line, line in zip(named, lines, strict=True):
        if line.corner_distance_px > SAME_DETECTOR_PX:
            where = f"{path}, line {spec_line.line}"
            found = f"a panel {line.corner_distance_px:.3g} px from that of the first"
            todo = "Make one run, with its own spec file, for each detector."
            raise FileError(where, "the same detector in all experiments", found, todo)


def _warn(log: Logger, named: list[SpecLine], lines: list[Line]) -> None:
    """Log the reasons of the first lines that are not adopted."""
    left_out = [
        (spec_line, line)
        for spec_line, line in zip(named, lines, strict=True)
        if line.outcome != AdoptOutcome.ADOPTED
    ]
    for spec_line, line in left_out[:MAX_WARNINGS]:
        log.warning("line %d: %s %s", spec_line.line, line.outcome.name.lower(), line.why)
    if len(left_out) > MAX_WARNINGS:
        log.warning("%d more lines are not adopted: see adopt.h5", len(left_out) - MAX_WARNINGS)


def _tell(log: Logger, section: IndexSection, lines: list[Line]) -> None:
    """Log how images were found that are not where experiments say, and which lattices were brought
    to other axes.
    """
    adopted = [line for line in lines if line.A is not None]
    for rule in (Rule.NAME, Rule.STEM):
        images = [line.image for line in adopted if line.rule == rule]
        if images:
            words = "images of %d lines are those of the run of the same %s, such as that of %s"
            log.info(words, len(images), rule.value, images[0])
    for words in target_axes.in_words((line.axes for line in adopted), section.space_group):
        log.info("%s", words)


def _warn_of_gain(log: Logger, named: list[SpecLine], adu_per_photon: float) -> None:
    """Log the gain that the first list that can be read states, where it is not the manifest's."""
    for line in named:
        try:
            gain = dials.ExperimentList(line.expt).gain
        except FileError:
            continue
        if gain is not None and not np.isclose(gain, adu_per_photon, rtol=GAIN_TOLERANCE):
            words = "%s states a gain of %g; that of the manifest, adu_per_photon %g, is used"
            log.warning(words, line.expt, gain, adu_per_photon)
        return


def _with_spectra(
    out: Path,
    section: IndexSection,
    source: Source,
    named: list[SpecLine],
    lines: list[Line],
    world: World,
) -> Source:
    """Return the shots with the spectra that adopted lines name in place of the images'; these are
    kept beside the product. Raises FileError for two spectra of one shot. Collective.
    """
    files: dict[int, Path] = {}
    for spec_line, line in zip(named, lines, strict=True):
        if line.A is None or spec_line.spectrum is None:
            continue
        shot_id = int(source.shots["shot_id"][line.shot])
        other = files.setdefault(shot_id, spec_line.spectrum)
        if other != spec_line.spectrum and not filecmp.cmp(other, spec_line.spectrum, False):
            where = f"line {spec_line.line} of the spec file"
            expected = f"the spectrum of another line of the same shot, {other}"
            todo = "Give one spectrum for each shot."
            raise FileError(where, expected, spec_line.spectrum, todo)
    if not files:
        world.once(lambda: supplied_spectra.path_of(out).unlink(missing_ok=True))
        return source
    world.once(lambda: supplied_spectra.write(out, files))
    spectra = supplied_spectra.SuppliedSpectra(out)
    return open_source(source.path, section, source.detector, spectra)


def _in_words(lines: list[Line]) -> str:
    """Return the number of lines of each outcome."""
    counts = Counter(line.outcome for line in lines)
    return skeleton.in_words({end.name.lower(): counts[end] for end in AdoptOutcome})


def _write(
    out: Path,
    section: IndexSection,
    source: Source,
    named: list[SpecLine],
    lines: list[Line],
    log: Logger,
) -> None:
    """Write adopt.h5, now that the shots have their outcomes."""
    outcome_of_shot = store.read(out, Reindex, [Reindex.shots.outcome]).shots.outcome
    final = []
    for line in lines:
        if line.A is not None and outcome_of_shot[line.shot] != Outcome.INDEXED:
            line = line._replace(outcome=AdoptOutcome.LOST_SHOT)
        final.append(line)
    n_adopted = Counter[int]()
    k = np.full(len(final), -1)
    for row, line in enumerate(final):
        if line.outcome == AdoptOutcome.ADOPTED:
            k[row] = n_adopted[line.shot]
            n_adopted[line.shot] += 1
    shot_ids = np.append(source.shots["shot_id"], np.uint64(0))  # the last is that of shot -1
    table = Adopt.lines(
        line=[line.line for line in named],
        k=k,
        shot_id=shot_ids[[line.shot for line in final]],
        experiment=[line.experiment for line in final],
        n_reflections=[line.n_reflections for line in final],
        n_agree=[line.n_agree for line in final],
        outcome=[line.outcome for line in final],
    )
    values = [column.tolist() for column in table.as_dict().values()]
    store.write(
        out.with_name("adopt.h5"),
        Adopt(lines=table),
        key=store.digest(store.identity(out), values),
        run=source.manifest.run,
        config=section.model_dump(mode="json"),
    )
    n_spectra = sum(line.spectrum is not None for line in named)
    log.info("%d lines, %d with a spectrum: %s", len(final), n_spectra, _in_words(final))
