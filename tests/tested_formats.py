"""Which image files the readers were tested on, against what, and what they do not read: the rows
of docs/images.md.
"""

from typing import NamedTuple

import nexus_dialects
import nexus_refused
from spreadflow.io.images import formats


class Tested(NamedTuple):
    """Files of a format, by whom they were written, and how it is known that they are read."""

    format: str
    """one of `formats.FORMATS`"""
    files: str
    against: str
    tests: tuple[str, ...]
    """file below tests/ :: name of a test"""
    limits: str


TESTED = (
    Tested(
        formats.NEXUS,
        "simulated here, with one panel or several, of every compression",
        "what was written; what DIALS 3.12 of Debian reads, where it is; and the package nxmx, on "
        "which dxtbx rests",
        (
            "io/test_nexus.py::test_what_is_written_comes_back",
            "io/test_nexus.py::test_dials_reads_the_same",
            "io/test_nexus.py::test_nxmx_reads_the_same",
        ),
        "DIALS needs a plugin of HDF5 for those compressed with bitshuffle: HDF5_PLUGIN_PATH, as "
        "`spreadflow validate` names it",
    ),
    Tested(
        formats.NEXUS,
        "simulated by nanoBragg",
        "the truth that the files hold; the share of shots that is indexed as `start` sets it up",
        (
            "io/test_nexus.py::test_nanobragg_file_has_the_geometry_of_its_truth",
            "stages/test_start.py::test_stills_of_another_simulator_are_indexed",
        ),
        "",
    ),
    Tested(
        formats.NEXUS,
        f"{len(nexus_dialects.DIALECTS)} dialects, master files of Dectris among them, and "
        f"{len(nexus_refused.REFUSED)} that can't be understood; written by a helper of the tests, "
        "as the definition and its users have them",
        "pixels, geometry, energies and mask that were meant; the words of the refusal",
        (
            "io/test_nexus_dialects.py::test_a_dialect_is_read_right",
            "io/test_nexus_dialects.py::test_what_can_not_be_understood_is_refused_by_name",
        ),
        "no file of an Eiger was read. Panels of equal shape, square pixels; one detector; one "
        "geometry for all shots of a file",
    ),
    Tested(
        formats.CRYSTFEL,
        "CXI written by a helper of the tests: events along an axis, in groups, or both; stills "
        "simulated here as CXI",
        "places, gains, masks and energies by hand; each of the stills is indexed",
        (
            "io/test_geom.py::test_pixels_are_where_they_are_by_hand",
            "io/test_crystfel.py::test_pixels_and_energies_are_those_that_were_written",
            "stages/test_start.py::test_cxi_stills_are_indexed_by_the_geometry_that_is_named",
        ),
        "no recorded images were read. Panels of equal shape, no detector_shift, one camera "
        "length a file, no peak lists",
    ),
    Tested(
        formats.CRYSTFEL,
        "the .geom of the Jungfrau 16M of SwissFEL",
        "the place of a module by hand",
        ("io/test_geom.py::test_geometry_files_of_crystfel",),
        "without its images",
    ),
    Tested(
        formats.CBF,
        "full: CSPAD of LCLS, 64 panels, and Rayonix MX340",
        "the chain of axes; orientations and cells of DIALS 3.12",
        (
            "io/test_cbf.py::test_real_cspad_is_64_panels_where_its_axes_say",
            "io/test_cbf.py::test_real_rayonix_is_one_panel_about_the_beam",
            "stages/test_start.py::test_both_lattices_of_thermolysin_are_found",
            "stages/test_start.py::test_lattices_of_thermolysin_are_turned_as_those_of_dials",
            "stages/test_start.py::test_the_weak_rayonix_still_is_indexed",
        ),
        "one shot a file; the gain that headers state may be wrong: `start` measures it",
    ),
    Tested(
        formats.CBF,
        "full: any chain of axes, sections, orders and types; compressed by CBFlib",
        "places by hand; fabio",
        (
            "io/test_cbf.py::test_a_chain_of_axes_places_the_panels",
            "io/test_cbf.py::test_pixels_of_every_type_are_read",
            "io/test_cbf.py::test_cbflib_and_fabio_compress_the_same_pixels",
        ),
        "one setting of each axis; intensities that are not linear, and several images in a file, "
        "are refused",
    ),
    Tested(
        formats.CBF,
        "mini: with the header of a Pilatus, written by a helper of the tests",
        "places and sensor by hand",
        (
            "io/test_cbf.py::test_a_mini_cbf_is_one_panel_across_the_beam",
            "io/test_cbf.py::test_gaps_of_unsigned_counts_are_masked_and_not_saturated",
        ),
        "one panel across the beam, Detector_2theta 0",
    ),
    Tested(
        formats.SMV,
        "with a header as of ADSC, written by a helper of the tests, in both orders of bytes",
        "places by hand",
        (
            "io/test_smv.py::test_pixels_are_read_in_the_order_that_is_stated",
            "io/test_smv.py::test_the_beam_of_adsc_is_stated_along_slow_and_fast",
        ),
        "no recorded file was read. Programs mean different axes by BEAM_CENTER: compare with "
        "the direct beam. One panel across the beam, TWOTHETA 0",
    ),
    Tested(
        formats.XTC,
        "events of stand-ins for psana-1 and psana-2; by hand, once, a run that xtcwriter of "
        "psana-2 4.3.4 wrote, read through it",
        "pixels, modules, masks and energies of the stand-ins; numbers that xtcwriter writes",
        (
            "io/test_xtc.py::test_events_are_shots_in_a_manifest",
            "io/test_xtc.py::test_modules_are_cut_into_the_panels_of_an_experiment_list",
        ),
        "neither psana-1 nor a recorded run was tried. Geometry beside it; the photon energy "
        "of the machine, not a spectrometer's; no event codes; one run of XTC2 a locator",
    ),
)

N_CHANGED = 1000
"""Changed files of each kind that were read once, with seed 2 of `mutated_files.py`."""

CHANGED_COMMIT = "1239947"
"""The commit that read them."""

CHANGED = {
    formats.NEXUS: (427, 570, 3),
    formats.CRYSTFEL: (467, 533, 0),
    ".geom of such a file": (108, 892, 0),
    "full CBF": (71, 929, 0),
    "mini CBF": (351, 649, 0),
    formats.SMV: (130, 870, 0),
}
"""Files → how many ended in shots, in one error, within libhdf5."""
