"""How far curves with X unknown are from the truth, beside what they have to reach.

The shape of a curve is what is left of it over 7100-7140 eV when its mean there, the constant, is
taken off. Where X is unknown, the constant of f′ is known from X alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import curve_sets
import lattices
from curve_cycles import Cycle, Fits, Row
from curve_sets import BAND_EV
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import RefinedCurves, complex_curves

SETS_FOR_PULLS = 5
"""Sets that the constants of f′ and the mean of f″ are judged by, at least."""

SETS_FOR_EDGE = 8
"""The same for the difference of E0."""

KINDS = ("f′", "f″")
"""The curves of a site."""


class Errors(NamedTuple):
    """Errors of a fit over the nodes of the band, and their σ, e. (site, 2, node), and (site, 2)
    for the means.
    """

    error: np.ndarray
    fisher: np.ndarray
    sandwich: np.ndarray
    shape_fisher: np.ndarray
    shape_sandwich: np.ndarray
    mean_fisher: np.ndarray
    mean_sandwich: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(…, site, 2) errors of the constants"""
        return self.error.mean(axis=-1)

    @property
    def shape(self) -> np.ndarray:
        """(…, site, 2, node) errors of the shape"""
        return self.error - self.mean[..., None]


class ScoredCycle(NamedTuple):
    """A set of lattices after a cycle, beside the truth."""

    free: Errors
    kramers_kronig: Errors
    scale: dict[str, Any]
    costs: dict[str, Any]


# ---------------------------------------------------------------- a set


def errors_of(p: Parametrisation, fit: RefinedCurves) -> Errors:
    """Compare curves with the truth."""
    low, high = BAND_EV
    is_scored = (p.nodes_ev >= low) & (p.nodes_ev <= high)
    true = p._replace(reference=lattices.true_curves()).reference_at_nodes
    deviation = (p.at_nodes @ fit.theta).reshape(true.shape)
    error = deviation + p.reference_at_nodes - true
    rows = p.at_nodes.reshape(*true.shape, -1)[:, :, is_scored]
    mean_rows = rows.mean(axis=2)
    shape_rows = rows - mean_rows[:, :, None]
    both = fit.fisher, fit.sandwich
    fisher, sandwich = (_sigma(rows, covariance) for covariance in both)
    shape_fisher, shape_sandwich = (_sigma(shape_rows, covariance) for covariance in both)
    mean_fisher, mean_sandwich = (_sigma(mean_rows, covariance) for covariance in both)
    return Errors(
        error=error[..., is_scored],
        fisher=fisher,
        sandwich=sandwich,
        shape_fisher=shape_fisher,
        shape_sandwich=shape_sandwich,
        mean_fisher=mean_fisher,
        mean_sandwich=mean_sandwich,
    )


def _sigma(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return σ (…) of what rows (…, theta) read from θ."""
    return np.sqrt(np.einsum("...t,...t->...", rows @ covariance, rows))


def scale_of(p: Parametrisation, cycle: Cycle) -> dict[str, Any]:
    """Return the scale of F and of its sites' share, c and k, over those of the truth, R of |F| on
    the common scale, and √S of the shells beside that of the truth in the model's scale, e; nothing
    where X is known.
    """
    sums = cycle.sums
    found = cycle.free.rest
    own = sums.rest
    if own is None or found is None:
        return {}
    simulator = lattices.simulator(lattices.PLAIN)
    true = rests.rest(
        simulator.factors,
        own.hkl,
        simulator.cell,
        simulator.crystal.space_group,
        own.light,
        "complex",
    )
    true_f = true.model + true.groups @ (complex_curves(lattices.true_curves()) @ own.light)
    of_sites = own.groups @ (complex_curves(p.curves(cycle.free.theta)) @ own.light)
    f = own.model + own.along * (found.x[:, 0] + 1j * found.x[:, 1]) + of_sites
    c = np.sqrt(np.sum(np.abs(f) ** 2) / np.sum(np.abs(true_f) ** 2))
    k = np.sum(np.abs(own.groups) * np.abs(true.groups)) / np.sum(np.abs(true.groups) ** 2)
    every = np.ones(own.n, dtype=bool)
    variance = rests.prior(own, found.variance).variance
    true_variance = np.abs(k * true.model - own.model) ** 2
    return {
        "c": float(c),
        "k": float(k),
        "r_f": float(np.sum(np.abs(np.abs(f) - c * np.abs(true_f))) / np.sum(c * np.abs(true_f))),
        "log_scale": found.log_scale,
        "scatter": found.scatter,
        "root_s": np.sqrt(own.by_shell(variance, every)).round(2).tolist(),
        "root_s_true": np.sqrt(own.by_shell(true_variance, every)).round(2).tolist(),
    }


def scored(fits: Fits, cycle: Cycle) -> ScoredCycle:
    """Compare a set after a cycle with the truth."""
    return ScoredCycle(
        free=errors_of(fits.free, cycle.free),
        kramers_kronig=errors_of(fits.kramers_kronig, cycle.kramers_kronig),
        scale=scale_of(fits.free, cycle),
        costs=cycle.costs,
    )


# ---------------------------------------------------------------- all sets


def rms(values: np.ndarray, axis: int | None = None) -> Any:
    """Return the root mean square."""
    return np.sqrt(np.mean(np.square(values), axis=axis))


def of_kinds(values: np.ndarray, kind_axis: int) -> list[float]:
    """Return the root mean squares of f′ and f″. kind_axis: of values."""
    by_kind = np.moveaxis(values, kind_axis, 0)
    return [float(rms(one)) for one in by_kind]


def pooled(sets: Sequence[Errors]) -> dict[str, Any]:
    """Return the figures of fits, pooled over the sets. Pairs are f′, f″."""
    all_sets = Errors(*(np.array(values) for values in zip(*sets, strict=True)))
    shape = all_sets.shape
    mean = all_sets.mean
    return {
        "rms": of_kinds(all_sets.error, -2),
        "sigma": of_kinds(all_sets.fisher, -2),
        "pulls": of_kinds(all_sets.error / all_sets.fisher, -2),
        "pulls_sandwich": of_kinds(all_sets.error / all_sets.sandwich, -2),
        "shape_rms": of_kinds(shape, -2),
        "shape_sigma": of_kinds(all_sets.shape_fisher, -2),
        "shape_sandwich": of_kinds(all_sets.shape_sandwich, -2),
        "shape_pulls": of_kinds(shape / all_sets.shape_fisher, -2),
        "shape_pulls_sandwich": of_kinds(shape / all_sets.shape_sandwich, -2),
        "mean": mean.tolist(),
        "mean_sigma": all_sets.mean_fisher.tolist(),
        "mean_sandwich": all_sets.mean_sandwich.tolist(),
        "mean_rms": of_kinds(mean, -1),
        "mean_of_sites_rms": of_kinds(mean.mean(axis=1), -1),
        "mean_pulls": of_kinds(mean / all_sets.mean_fisher, -1),
        "mean_pulls_sandwich": of_kinds(mean / all_sets.mean_sandwich, -1),
        "mean_worst": np.abs(mean / all_sets.mean_sandwich).max(axis=(0, 1)).tolist(),
    }


def figures_of_cycle(sets: Sequence[ScoredCycle]) -> dict[str, Any]:
    """Return the figures of a cycle over all sets."""
    scales = [one.scale for one in sets if one.scale]
    out = {
        "free": pooled([one.free for one in sets]),
        "kramers_kronig": pooled([one.kramers_kronig for one in sets]),
        "scale": scales,
    }
    if scales:
        out["c_over_k"] = [one["c"] / one["k"] for one in scales]
    costs: dict[str, Any] = {}
    for name in sets[0].costs:
        values = [one.costs[name] for one in sets]
        costs[name] = float(np.median(values))
    costs["n_lost"] = int(np.sum([one.costs["n_lost"] for one in sets]))
    costs["n_not_converged"] = int(np.sum([not one.costs["has_converged"] for one in sets]))
    del costs["has_converged"]
    return out | {"costs": costs}


def figures_of_row(
    row: Row, fits: Fits, sets: Sequence[Sequence[ScoredCycle]], last: Sequence[RefinedCurves]
) -> dict[str, Any]:
    """Return the figures of a row. sets: (set, cycle); last: the free curves of each set."""
    ends = [one[-1].free for one in sets]
    return {
        "n_lattices": row.n,
        "n_sets": len(sets),
        "cycles": [figures_of_cycle(cycle) for cycle in zip(*sets, strict=True)],
        "edge": curve_sets.edge(fits.free, list(last)),
        "errors": np.round([end.error for end in ends], 5).tolist(),
        "sigma": np.round([end.fisher for end in ends], 5).tolist(),
    }


# ---------------------------------------------------------------- a row in short


def in_short(row: Row, figures: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a row's last cycle that bars stand beside and documents show; pairs are
    f′, f″. rows: all, for those it is compared with; what has nothing to be compared with is left
    out.
    """
    last = figures["cycles"][-1]
    free = last["free"]
    line = last["kramers_kronig"]
    costs = last["costs"]
    edge = figures["edge"]
    out = {
        "shape": free["shape_rms"],
        "shape_sigma": free["shape_sigma"],
        "shape_sandwich": free["shape_sandwich"],
        "shape_pulls": free["shape_pulls"],
        "shape_pulls_sandwich": free["shape_pulls_sandwich"],
        "fdp_mean": free["mean_rms"][1],
        "fdp_mean_worst": free["mean_worst"][1],
        "fp_constant_line": line["mean_rms"][0],
        "fp_constant_line_pull": line["mean_pulls_sandwich"][0],
        "fp_constant_free": free["mean_of_sites_rms"][0],
        "kramers_kronig": line["rms"],
        "kramers_kronig_pulls": line["pulls_sandwich"],
        "edge_ev": edge["bias_ev"],
        "edge_standard_error_ev": _standard_error(edge),
        "edge_pull": edge["pull_sandwich"],
        "seconds_evaluation": costs["seconds_evaluation"],
        "seconds": costs["seconds"],
        "megabytes_reduced": costs["bytes_reduced"] / 1e6,
    }
    if scales := last.get("c_over_k"):
        out["scale_off_percent"] = 100.0 * max(abs(ratio - 1.0) for ratio in scales)
    yardstick = rows.get(row.against or "")
    return out | (_compared(row, figures, yardstick) if yardstick else {})


def _standard_error(edge: dict[str, Any]) -> float:
    """Return the standard error of the mean difference of E0, from the scatter of sets; from its σ
    where there is one set.
    """
    errors = edge["error_ev"]
    if len(errors) == 1:
        return edge["bias_sigma_ev"]
    return float(np.std(errors, ddof=1) / np.sqrt(len(errors)))


def _compared(row: Row, figures: dict[str, Any], yardstick: dict[str, Any]) -> dict[str, Any]:
    """Return the errors of a row over those of another, and how far from it the curves end, σ."""
    last = figures["cycles"][-1]
    end = yardstick["cycles"][-1]
    is_known = "X known" in (row.against or "")
    of_shape = end["free"]["shape_sigma" if is_known else "shape_rms"]
    n_sets = min(figures["n_sets"], yardstick["n_sets"])
    here, there = (np.array(one["errors"][:n_sets]) for one in (figures, yardstick))
    sigma = np.array(yardstick["sigma"][:n_sets])
    ratios = np.divide(last["kramers_kronig"]["rms"], end["kramers_kronig"]["rms"])
    return {
        "shape_over": np.divide(last["free"]["shape_rms"], of_shape).tolist(),
        "kramers_kronig_over": ratios.tolist(),
        "furthest_sigma": float(np.abs((here - there) / sigma).max()),
    }


# ---------------------------------------------------------------- bars


class Judged(NamedTuple):
    """A figure beside its bar."""

    what: str
    figure: str
    bar: str
    """empty where there is none"""
    is_met: bool | None


def spoken(values: Sequence[float], form: str = ".2f") -> str:
    """Return numbers in short."""
    return "/".join(f"{value:{form}}" for value in values)


def at_most(
    what: str, values: Sequence[float], limit: float | None, form: str = ".2f", unit: str = ""
) -> Judged:
    """Return figures none of which may be larger than a limit; None = no bar."""
    figure = spoken(values, form) + unit
    if limit is None:
        return Judged(what, figure, "", None)
    return Judged(what, figure, f"≤ {limit:g}{unit}", bool(np.all(np.array(values) <= limit)))


def within(what: str, values: Sequence[float], limits: tuple[float, float] | None) -> Judged:
    """Return figures all of which have to be within limits; None = no bar."""
    figure = spoken(values)
    if limits is None:
        return Judged(what, figure, "", None)
    low, high = limits
    array = np.array(values)
    is_met = bool(np.all((array >= low) & (array <= high)))
    return Judged(what, figure, f"{low:g}-{high:g}", is_met)


def judged(row: Row, figures: dict[str, Any], rows: dict[str, Any]) -> list[Judged]:
    """Return the figures of a row beside their bars. rows: all, for those it is compared with."""
    if row.unknown == "none":
        return []
    short = in_short(row, figures, rows)
    is_of_right = "X known" in (row.against or "")
    is_main = row.unknown == "complex" and row.model == "perturbed" and is_of_right
    out = [_shape(row, short), *_starts(row, short)]
    out += _scale_and_means(row, short, is_main)
    out += _constants(figures["n_sets"], short, is_main)
    out += _kramers_kronig(row, short, is_main)
    out += _edge(figures, is_main)
    return out + _costs(row, short)


def _shape(row: Row, short: dict[str, Any]) -> Judged:
    """Judge the errors of the shape."""
    shape = short["shape"]
    if row.against is None:
        return at_most("shape", shape, row.bar, ".3f", " e")
    what = f"shape over that of {row.against}"
    if "shape_over" not in short:
        return Judged(what, f"{spoken(shape)} e, the row is missing", f"≤ {row.bar:g}", None)
    return at_most(what, short["shape_over"], row.bar)


def _starts(row: Row, short: dict[str, Any]) -> list[Judged]:
    """Judge how far from other starts curves end."""
    if row.start == "mean" or "furthest_sigma" not in short:
        return []
    what = f"furthest from {row.against}"
    return [at_most(what, [short["furthest_sigma"]], 0.1, ".3f", " σ")]


def _scale_and_means(row: Row, short: dict[str, Any], is_main: bool) -> list[Judged]:
    """Judge the scale, and the means of f″."""
    limit = 0.12 if row.n >= 400 else 0.15 if row.n >= 200 else None
    worst = 2.5 if is_main and limit is not None else None
    scale = 2.0 if is_main else None
    return [
        at_most("c/k off, worst set", [short["scale_off_percent"]], scale, ".2f", " %"),
        at_most("mean of f″", [short["fdp_mean"]], limit if is_main else None, ".3f", " e"),
        at_most("  worst of its sets", [short["fdp_mean_worst"]], worst, ".2f", " σ"),
    ]


def _constants(n_sets: int, short: dict[str, Any], is_main: bool) -> list[Judged]:
    """Judge the constants of f′."""
    pulls = (0.7, 1.3) if is_main and n_sets >= SETS_FOR_PULLS else None
    line = 0.3 if is_main else None
    free = 0.6 if is_main else None
    return [
        at_most("constant of f′, line known", [short["fp_constant_line"]], line, ".2f", " e"),
        within("  pulls", [short["fp_constant_line_pull"]], pulls),
        at_most(
            "constant of f′, free, mean of sites", [short["fp_constant_free"]], free, ".2f", " e"
        ),
        within("pulls of the shape, Fisher", short["shape_pulls"], None),
        within("  sandwich", short["shape_pulls_sandwich"], None),
    ]


def _kramers_kronig(row: Row, short: dict[str, Any], is_main: bool) -> list[Judged]:
    """Judge the curves that obey the dispersion relation."""
    limits = (0.8, 1.25) if is_main else None
    pulls = within("  pulls, sandwich", short["kramers_kronig_pulls"], limits)
    what = "Kramers-Kronig"
    if not is_main or "kramers_kronig_over" not in short:
        return [at_most(what, short["kramers_kronig"], None, ".2f", " e"), pulls]
    ratios = short["kramers_kronig_over"]
    return [at_most(f"{what} over that of {row.against}", ratios, 1.5), pulls]


def _edge(figures: dict[str, Any], is_main: bool) -> list[Judged]:
    """Judge the differences of E0."""
    edge = figures["edge"]
    is_judged = is_main and figures["n_sets"] >= SETS_FOR_EDGE
    in_errors = abs(edge["bias_ev"]) / edge["bias_sigma_ev"]
    return [
        at_most(
            "E0 difference, mean",
            [in_errors],
            2.0 if is_judged else None,
            ".2f",
            " standard errors",
        ),
        within("  pulls, sandwich", [edge["pull_sandwich"]], (0.7, 1.3) if is_judged else None),
    ]


def _costs(row: Row, short: dict[str, Any]) -> list[Judged]:
    """Judge what a cycle costs."""
    return [
        at_most("joint evaluation a lattice", [short["seconds_evaluation"]], 0.01, ".4f", " s"),
        at_most("a lattice and cycle", [short["seconds"]], 0.5, ".3f", " s"),
        at_most("cycles", [row.n_cycles], 3, "d"),
        at_most("largest reduction", [short["megabytes_reduced"]], 50, ".1f", " MB"),
    ]


# ---------------------------------------------------------------- report


def report(name: str, row: Row, figures: dict[str, Any], rows: dict[str, Any]) -> None:
    """Print a row; rows: all, for those it is compared with."""
    sets = f"{figures['n_sets']} x {figures['n_lattices']} lattices"
    print(f"\n{name} [{figures['commit']}]: {sets}; f′/f″, e")
    for number, cycle in enumerate(figures["cycles"], 1):
        print(cycle_in_words(number, cycle))
    edge = figures["edge"]
    sigma = f"± {edge['sigma_ev']:.2f}, sandwich {edge['sigma_sandwich_ev']:.2f}"
    print(f"  E0 difference off by, eV: {spoken(edge['error_ev'], '+.2f')} ({sigma})")
    for one in judged(row, figures, rows):
        verdict = {True: "PASS", False: "miss", None: ""}[one.is_met]
        print(f"    {one.what:<42}{one.figure:>22}   {one.bar:<22}{verdict}")


def cycle_in_words(number: int, cycle: dict[str, Any]) -> str:
    """Return the figures of a cycle in a few lines."""
    free = cycle["free"]
    line = cycle["kramers_kronig"]
    costs = cycle["costs"]
    words = [
        f"  cycle {number}: shape {spoken(free['shape_rms'])} (σ {spoken(free['shape_sigma'])}, "
        f"sandwich {spoken(free['shape_sandwich'])}), all {spoken(free['rms'])} "
        f"({spoken(free['sigma'])}), Kramers-Kronig {spoken(line['rms'])} ({spoken(line['sigma'])})"
    ]
    for kind, name in enumerate(KINDS):
        parts = []
        for of_fit, errors in (("free", free), ("Kramers-Kronig", line)):
            mean = np.array(errors["mean"])[:, :, kind]
            sigma = float(np.mean(np.array(errors["mean_sigma"])[:, :, kind]))
            sets = ", ".join(spoken(of_set, "+.2f") for of_set in mean)
            parts.append(f"{of_fit} {sets} (σ {sigma:.2f})")
        words.append(f"    mean of {name}: {'; '.join(parts)}")
    for one in cycle["scale"]:
        words.append(
            f"    c/k {one['c'] / one['k']:.4f} (c {one['c']:.4f}), ln scale "
            f"{one['log_scale']:+.4f}, R(F) {one['r_f']:.4f}, √S {spoken(one['root_s'], '.0f')}, "
            f"true {spoken(one['root_s_true'], '.0f')}, scatter {one['scatter']:.3f}"
        )
    words.append(
        f"    s a lattice: stage 1 {costs['seconds_fit']:.3f}, Gram {costs['seconds_gram']:.3f}, "
        f"curves and X {costs['seconds_refine']:.3f}, one evaluation "
        f"{costs['seconds_evaluation']:.4f}; {costs['n_steps']:g} steps, "
        f"{costs['n_not_converged']} sets not converged, moved by {costs['change_sigma']:.2g} σ, "
        f"{costs['n_lost']} lattices lost, e {costs['model_error']:.3f}"
    )
    return "\n".join(words)
