"""What `validate` prints and draws of an image file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from spreadflow.analysis.recording.estimates import Estimates
from spreadflow.models import Detector, Shot
from spreadflow.report import laboratory, style
from spreadflow.report.style import say


def text(figures: dict[str, Any]) -> list[str]:
    """Return what a file is, one fact a line, and each trap with its remedy."""
    slow, fast = figures["panel_px"]
    low, high = (say(limit) for limit in figures["trusted_range_adu"])
    beam = figures["beam_centre"]
    fast_px, slow_px = beam["fast_slow_px"]
    lines = [
        f"{figures['file']}: {figures['format']}, {figures['n_shots_looked_at']} of "
        f"{figures['n_shots']} shots looked at",
        f"  detector      {figures['n_panels']} panels of {slow} × {fast} px of "
        f"{figures['pixel_mm']:.5g} mm, {figures['distance_mm']:.2f} mm away, the beam at "
        f"{fast_px:.1f}, {slow_px:.1f} px (fast, slow) of panel {beam['panel']}",
        f"  pulses        {_pulses(figures)}",
        f"  trusted range {low} to {high} ADU",
        f"  masked        {figures['masked']:.2%}; besides, {_unusable(figures['unusable'])}",
        f"  gain          {say(figures['used_adu_per_photon'])} ADU per photon ({_gain(figures)})",
        f"  pedestal      {say(figures['used_offset_adu'])} ADU (stated, or left open: "
        f"{say(figures['stated_offset_adu'])})",
        f"  noise         {say(figures['readout_photons'])} photons of readout; "
        f"recording.gain {say(figures['spots_gain'])}, min_pixels {figures['spots_min_pixels']}",
    ]
    lines += [f"  undecided     {sentence}" for sentence in figures["undecided"]]
    lines += [f"  remark        {remark}" for remark in figures["remarks"]]
    for trap in figures["traps"]:
        lines.append(f"  TRAP {trap['name']}: {trap['found']}")
        lines.append(f"    -> {trap['remedy']}")
    return lines


def _unusable(counts: dict[str, int]) -> str:
    """Return how many pixels of each kind can't be used, in words."""
    listed = [f"{say(n)} {name}" for name, n in counts.items() if n]
    return ", ".join(listed) or "none that can't be used"


def _pulses(figures: dict[str, Any]) -> str:
    """Return what is known of the pulses, in words."""
    if figures["energy_ev"] is None:
        return figures["spectrum"]
    low, high = figures["energy_ev"]
    energies = f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"
    return f"{energies} eV, {figures['spectrum']}; {_reach(figures)}"


def _reach(figures: dict[str, Any]) -> str:
    """Return how far the detector reaches, in words."""
    return f"the farthest corner is at {figures['resolution_ang']:.2f} Å"


def _gain(figures: dict[str, Any]) -> str:
    """Return where the gain comes from, in words."""
    stated = f"stated, or left open: {say(figures['stated_adu_per_photon'])}"
    if figures["measured_by"] is None:
        return f"{stated}; the pixels don't tell it"
    measured = figures["measured_adu_per_photon"]
    sigma = figures["measured_adu_per_photon_sigma"]
    return f"{stated}; {figures['measured_by']} says {measured:.3g} ± {sigma:.1g}"


def draw(
    figures: dict[str, Any], shot: Shot, detector: Detector, found: Estimates, out: Path
) -> None:
    """Write the picture: panels with resolution rings, and what the gain comes from."""
    with matplotlib.rc_context(style.STYLE):
        figure = style.page(Path(figures["file"]).name, _pulses(figures))
        of_still, of_gain = figure.subplots(1, 2, width_ratios=[1.5, 1.0])
        laboratory.still(of_still, shot, detector)
        of_still.set_title("the first shot, without the pixels that are masked")
        _draw_gain(of_gain, found)
        style.save(figure, out)


def _draw_gain(axes: Any, found: Estimates) -> None:
    """Draw the histogram of quiet pixels where it has a one-photon peak, else noise and level."""
    if found.peak is not None:
        peak = found.peak
        axes.step(peak.centres, np.maximum(peak.counts, 0.5), where="mid", color=style.BLUE)
        axes.axvline(peak.adu_per_photon, color=style.ORANGE)
        axes.set_yscale("log")
        is_shown = peak.centres < 4 * peak.adu_per_photon
        axes.set_xlim(0, 4 * peak.adu_per_photon)
        axes.set_ylim(bottom=max(0.5, 0.5 * float(peak.counts[is_shown].min())))
        axes.set_xlabel("above the pedestal, ADU")
        axes.set_ylabel("pixels of quiet regions")
        axes.set_title(f"one photon: {peak.adu_per_photon:.3g} ADU")
        return
    if found.levels is None:
        style.empty(axes, "too few pixels to judge their noise")
        return
    levels = found.levels
    axes.plot(levels.mean, levels.shared, "o", color=style.BLUE, label="with neighbours")
    axes.plot(levels.mean, levels.variance, "o", color=style.GREY, label="of a pixel alone")
    if found.gain is not None:
        above = np.maximum(levels.mean - found.gain.offset_adu, 0.0)
        line = found.gain.adu_per_photon * above + found.gain.readout_adu**2
        axes.plot(levels.mean, line, color=style.ORANGE, label="fit: slope = ADU per photon")
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.log_ticks(axes.xaxis, axes.yaxis)
    axes.set_xlabel("background, ADU")
    axes.set_ylabel("variance, ADU²")
    axes.legend()
