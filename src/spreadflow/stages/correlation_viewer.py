"""The viewer of `correlate`: results of the workers → an update of the output, and the summary."""

import datetime
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow.analysis.correlation.curves import Curve, curves, fit_decay
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.analysis.correlation.two_time import g2_by_age, labels_of, two_time
from spreadflow.io import g2, store, xpcs
from spreadflow.io.colours import Pixels
from spreadflow.parallel.roles import Result, Update
from spreadflow.stages.correlation_callbacks import Callbacks
from spreadflow.stages.correlation_workers import counts_of, sums_of, two_time_of


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
    n_ages: int = 0
    """of g2 by age; 0 = no two-time correlation"""


class G2Viewer:
    """Publishes updates: through the user's class where it does so itself, else as g2."""

    def __init__(self, output: Output, callbacks: Callbacks, log: logging.Logger):
        self._output = output
        self._callbacks = callbacks
        self._log = log
        self._start = time.perf_counter()
        self._start_time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
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
        """Publish the results of all workers, and finish the output with the last of them."""
        found: list[Curve] = []
        publish = self._callbacks.get("viewerPublish")
        with self._group() as group:
            if publish is not None:
                self._let_publish(publish, update, results, group)
            else:
                found = self._write(update, results, group)
        rate = update.n_shots / max(time.perf_counter() - self._start, 1e-9)
        self._log.info("%d shots, %d dropped, %.1f shots/s", update.n_shots, update.n_dropped, rate)
        if update.is_last and self._file is not None:
            self._file.finish()
            self._summarize(update, results[0], found, rate)

    def publish_merged(self, update: Update, result: Result) -> None:
        """Publish what was merged, in a file."""
        assert self._file is not None
        with self._group() as group:
            found = self._write(update, [result], group)
        self._file.finish()
        self._summarize(update, result, found, None)

    def _write(
        self, update: Update, results: Sequence[Result], group: h5py.Group | None
    ) -> list[Curve]:
        """Write an update; return its curves."""
        output = self._output
        sums = sums_of(results, output.delays)
        if update.is_last and update.n_shots:
            self._warn_of_empty(sums)
        found = curves(sums, output.pixels.colours, output.pixels.fine_colours)
        if group is None:
            return found
        columns = {
            "delays": sums.delays,
            "delay_counts": sums.counts,
            "is_bad": sums.is_bad,
            **_columns(found, sums.counts > 0),
        }
        arrays = {"G2": sums.g2, "IF": sums.future, "IP": sums.past}
        shots = counts_of(results[0], len(output.delays))._asdict() | {
            "n_dropped": update.n_dropped
        }
        id_ = update.last_shot_id
        written = g2.write_update(group, id_, shots, columns, arrays, output.pixels)
        if written is None:
            self._log.error("shot %d: published before, skipped", id_)
        elif output.n_ages:
            self._write_two_time(written, results)
        if update.is_last:
            last = group[g2.update_name(id_)]
            xpcs.write(group.file, self._xpcs(sums, found), last.get("two_time"))
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
        labels = labels_of(output.pixels.colours, output.pixels.fine_colours)
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
        means = sums.g2[has_partners] / sums.counts[has_partners, None]
        by_colour = {curve.colour: curve for curve in found}
        shape = (int(has_partners.sum()), len(np.unique(colours)))
        g2_curves, sigma, products = np.full((3, *shape), np.nan)
        for i, colour in enumerate(np.unique(colours).tolist()):
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

    def _summarize(
        self, update: Update, result: Result, found: Sequence[Curve], rate: float | None
    ) -> None:
        """Write the figures of the whole beside the output. rate: shots a second; None = they did
        not come one after the other.
        """
        output = self._output
        assert output.path is not None
        counts = counts_of(result, len(output.delays))
        fits = {curve.colour: fit_decay(curve) for curve in found}
        fitted = {str(colour): fit for colour, fit in fits.items() if fit is not None}
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


def event_time(shot_id: int) -> dict[str, int]:
    """Return the time of a shot as callbacks have it."""
    return {"sec": 0, "nsec": 0, "fiducials": 0, "counter": shot_id}
