"""The viewer of `correlate`: results of the workers → an update of the output, and the summary."""

import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow.analysis.correlation.curves import Curve, Decay, curves, fit_decay
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.analysis.correlation.two_time import Labels, g2_by_age, two_time
from spreadflow.io import g2, store, xpcs
from spreadflow.io.colours import Pixels
from spreadflow.parallel.roles import Result, Update
from spreadflow.stages.correlation_callbacks import Callbacks
from spreadflow.stages.correlation_workers import counts_of, sums_of, two_time_of

Draw = Callable[[Sequence[Curve], Sequence[Decay | None], float, str, Path], None]
"""Draws curves and the exponentials that fit them: units of the shot id in a second, what to say
about all, and the file.
"""


class Output(NamedTuple):
    """What is written, and about what."""

    path: Path | None
    """None = no file"""
    is_replacing: bool
    system_params: Mapping[str, Any]
    user_params: Mapping[str, Any]
    pixels: Pixels
    delays: np.ndarray
    how: g2.How
    labels: Labels | None = None
    """of the pixels, for two-time correlation"""
    n_ages: int = 0
    """of g2 by age; 0 = no two-time correlation"""
    picture: Path | None = None
    """of the curves; None = beside the file"""
    draw: Draw | None = None
    """None = nothing is drawn"""


class Found(NamedTuple):
    """The curves of an update, a colour each."""

    curves: list[Curve]
    decays: list[Decay | None]
    """the exponential that fits each; None = none does"""


class G2Viewer:
    """Publishes updates: through the user's class where it does so itself, else as g2."""

    def __init__(self, output: Output, callbacks: Callbacks, log: logging.Logger):
        self._output = output
        self._callbacks = callbacks
        self._log = log
        self._start = time.perf_counter()
        self._start_time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._n_published: int | None = None
        """shots of the last update"""
        self._file: g2.G2File | None = None
        if output.path is not None:
            self._file = g2.G2File(output.path, output.is_replacing)
            with self._file.open() as file:
                g2.write_parameters(
                    file, output.how, output.system_params, output.user_params, output.pixels
                )
        with self._group() as group:
            callbacks.call("viewerInit", output.pixels.mask, group)

    @contextmanager
    def _group(self) -> Iterator[h5py.Group | None]:
        """Open the group of results for a while; None where there is no file."""
        if self._file is None:
            yield None
            return
        with self._file.open() as file:
            yield file["user"]

    def publish(self, update: Update, results: Sequence[Result]) -> None:
        """Publish the results of all workers, and finish the output with the last of them. Where no
        shot has come since the update before, that one is the last.
        """
        found = Found([], [])
        publish = self._callbacks.get("viewerPublish")
        has_more = update.n_shots != self._n_published
        self._n_published = update.n_shots
        with self._group() as group:
            if publish is not None:
                if has_more:
                    self._let_publish(publish, update, results, group)
            else:
                found = self._write(update, results, group, has_more)
        rate = update.n_shots / max(time.perf_counter() - self._start, 1e-9)
        self._log.info("%d shots, %d dropped, %.1f shots/s", update.n_shots, update.n_dropped, rate)
        if has_more:
            self._show(update, found)
        if update.is_last and not update.n_shots:
            self._log.warning("no shot was correlated: the output has none")
        if update.is_last and self._file is not None:
            self._file.finish()
            self._summarize(update, results[0], found, rate)

    def _show(self, update: Update, found: Found) -> None:
        """Log what the curves say, and draw them."""
        output = self._output
        for curve, decay in zip(found.curves, found.decays, strict=True):
            self._log.info("%s", _sentence(curve, decay, output.how.rate_hz))
        beside = None if output.path is None else output.path.with_suffix(".png")
        picture = output.picture or beside
        if output.draw is not None and picture is not None and found.curves:
            words = f"{update.n_shots} shots, {update.n_dropped} dropped"
            output.draw(found.curves, found.decays, output.how.rate_hz, words, picture)

    def publish_merged(self, update: Update, result: Result, checksums: Sequence[str]) -> None:
        """Publish what was merged, in a file. checksums: of all outputs that were."""
        assert self._file is not None
        with self._file.open() as file:
            g2.write_merged(file, checksums)
        with self._group() as group:
            found = self._write(update, [result], group, has_more=True)
        self._file.finish()
        self._summarize(update, result, found, None)

    def _write(
        self, update: Update, results: Sequence[Result], group: h5py.Group | None, has_more: bool
    ) -> Found:
        """Write an update; return its curves. has_more: whether it has more shots than the one
        before, which else is completed.
        """
        output = self._output
        sums = sums_of(results, output.delays)
        if update.is_last and update.n_shots:
            self._warn_of_empty(sums)
        of_colours = curves(sums, output.pixels.colours, output.pixels.fine_colours)
        found = Found(of_colours, [fit_decay(curve) for curve in of_colours])
        if group is None:
            return found
        columns = {
            "delays": sums.delays,
            "delay_counts": sums.counts,
            "is_bad": sums.is_bad,
            **_columns(of_colours, sums.counts > 0),
        }
        shots = counts_of(results[0], len(output.delays))._asdict()
        if has_more:
            arrays = {"G2": sums.g2, "IF": sums.future, "IP": sums.past}
            written = g2.write_update(
                group, update.last_shot_id, shots, columns, arrays, output.pixels
            )
            if output.n_ages:
                self._write_two_time(written, results)
        written = group[g2.update_name(update.last_shot_id)]
        written.attrs["n_dropped"] = update.n_dropped
        if update.is_last:
            xpcs.write(group.file, self._xpcs(sums, of_colours), written.get("two_time"))
        return found

    def _warn_of_empty(self, sums: Sums) -> None:
        """Log which delays have no partners at all."""
        empty = sums.delays[sums.counts == 0].tolist()
        if empty:
            self._log.warning(
                "%d of %d delays have no partners, %d to %d: no two shots in the buffer are as far "
                "apart",
                len(empty),
                len(sums.delays),
                empty[0],
                empty[-1],
            )

    def _write_two_time(self, written: h5py.Group, results: Sequence[Result]) -> None:
        """Write C and g2 by age into an update."""
        output = self._output
        labels = output.labels
        assert labels is not None
        sums = two_time_of(results, len(output.delays), len(labels.colours))
        each = two_time(sums, labels)
        by_age = g2_by_age(sums, labels, output.delays, output.n_ages)
        columns = {
            "shot_ids": each.times,
            "colours": each.colours,
            "correlation": each.correlation,
            "ages": by_age.ages,
            "delays": by_age.delays,
            "delay_counts": by_age.counts,
            "g2": by_age.g2,
        }
        for name, values in columns.items():
            written[f"two_time/{name}"] = values

    def _xpcs(self, sums: Sums, found: Sequence[Curve]) -> xpcs.XpcsResults:
        """Return curves as NeXus has them."""
        output = self._output
        colours = output.pixels.colours
        has_partners = sums.counts > 0
        means = sums.g2[has_partners]
        means /= sums.counts[has_partners, None]
        by_colour = {curve.colour: curve for curve in found}
        distinct = output.pixels.distinct_colours
        shape = (int(has_partners.sum()), len(distinct))
        g2_curves, sigma, products = np.full((3, *shape), np.nan)
        for i, colour in enumerate(distinct.tolist()):
            if colour in by_colour:
                g2_curves[:, i] = by_colour[colour].g2
                sigma[:, i] = by_colour[colour].sigma
                is_own = (colours == colour) & (sums.is_bad == 0)
                products[:, i] = means[:, is_own].mean(axis=1)
        assert output.path is not None
        return xpcs.XpcsResults(
            identifier=output.path.stem,
            start_time=self._start_time,
            frame_time_s=1 / output.how.rate_hz,
            pixels=output.pixels,
            delays=sums.delays[has_partners],
            g2=g2_curves,
            g2_sigma=sigma,
            products=products,
        )

    def _let_publish(
        self, publish: Any, update: Update, results: Sequence[Result], group: h5py.Group | None
    ) -> None:
        """Have the user's class publish an update."""
        output = self._output
        names = self._callbacks.array_names
        values = np.concatenate([result.values for result in results], axis=2)
        images = {
            name: {
                int(delay): output.pixels.image(values[i, k])
                for k, delay in enumerate(output.delays)
            }
            for i, name in enumerate(names)
        }
        flags = output.pixels.image(np.concatenate([result.flags for result in results]))
        counts = results[0].numbers[: len(output.delays)].copy()
        publish(counts, event_time(update.last_shot_id), images, flags, group)

    def publish_alternate(self, calculate: Any, ids: np.ndarray, values: np.ndarray) -> None:
        """Have the user's class calculate in another way and publish it; finish the output. ids:
        (shot,) of `event_time`; values: (shot, pixel).
        """
        with self._group() as group:
            calculate(ids, values, group)
        if self._file is not None:
            self._file.finish()

    def _summarize(self, update: Update, result: Result, found: Found, rate: float | None) -> None:
        """Write the figures of the whole beside the output. rate: shots a second; None = they did
        not come one after the other.
        """
        output = self._output
        assert output.path is not None
        counts = counts_of(result, len(output.delays))
        fits = zip(found.curves, found.decays, strict=True)
        fitted = {str(curve.colour): fit for curve, fit in fits if fit is not None}
        figures = {
            "n_events": update.n_shots,
            "n_dropped": update.n_dropped,
            "n_duplicates": counts.n_duplicates,
            "n_late": counts.n_late,
            "n_pixels": len(output.pixels.places),
            "n_delays": len(output.delays),
            "events_per_second": rate,
            "contrast": {colour: fit.contrast for colour, fit in fitted.items()},
            "rate_hz": {colour: fit.rate * output.how.rate_hz for colour, fit in fitted.items()},
            "rate_sigma_hz": {
                colour: fit.sigmas[2] * output.how.rate_hz for colour, fit in fitted.items()
            },
        }
        store.write_text(output.path.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")


def _columns(found: Sequence[Curve], has_partners: np.ndarray) -> dict[str, np.ndarray]:
    """Return the curves and their σ as columns (delay,) by name, 0 where there are no partners."""
    columns = {}
    for curve in found:
        for name, values in (("delay_curve", curve.g2), ("delay_curve_sigma", curve.sigma)):
            column = np.zeros(len(has_partners))
            column[has_partners] = values
            columns[f"{name}_color_{curve.colour}"] = column
    return columns


def _sentence(curve: Curve, decay: Decay | None, rate_hz: float) -> str:
    """Return what a curve says. rate_hz: units of the shot id in a second."""
    if decay is None:
        if not len(curve.delays):
            return f"colour {curve.colour}: no partners"
        first = f"g2 {curve.g2[0]:.4g} ± {curve.sigma[0]:.2g} at {curve.delays[0] / rate_hz:.3g} s"
        return f"colour {curve.colour}: {first}, no exponential fits"
    _, sigma_contrast, sigma_rate = decay.sigmas
    contrast = f"contrast {decay.contrast:.3g} ± {sigma_contrast:.2g}"
    rate = f"Γ {decay.rate * rate_hz:.3g} ± {sigma_rate * rate_hz:.2g} Hz"
    return f"colour {curve.colour}: {contrast}, {rate}"


def event_time(shot_id: int) -> dict[str, int]:
    """Return the time of a shot as callbacks have it."""
    return {"sec": 0, "nsec": 0, "fiducials": 0, "counter": shot_id}
