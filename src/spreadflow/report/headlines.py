"""The sentence or two that say how a stage went, for the report and the terminal."""

from collections.abc import Callable
from typing import Any

from spreadflow.report.style import about, measured, say

_FIRST = ("simulate", "index", "level0", "adopt", "reindex", "cells", "merge")
STAGES = (*_FIRST, "annulus", "wide", "ladder", "mosaic", "stage1", "spread")
"""In the order of the workflow."""


def headline(stage: str, figures: dict[str, Any]) -> list[str]:
    """Return what to know of a stage's figures, one fact a line."""
    return [line for line in _FACTS[stage](figures) if line]


def outcomes(figures: dict[str, Any]) -> str:
    """Return named ends with their counts, those that did not happen left out."""
    return ", ".join(
        f"{say(n)} {name.replace('_', ' ')}" for name, n in figures["outcomes"].items() if n
    )


def _simulate(f: dict) -> list[str]:
    kinds = ", ".join(f"{n} {kind}" for kind, n in f["kinds"].items() if n)
    return [f"{say(f['n_shots'])} shots: {kinds}", f"{f['photons_mean']:.3g} photons a pulse"]


def _index(f: dict) -> list[str]:
    rmsd = (
        f"{say(f['radial_rmsd_px'], 2)} px radial, {say(f['transverse_rmsd_px'], 2)} px transverse"
    )
    out = [
        f"{say(f['n_shots'])} shots: {outcomes(f)}",
        f"{say(f['n_lattices'])} lattices, of which {say(f['n_lattices_second'])} second or third "
        "in their shot",
        f"r.m.s.d. {rmsd} over {say(f['n_rmsd'])} reflections",
        f"{say(f['seconds_per_shot_per_core'])} s per shot and core",
    ]
    if f["misorientation_deg_median"] is None:
        return out
    return [
        *out,
        f"misorientation {say(f['misorientation_deg_median'], 2)}° in the median, "
        f"{say(f['misorientation_deg_p95'], 2)}° at 95 %; {_percent(f['miller_right'])} of the "
        "Miller indices right",
        f"{f['n_singles_indexed']} of {f['n_singles']} single hits right, both lattices in "
        f"{f['n_doubles_both']} of "
        f"{f['n_doubles']} double hits, a lattice on {f['n_blanks_with_lattice']} of "
        f"{f['n_blanks']} blanks",
        f"pulls of the photons {say(f['pull_mean'], 2)} ± {say(f['pull_sd'], 3)}; "
        f"{_percent(f['prediction_recall'])} of the reflections above 3 σ predicted",
    ]


def _level0(f: dict) -> list[str]:
    shift = ", ".join(
        f"{1e3 * x:+.1f} ± {1e3 * s:.1f}"
        for x, s in zip(f["shift_mm"], f["shift_sigma_mm"], strict=True)
    )
    out = [
        f"detector shifted by ({shift}) µm along fast and slow",
        f"distance {f['distance_mm']:.4f} ± {f['distance_sigma_mm']:.4f} mm",
    ]
    if f.get("true_shift_mm") is not None:
        truth = ", ".join(f"{1e3 * x:+.1f}" for x in f["true_shift_mm"])
        out.append(f"truth: ({truth}) µm, {f['true_distance_mm']:.4f} mm")
    return out


def _adopt(f: dict) -> list[str]:
    share = f"{_percent(f['indices_agree'])} of their {say(f['n_reflections'])} reflections"
    return [
        f"{say(f['n_lines'])} lines: {outcomes(f)}",
        f"{share} where the lattice puts their Miller index",
    ]


def _cells(f: dict) -> list[str]:
    out = [f"{say(f['n_kept'])} of {say(f['n_in'])} lattices accepted ({outcomes(f)})"]
    if f["mean"] is not None:
        out.append("mean cell " + " ".join(f"{value:.3f}" for value in f["mean"]) + " (Å, degrees)")
    return out


def _merge(f: dict) -> list[str]:
    also = ", ".join(f.get("ambiguities", []))
    return [
        f"{say(f['n_observations'])} observations of {say(f['n_lattices'])} lattices, scaled with "
        f"{f['scaling']}",
        f"completeness {_percent(f['completeness'])}, multiplicity {say(f['multiplicity'])}",
        f"CC½ {say(f['cc_half'])} ({say(f['n_pairs'])} pairs), Rsplit {say(f['r_split'])}, CC ano "
        f"{say(f['cc_ano'])}",
        f"Wilson B {say(f['wilson_b'])} Å²",
        also
        and f"indexing is ambiguous (h,k,l or {also}), which is not resolved: merged as if twinned",
    ]


def _annulus(f: dict) -> list[str]:
    return [
        f"{say(f['n_reflections'])} reflections of {say(f['n_lattices'])} lattices, {f['d_max']:g} "
        f"to {f['d_min']:g} Å",
        f"{say(f['n_pixels'])} pixels",
    ]


def _ladder(f: dict) -> list[str]:
    failed = [
        f"rung {rung['name']} fails: {rung['why']}" for rung in f["rungs"] if not rung["passed"]
    ]
    radial = {rung["name"]: rung["radial_rmsd_mm"] for rung in f["rungs"]}
    return [
        f"{f['n_passed']} of {len(f['rungs'])} rungs pass, "
        f"{say(f['n_modelled'])} lattices modelled",
        *failed,
        "radial r.m.s.d. "
        + ", ".join(f"{say(radial[name])} mm on rung {name}" for name in ("2", "3B", "4")),
    ]


def _mosaic(f: dict) -> list[str]:
    out = [
        f"{say(f['n_lattices'])} lattices: {outcomes(f)} ({f['scope'].replace('_', ' ')}, from "
        f"{f['shoeboxes']})",
        f"−ln L of held-out shoeboxes {say(f['held_out_continuous'], 6)} with the continuous "
        "distribution, "
        f"{say(f['held_out_gain'])} less with {say(f['n_components'])} components; η "
        f"{say(f['eta_deg'])}°",
        f"{say(f['seconds_per_lattice_per_core'], 2)} s per lattice and core",
    ]
    if f["distance_to_truth"] is None:
        return out
    far = say(f["distance_to_truth"], 2)
    smooth = say(f["distance_to_truth_continuous"], 2)
    return [*out, f"∫|p − truth| of the distribution {far}; continuous: {smooth}"]


def _stage1(f: dict) -> list[str]:
    out = [
        f"{say(f['n_lattices'])} lattices: {outcomes(f)} ({f['mosaicity']} mosaicity)",
        f"radial r.m.s.d. {say(f['radial_rmsd_mm'])} mm ({say(f['radial_rmsd_px'])} px) over "
        f"{say(f['n_rmsd'])} "
        f"reflections, {say(f['radial_floor_mm'])} mm were the model true, "
        f"{say(f['radial_rmsd_mm_before'])} mm by "
        f"spots; transverse {say(f['transverse_rmsd_mm'])} mm",
        f"σ_Z {say(f['sigma_z_median'])}; σ quoted: {f['uncertainty']}",
        f"{say(f['seconds_per_lattice_per_core'], 2)} s per lattice and core",
    ]
    if f["misorientation_deg_median"] is None:
        return out
    pulls = ", ".join(f"{name.replace('_', ' ')} {say(sd, 2)}" for name, sd in f["pull_sd"].items())
    return [
        *out,
        f"misorientation {say(f['misorientation_deg_median'], 2)}° in the median; sd of pulls: "
        f"{pulls}",
    ]


def _spread(f: dict) -> list[str]:
    low, high = f["compared_ev"]
    passed = f["controls"].values()
    goal = f["lattices_for_goal"]
    failed = ", ".join(name for name, fine in f["controls"].items() if not fine)
    moved = (
        f"not converged: the last of {f['cycles']} cycles moved f′, f″ by {f['changes'][-1]:.2g} σ"
    )
    out = [
        f"f′ ± {say(f['sigma_fp'], 2)} e, f″ ± {say(f['sigma_fdp'], 2)} e ({f['sigma_kind']} σ) "
        f"over {low:.0f}-{high:.0f} eV from {say(f['n_lattices'])} lattices "
        f"({f['mosaicity']} mosaicity)",
        _edges(f),
        f"0.1 e would take {about(goal['fp'])} lattices for f′, {about(goal['fdp'])} for f″",
        "" if f["converged"] else moved,
        passed
        and f"controls: {sum(passed)} of {len(passed)} passed" + (failed and f"; not: {failed}"),
    ]
    if f["pull_sd"] is None:
        return out
    far = f"{say(f['rms_fp'], 2)} e, {say(f['rms_fdp'], 2)} e"
    return [*out, f"r.m.s. from truth {far}; sd of pulls {say(f['pull_sd'], 2)}"]


def _edges(f: dict) -> str:
    """Return the difference of the first two edges, or the edges where there is none."""
    three = [
        f[name]
        for name in ("edge_difference_ev", "edge_difference_sigma_ev", "true_edge_difference_ev")
    ]
    if three[0] is not None:
        return f"{' − '.join([f'E0({site})' for site in f['sites']][:2])} = {measured(*three)}"
    each = (
        (site, (of[name] for name in ("e0_ev", "e0_sigma_ev", "true_e0_ev")))
        for site, of in f["sites"].items()
    )
    return ", ".join(f"E0({site}) = {measured(*edge)}" for site, edge in each)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.4g} %"


_FACTS: dict[str, Callable[[dict], list[str]]] = {
    "simulate": _simulate,
    "index": _index,
    "level0": _level0,
    "adopt": _adopt,
    "reindex": _index,
    "cells": _cells,
    "merge": _merge,
    "annulus": _annulus,
    "wide": _annulus,
    "mosaic": _mosaic,
    "stage1": _stage1,
    "spread": _spread,
    "ladder": _ladder,
}
