"""What was refined of sites beside their curves: place, B and occupancy in rows of a table, and
what to know before they are trusted.
"""

from collections.abc import Sequence

import numpy as np

from spreadflow.analysis.curves.columns import SiteUnknowns
from spreadflow.errors import StageWarning
from spreadflow.products import Spread, spread
from spreadflow.recipes.curves import QuotedFit

BEYOND = 3.0
"""Standard deviations of the model beyond which a value is not what the model was said to be."""

FARTHEST_ANG = 0.3
"""Distance from the model's place, Å, up to which a site is that of the model."""

LARGEST_B_ANG2 = 3.0
"""Change of B, Å², up to which it says something about the site's B."""

PLACE = ("x", "y", "z")
"""Unknowns of a site that are its place."""

ABSURD = "Believe no curve: look at the model, at the labels of sites, and at the resolution range."
"""What to do about a site that is another one."""

UNLIKELY = (
    "Look at the model; if it is right, fix this unknown, or raise its standard deviation: "
    "spread.place_sigma_ang, b_sigma_ang2, occupancy_sigma."
)
"""What to do about a value that the model has made unlikely."""


def site_rows(fit: QuotedFit, unknowns: SiteUnknowns) -> spread.Sites:
    """Return the table `sites`: the last of θ of the quoted fit, one after the other
    for each site; without rows where nothing is unknown of sites beside their curves.
    """
    n = len(unknowns.names)
    n_sites = len(fit.p.reference)
    first = len(fit.refined.theta) - n
    return Spread.sites(
        site=unknowns.site,
        unknown=np.tile(np.arange(n // n_sites), n_sites),
        value=fit.refined.theta[first:],
        sigma=np.sqrt(np.diag(fit.covariance)[first:]),
        prior_sigma=unknowns.sigma,
    )


def site_warnings(
    rows: spread.Sites, sites: Sequence[str], names: Sequence[str]
) -> list[StageWarning]:
    """Return what to know of values that are far from the model; those of a site that is absurd say
    nothing else.

    sites: names of the sites; names: of a site's unknowns.
    """
    warnings = []
    for number, site in enumerate(sites):
        of_site = rows[rows.site == number]
        unknowns = [names[unknown] for unknown in of_site.unknown]
        values = dict(zip(unknowns, of_site.value.tolist(), strict=True))
        sigma = dict(zip(unknowns, of_site.prior_sigma.tolist(), strict=True))
        absurd = _absurd(site, values)
        unlikely = [
            StageWarning(
                f"{name} of {site} is beyond {BEYOND:g} of the standard deviations that the "
                "model was said to have",
                f"{value:+.2g}{spread.SITE_UNITS[name]}",
                f"±{BEYOND * sigma[name]:.2g}{spread.SITE_UNITS[name]}",
                UNLIKELY,
            )
            for name, value in values.items()
            if abs(value) > BEYOND * sigma[name]
        ]
        warnings += absurd or unlikely
    return warnings


def _absurd(site: str, values: dict[str, float]) -> list[StageWarning]:
    """Return warnings of values, by name, with which a site is no longer that of the model."""
    warnings = []
    moved = float(np.linalg.norm([values.get(name, 0.0) for name in PLACE]))
    if moved > FARTHEST_ANG:
        what = f"{site} HAS LEFT ITS PLACE: this is not the site of the model"
        warnings.append(StageWarning(what, f"{moved:.2g} Å", f"{FARTHEST_ANG:g} Å", ABSURD))
    change = values.get("B", 0.0)
    if abs(change) > LARGEST_B_ANG2:
        what = f"B OF {site} IS ABSURD: it stands for something else that is wrong"
        limit = f"±{LARGEST_B_ANG2:g} Å²"
        warnings.append(StageWarning(what, f"{change:+.2g} Å²", limit, ABSURD))
    return warnings
