"""Products of `index` and `reindex`: shots, spots, lattices, integrated reflections."""

from spreadflow.products.core import Column, Product, Table, TableOf


class Shots(Table):
    """The shots of a run."""

    shot_id = Column(
        "uint64",
        "",
        "hash of (run, file name, frame): stable when files are added",
        in_manifest=True,
    )
    file = Column(
        "int32",
        "",
        "number of the image file in the run's manifest; without images, in the attribute `images`",
    )
    frame = Column("int32", "", "frame in that file; -1 = it has a name, not a number")
    outcome = Column("uint8", "", "errors.Outcome", in_manifest=True)
    reason = Column(
        "S200", "", "why it did not end as indexed, UTF-8, as many bytes as fit; empty: it did"
    )
    n_spots = Column("int32", "", "spots found")
    n_lattices = Column("int32", "", "lattices indexed")
    n_refused = Column(
        "int32", "", "lattices that fitted spots, but carry no signal where they predict it"
    )
    mean_energy_ev = Column(
        "float64",
        "eV",
        "photon-weighted mean of the shot's spectrum",
        not_finite="NaN = not read",
        in_manifest=True,
    )
    pulse_photons = Column(
        "float64",
        "photon",
        "sum of the shot's spectrum; 1 where a file has a wavelength alone",
        not_finite="NaN = not read",
    )
    psf_fwhm_mm = Column(
        "float32",
        "mm",
        "width of the point spread that the tails of its strong spots show; 0 = none",
    )
    seconds = Column("float64", "s", "processor time spent on the shot")


class Spots(Table):
    """Observed peaks."""

    shot = Column("int32", "", "row of shots", refers="shots")
    panel = Column("int32", "", "panel")
    fast = Column("float64", "px", "centre of mass")
    slow = Column("float64", "px", "centre of mass")
    variance_fast = Column("float32", "px²", "variance of the centroid")
    variance_slow = Column("float32", "px²", "variance of the centroid")
    intensity = Column("float32", "photon", "above background")
    sigma = Column("float32", "photon", "standard deviation of intensity")
    n_pixels = Column("int32", "px", "strong pixels")
    lattice = Column(
        "int32", "", "row of lattices this spot belongs to; -1 = none", refers="lattices"
    )
    hkl = Column("int32", "", "Miller index, conventional axes", (3,))
    used = Column("bool", "", "in the lattice's geometry refinement")


class Lattices(Table):
    """Indexed lattices."""

    shot = Column("int32", "", "row of shots", refers="shots", in_manifest=True)
    shot_id = Column("uint64", "", "as in shots", in_manifest=True)
    k = Column(
        "int32",
        "",
        "0 for the first lattice of the shot; lattice_id = (shot_id, k)",
        in_manifest=True,
    )
    A = Column(
        "float64", "1/angstrom", "columns a*, b*, c* in the lab frame", (3, 3), in_manifest=True
    )
    cell = Column("float64", "angstrom, rad", "a b c α β γ, conventional", (6,), in_manifest=True)
    eta_rad = Column("float64", "rad", "mosaic spread: r.m.s. total rotation angle")
    domain_ang = Column("float64", "angstrom", "edge of a mosaic domain")
    domain_estimated_ang = Column("float64", "angstrom", "the same as its spots alone have it")
    n_indexed = Column("int32", "", "spots with a Miller index", in_manifest=True)
    rmsd_radial_mm = Column(
        "float64",
        "mm",
        "observed - predicted along the direction from the beam centre",
        not_finite="NaN = no such reflection",
    )
    rmsd_transverse_mm = Column(
        "float64", "mm", "observed - predicted across it", not_finite="NaN = no such reflection"
    )
    n_rmsd = Column("int32", "", "reflections of the r.m.s.d.: I/σ ≥ 5, fixed before refinement")
    shift_mm = Column(
        "float64",
        "mm",
        "of the detector, fast and slow, from where it is said to be to where the lattice is "
        "predicted; 0 once the geometry is refined",
        (2,),
    )
    n_sound = Column(
        "int32",
        "",
        "predictions that were integrated without failure or overlap",
        in_manifest=True,
    )
    n_signal = Column("int32", "", "those of them with I > 3 σ")
    share_signal = Column(
        "float64",
        "",
        "those with I > 3 σ of the sound predictions of partiality > 0.3 that are within the "
        "resolution of the spots",
    )
    n_by_chance = Column(
        "float64",
        "",
        "as many predictions turned about the beam have I > 3 σ",
        not_finite="NaN = there is no image",
    )
    significance = Column(
        "float64",
        "",
        "mean I/σ of predictions without a spot minus that of turned ones, over the σ of the "
        "difference",
        not_finite="NaN = there is no image",
    )
    d_min = Column(
        "float64",
        "angstrom",
        "resolution beyond which the lattice carries no signal",
        not_finite="infinite = nothing was predicted",
    )


class Reflections(Table):
    """Predicted and integrated reflections of the lattices."""

    lattice = Column("int32", "", "row of lattices", refers="lattices")
    hkl = Column("int32", "", "Miller index as observed, conventional axes", (3,))
    d = Column("float32", "angstrom", "resolution")
    panel = Column("int32", "", "panel")
    fast = Column("float64", "px", "predicted centroid")
    slow = Column("float64", "px", "predicted centroid")
    fast_obs = Column("float32", "px", "observed centroid", not_finite="NaN where I/σ < 5")
    slow_obs = Column("float32", "px", "observed centroid", not_finite="NaN where I/σ < 5")
    energy_ev = Column("float32", "eV", "mean energy of the photons diffracted into the spot")
    delta_psi_rad = Column(
        "float32", "rad", "rotation onto the Ewald sphere of the shot's mean energy"
    )
    partiality = Column("float32", "", "recorded fraction, spectrum-weighted, 0-1")
    lorentz = Column(
        "float32", "angstrom³/rad", "photons = K·|F|²·polarization·capture·lorentz·partiality"
    )
    polarization = Column("float32", "", "Kahn factor (divide by it)")
    capture = Column("float32", "", "fraction of the photons the sensor captures (divide by it)")
    slopes = Column(
        "float32",
        "",
        "derivatives of ln(partiality·lorentz): by rotation of the lattice about x and y "
        "(1/rad), by ln of the width of its nodes",
        (3,),
    )
    intensity = Column("float32", "photon", "summed above background")
    sigma = Column("float32", "photon", "standard deviation of intensity")
    sigma_background = Column(
        "float32",
        "photon",
        "the same but for the number of the reflection's own photons: of background, readout and "
        "gains",
    )
    background = Column("float32", "photon/px", "mean under the peak")
    n_foreground = Column("int32", "px", "summed pixels; 0 = there is no image")
    bbox = Column(
        "int32", "px", "fast0 fast1 slow0 slow1, half open; all 0 = there is no image", (4,)
    )
    half_px = Column(
        "float32",
        "px",
        "half sizes of the foreground, a rectangle about the predicted centroid, along the radius "
        "from the beam centre and across; 0 = there is no image",
        (2,),
    )
    flags = Column("int32", "", "bits of models.ReflectionFlag")


class Index(Product):
    """Spots, lattices and integrated reflections of a run."""

    kind = "index"

    shots = TableOf(Shots)
    spots = TableOf(Spots)
    lattices = TableOf(Lattices)
    reflections = TableOf(Reflections)


class Reindex(Index):
    """The same with the detector of level 0."""

    kind = "reindex"
