"""Section of the correlation of pixels in time."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from spreadflow.config.base import Fraction, Inconsistent, Section, Seed, explain

Delay = Annotated[int, Field(gt=0, lt=2**63)]
"""In units of the shot id."""


PULSE_IDS_HZ = 928571
"""13/14 MHz: pulse ids of LCLS-II count the places where a pulse may be, at any repetition rate."""


class SpeckleSection(Section):
    """Simulated speckle, in place of files."""

    n_shots: PositiveInt = 1000
    """before gaps"""
    shape: list[PositiveInt] = [64, 64]
    """of an image"""
    mean_photons: PositiveFloat = 1.0
    """of a pixel in a shot"""
    decay: PositiveFloat = 0.02
    """Γ per unit of the shot id: g2 − 1 decays as exp(−2 (Γ t)^γ)"""
    stretch: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ; 1 = exponential"""
    n_modes: PositiveInt = 1
    """1 over the contrast"""
    noise: Literal["poisson", "gaussian", "none"] = "poisson"
    """photons are counted, or a Gaussian is added to what is expected of them, or nothing is"""
    noise_photons: NonNegativeFloat = 1.0
    """standard deviation of the Gaussian"""
    missing: Fraction = 0.0
    """share of the shots that are missing"""
    duplicate: Fraction = 0.0
    """share of the shots that come twice"""
    disordered: Fraction = 0.0
    """share of the shots that come after newer ones"""
    disorder_shots: PositiveInt = 8
    """by how many at most"""
    late: Fraction = 0.0
    """share of the shots that come very late"""
    late_shots: PositiveInt = 1000
    """by how many"""
    n_dead: NonNegativeInt = 0
    """pixels that are always 0: the first ones"""
    n_saturated: NonNegativeInt = 0
    """pixels that saturate in one shot of a hundred: the last ones"""
    seed: Seed = 1
    """of everything random"""


class StreamSection(Section):
    """Shots that come as messages of ZeroMQ (PUSH and PULL), in place of files."""

    endpoint: str
    """address such as tcp://host:5555, that each reader connects to; one with * is bound"""
    shape: Annotated[list[PositiveInt], Field(min_length=1)]
    """of an image"""
    wait_s: PositiveFloat = 60.0
    """seconds without a message after which all shots have come"""


class PsanaSection(Section):
    """Shots of LCLS-II by psana-2, in place of files: `dataset`, `shot_ids` and `monitors` are then
    names such as `jungfrau.raw.calib`.
    """

    experiment: str
    """its name"""
    run: PositiveInt
    """number of the run"""
    folder: str | None = None
    """of its files; null = where psana looks for them"""
    is_live: bool = False
    """whether the run is still being written"""


class DelaysSection(Section):
    """Distinct delays between two, in units of the shot id."""

    start: PositiveInt = 1
    """the shortest"""
    stop: PositiveInt = 1000
    """the longest"""
    num: PositiveInt = 100
    """as many are kept as rounding leaves"""
    spacing: Literal["log", "lin"] = "log"
    """equally far apart in their logarithm, or as they are"""


class TwoTimeSection(Section):
    """Correlation of each two of the last shots, for dynamics that change with time. Memory has 8
    bytes for two shots and each colour with a fine colour, on every worker and on the viewer.
    """

    n_shots: PositiveInt = 500
    """as many"""
    n_ages: PositiveInt = 4
    """equal parts of their time, with g2 of each"""


class CorrelateSection(Section):
    """Pixel-wise correlation in time: G2 of the shots of a stream."""

    files: list[str] = []
    """image files or HDF5 files of shots, in order; patterns are sorted"""
    follow_s: NonNegativeFloat = 0.0
    """seconds without a new shot after which all have come: until then files may grow, and more may
    come; 0 = all are there
    """
    dataset: str | None = None
    """path of the images in HDF5 files; null = files of a format that `spreadflow validate` knows
    """
    shot_ids: str | None = None
    """path of whole numbers in each file, the times of its shots; null = shots are counted"""
    monitors: dict[str, str] = {}
    """name → path in each file of what else was recorded with its shots, for `serverEventOk`"""
    simulated: SpeckleSection | None = None
    """simulated shots in place of files"""
    stream: StreamSection | None = None
    """shots that come by network in place of files"""
    psana: PsanaSection | None = None
    """shots of LCLS-II in place of files"""
    rate_hz: PositiveFloat = 120.0
    """units of the shot id in a second; of `psana` it has to be stated"""
    n_shots: NonNegativeInt = 0
    """the first so many alone; 0 = all"""
    mask: Path | None = None
    """.npy in the shape of an image, 1 = correlate the pixel; null = all"""
    test_mask: Path | None = None
    """the same for tests: some tens of pixels"""
    colours: Path | None = None
    """.npy of whole numbers: pixels whose curves are averaged; 0 = none; null = one colour"""
    fine_colours: Path | None = None
    """.npy of whole numbers: pixels that share their mean intensity; null = as `colours`"""
    calculator: Literal["accumulating", "windowed", "at_end", "fft", "multi_tau"] = "accumulating"
    """which partners count: over the whole run; among the last shots (kept up, formed at updates,
    or so by Fourier transforms); or averaged over longer and longer times
    """
    engine: Literal["numba", "jax"] = "numba"
    """what multiplies and adds for the first three: the processor, or the device of JAX"""
    delays: Annotated[list[Delay], Field(min_length=1)] | DelaysSection = DelaysSection()
    """in units of the shot id; not of `multi_tau`"""
    buffer_shots: PositiveInt = 2000
    """shots at hand, no more than `n_shots`: no delay reaches further"""
    n_levels: Annotated[PositiveInt, Field(le=40)] = 8
    """of `multi_tau`; each lasts twice as long as the one before"""
    n_lags: Annotated[PositiveInt, Field(le=1024, multiple_of=2)] = 8
    """of the first level of `multi_tau`; the others have half as many"""
    two_time: TwoTimeSection | None = None
    """null = none; not in tests"""
    not_zero: PositiveFloat = 1e-5
    """smaller values, and negative ones, become this"""
    saturated: PositiveFloat = 32768.0
    """a pixel that reaches it once counts no more"""
    block_shots: PositiveInt = 256
    """shots that travel together"""
    update_shots: NonNegativeInt = 0
    """shots between updates of the output; 0 = only at the end"""
    readers: PositiveInt = 1
    """ranks that read"""
    reader_hosts: list[str] = []
    """hosts that they may be at; none = any"""
    takes_turns: bool = True
    """whether readers take turns, else the earliest of their next blocks comes first"""
    user_class: str | None = None
    """MODULE:CLASS, MODULE.CLASS, FILE.py:CLASS or an entry point, with callbacks; null = G2 alone
    """
    user_params: dict[str, Any] = {}
    """for its constructor"""
    out: str | None = "correlate.h5"
    """the output; %T becomes the time, %C a free number; null = none"""
    picture: str | None = None
    """PNG of the curves, drawn anew at each update; %T and %C as in `out`; null = beside that"""
    test_out: str | None = "correlate_test.h5"
    """that of --test_alt"""
    overwrite: bool = False
    """whether an output of this name may be replaced"""
    test_shots: PositiveInt = 100
    """shots that tests take"""
    largest_difference: NonNegativeFloat = Field(default=1e-6)
    """relative, that --cmp allows"""

    @property
    def longest_block(self) -> int:
        """Most shots that travel together: an update is never further than its end."""
        return min(self.block_shots, self.update_shots or self.block_shots)

    @property
    def names_shots(self) -> bool:
        """Whether it says where shots come from, which a run of a trial says by itself."""
        return bool(self.files or self.simulated or self.stream or self.psana)

    @property
    def files_named(self) -> dict[str, Path]:
        """The files that it names beside shots, by key: masks, colours and the user's class."""
        named = {
            "mask": self.mask,
            "test_mask": self.test_mask,
            "colours": self.colours,
            "fine_colours": self.fine_colours,
        }
        module, _, _ = (self.user_class or "").rpartition(":")
        if module.endswith(".py"):
            named["user_class"] = Path(module)
        return {key: path for key, path in named.items() if path is not None}

    @model_validator(mode="after")
    def _engine_is_used(self) -> Self:
        """Refuse a device for calculators that know none. Raises Inconsistent."""
        if self.engine == "jax" and self.calculator in ("fft", "multi_tau"):
            expected = "numba, where the calculator is fft or multi_tau"
            raise Inconsistent("engine", expected, self.engine)
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        """Refuse several sources, and events of which it is not said what and when they are. Raises
        Inconsistent.
        """
        sources = ("files", "simulated", "stream", "psana")
        named = [name for name in sources if getattr(self, name)]
        if len(named) > 1:
            raise Inconsistent(named[1], f"none beside `{named[0]}`", f"both {' and '.join(named)}")
        if self.psana is not None and self.dataset is None:
            raise Inconsistent("dataset", "what an image is, such as jungfrau.raw.calib", "null")
        if self.psana is not None and "rate_hz" not in self.model_fields_set:
            expected = (
                f"units of the shot id in a second: {PULSE_IDS_HZ} of timing.raw.pulseId, and "
                "those of the events where they are counted"
            )
            raise Inconsistent("rate_hz", expected, "nothing")
        return self


def valid(where: object, keys: dict[str, Any]) -> CorrelateSection:
    """Return the section of some keys. where: they are. Raises ConfigError."""
    try:
        return CorrelateSection.model_validate(keys)
    except ValidationError as error:
        raise explain(error, f"{where}: correlate", CorrelateSection) from None
