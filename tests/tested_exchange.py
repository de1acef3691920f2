"""Which files of other programs are read and written, and how it is known that they are understood:
the rows of the table in docs/interop.md. Image files have a table of their own (`tested_formats`).
"""

from typing import Literal, NamedTuple


class Exchanged(NamedTuple):
    """Files of a format that are read, or written."""

    format: str
    direction: Literal["read", "written"]
    by: str
    """the keys and words that name them, or make them"""
    against: str
    """what they are compared with"""
    tests: tuple[str, ...]
    """file below tests/ :: name of a test"""
    limits: str


LATTICES = (
    Exchanged(
        "DIALS `.expt`, `.refl`",
        "read",
        "`runs.RUN.spec`",
        "lattices that DIALS 3.12 of Debian indexed, of simulated stills and of both CSPAD stills "
        "of thermolysin: all are adopted and merged; ours, as dials.split_experiments rewrites "
        "them, come back: reflections to the bit, A to 1e-15 Å⁻¹",
        (
            "stages/test_dials.py::test_all_stills_of_the_lab_are_adopted_and_merged",
            "stages/test_dials.py::test_so_are_those_of_the_usual_way_of_dials",
            "stages/test_dials.py::test_both_stills_of_thermolysin_are_adopted_and_merged",
            "stages/test_dials.py::test_what_dials_reads_and_rewrites_is_the_same_to_us",
            "io/test_reflections.py::test_files_of_dials",
        ),
        "one detector a run, a beam along z, one image an experiment; files of DIALS 1 (pickles) "
        "are refused with how to convert them",
    ),
    Exchanged(
        "`.refl`: types of columns, shoeboxes of every kind (0, 1, and 2 of DIALS since 2026)",
        "read",
        "`runs.RUN.spec`",
        "bytes by hand",
        (
            "io/test_reflections.py::test_columns_are_read_to_the_bit",
            "io/test_reflections.py::test_rows_of_an_experiment_are_those_of_its_identifier",
            "io/test_reflections.py::test_shoeboxes_are_read_past",
            "io/test_reflections.py::test_what_is_no_table_is_one_clear_error",
        ),
        "shoeboxes are read past: pixels come from the images",
    ),
    Exchanged(
        "`.expt`: hierarchies of panels, equal detectors, sequences of one image as "
        "dials.ssx_index writes them",
        "read",
        "`runs.RUN.spec`, `level0.from`, `--geometry`",
        "places by hand; frames by the numbers of their scans",
        (
            "io/test_dials.py::test_hierarchy_is_resolved_to_the_lab",
            "io/test_hierarchy.py::test_groups_are_read_as_they_were_written",
            "io/test_dials.py::test_detectors_that_are_the_same_are_one",
            "io/test_dials.py::test_stills_of_a_sequence_are_images_by_the_number_of_their_scan",
            "io/test_dials.py::test_what_can_not_be_used_is_one_clear_error",
            "stages/test_adopt.py::test_experiments_of_two_detectors_are_refused",
        ),
        "detectors are equal up to 0.01 px; panels of equal shape, square pixels",
    ),
    Exchanged(
        "`.expt`: Laue groups, other origins, other settings, primitive cells; streams of other "
        "settings",
        "read",
        "`runs.RUN.spec`, `runs.RUN.lattices`",
        "A and indices by hand",
        (
            "recipes/test_pair.py::test_the_laue_group_is_enough",
            "recipes/test_pair.py::test_another_setting_is_brought_to_the_configured_one",
            "recipes/test_pair.py::test_other_symmetry_is_refused_by_its_symbol",
            "stages/test_stated_lattices.py::test_lattices_on_other_axes_are_brought_to_the_configured_ones",
        ),
        "the cell has to be that of `reindex.cell` in some setting",
    ),
    Exchanged(
        "spec files of diffBragg, with `.lam` spectra",
        "read",
        "`runs.RUN.spec`",
        "lines as editors of all systems write them; each ends in one outcome; spectra by hand, "
        "and the spectrum that all stages use",
        (
            "io/test_spec.py::test_a_line_is_the_same_however_it_is_written",
            "io/test_spec.py::test_names_may_hold_blanks_signs_and_apostrophes",
            "stages/test_adopt.py::test_each_line_has_one_end",
            "io/test_shot_finder.py::test_one_in_another_format_is_known_by_its_stem",
            "io/test_supplied_spectra.py::test_a_file_as_diffbragg_writes_it",
            "stages/test_adopt.py::test_a_spectrum_of_the_spec_file_is_that_of_all_stages",
        ),
        "no file of diffBragg itself was at hand",
    ),
    Exchanged(
        "integrated `.expt`, `.refl`, without images",
        "read",
        "`runs.RUN.lattices`",
        "the product that they were exported from",
        ("stages/test_stated_lattices.py::test_integrated_pairs_of_dials",),
        "lists that were scaled would be corrected twice; no list that DIALS itself integrated was "
        "merged without its images",
    ),
    Exchanged(
        "`.expt`, `.refl` or streams, for the detector alone",
        "read",
        "`level0.imported`, `level0.imported.geometry`",
        "the shift that was planted; `dials.refine` on lattices of lysozyme that DIALS indexed "
        "(CSPAD, 32 modules)",
        (
            "stages/test_level0.py::test_lattices_of_another_program_find_the_same_shift",
            "stages/test_level0.py::test_the_space_group_is_that_of_the_files",
            "stages/test_level0_real.py::test_modules_converge_and_fit_better_than_in_the_file",
            "stages/test_level0_real.py::test_residuals_are_at_most_those_of_dials",
        ),
        "pulses have a bandwidth, as stated or configured, and no spectrum",
    ),
    Exchanged(
        "CrystFEL `.stream`, 2.0 to 2.3",
        "read",
        "`runs.RUN.lattices`",
        "numbers by hand, from the description of the format; ours with CrystFEL's digits: "
        "partialities, mosaicities and merged intensities are those of the images",
        (
            "io/test_stream.py::test_a_shot_is_what_stands_there",
            "io/test_stream.py::test_older_formats_name_no_panels",
            "io/test_stream.py::test_several_crystals_of_a_chunk_and_chunks_without",
            "io/test_stream.py::test_numbers_that_are_none_are_named_by_their_line",
            "stages/test_stated_lattices.py::test_others_streams_are_recorded_as_images_are",
            "stages/test_stated_lattices.py::test_another_frame_is_noticed",
            "stages/test_stated_lattices.py::test_each_lattice_has_one_end",
        ),
        "no stream that CrystFEL itself wrote was at hand; its geometry has no sensor, which then "
        "captures everything; of the symmetry the centring alone is read",
    ),
    Exchanged(
        "CrystFEL `.geom`",
        "read",
        "`--geometry`, `runs.RUN.lattices.geometry`",
        "places by hand; the .geom of the Jungfrau 16M of SwissFEL",
        (
            "io/test_geom.py::test_pixels_are_where_they_are_by_hand",
            "io/test_geom.py::test_geometry_files_of_crystfel",
            "io/test_hierarchy.py::test_rigid_groups_of_crystfel_are_levels",
        ),
        "panels of equal shape, no detector_shift; of images: [images.md](images.md)",
    ),
    Exchanged(
        "DIALS `.expt`, `.refl`",
        "written",
        "`spreadflow export --to dials`, `predict`; `level0` the detector alone",
        "dials.show, export, split_experiments and refine of Debian's DIALS 3.12 take them; text "
        "and bytes of a small list",
        (
            "stages/test_dials.py::test_dials_shows_and_exports_ours",
            "stages/test_dials.py::test_dials_refines_ours",
            "io/test_hierarchy.py::test_dials_reads_the_same_groups",
            "io/test_stills.py::test_the_reflections_are_these_bytes",
            "io/test_stills.py::test_the_experiments_are_this_text",
            "stages/test_predict.py::test_dials_reads_it",
            "cli/test_export.py::test_lattices_of_reindex_are_written_with_their_sound_reflections",
            "cli/test_export.py::test_stage_2_has_those_of_predict_that_it_used",
        ),
        "a beam at the mean energy of the pulse, not its spectrum; no shoeboxes. DIALS needs "
        "HDF5_PLUGIN_PATH to open the images",
    ),
    Exchanged(
        "CrystFEL `.stream` 2.3 and `.geom`",
        "written",
        "`spreadflow export --to crystfel`",
        "the text of a small one, as CrystFEL describes it; that of `reindex` reads back bit by "
        "bit, and so do cells and merge of it",
        (
            "io/test_stream_writer.py::test_the_text_is_what_crystfel_describes",
            "io/test_stream_writer.py::test_what_is_written_is_read_bit_by_bit",
            "io/test_stream.py::test_a_geometry_file_of_ours_reads_back",
            "stages/test_stated_lattices.py::test_our_stream_is_our_product",
            "stages/test_stated_lattices.py::test_cells_and_merge_of_our_stream_are_those_of_the_product",
            "workflow/test_streams.py::test_a_stream_alone_is_a_trial",
        ),
        "CrystFEL was not at hand to read them; one detector; `stage1` has no intensities",
    ),
)
"""Lattices, with their detectors and spectra."""

INTENSITIES = (
    Exchanged(
        "MTZ, merged",
        "read",
        "`structure_factors.mtz`, `merge.reference`",
        "intensities and amplitudes by hand, with the labels and types of cctbx, phenix, careless, "
        "XDS and CCP4; `merge.mtz` comes back",
        (
            "io/test_merged_intensities.py::test_means_are_taken_for_both_mates_and_for_their_mean",
            "io/test_merged_intensities.py::test_mates_stay_apart_and_are_averaged_for_a_reference",
            "io/test_merged_intensities.py::test_mates_in_rows_of_their_own_stay_apart",
            "io/test_merged_intensities.py::test_what_write_merged_writes_comes_back",
            "io/test_merged_intensities.py::test_unmerged_data_are_refused_with_what_to_do",
            "io/test_merged_intensities.py::test_what_does_not_fit_is_refused",
        ),
        "unmerged files, several values of one reflection, other axes and other cells are refused; "
        "no other setting is tried",
    ),
    Exchanged(
        "SF-CIF of the PDB",
        "read",
        "`structure_factors.mtz`, `merge.reference`",
        "values by hand; those that gemmi makes of an MTZ file",
        (
            "io/test_merged_intensities.py::test_structure_factors_of_the_pdb_are_read_whatever_the_name",
            "io/test_merged_intensities.py::test_what_the_pdb_marks_as_not_observed_is_left_out",
            "io/test_reference.py::test_own_merged_intensities_are_a_reference",
        ),
        "the first block with merged reflections; status x, < and - is left out",
    ),
    Exchanged(
        "MTZ, merged",
        "written",
        "`merge`, `stage2`",
        "gemmi; cctbx and reciprocalspaceship, where these are installed",
        (
            "io/test_mtz.py::test_gemmi_reads_what_was_written",
            "io/test_mtz.py::test_columns_cell_and_wavelength",
            "stages/test_intensities_of_others.py::test_cctbx_takes_mates_together_and_counts_with_them",
            "stages/test_intensities_of_others.py::test_reciprocalspaceship_reads_merged_files_without_a_warning",
        ),
        "one wavelength, the mean of all pulses",
    ),
    Exchanged(
        "MTZ, unmerged",
        "written",
        "`spreadflow export --to mtz`",
        "merged by gemmi, cctbx and reciprocalspaceship, the intensities are those of `merge.mtz`; "
        "bytes of headers",
        (
            "stages/test_unmerged.py::test_gemmi_merges_them_to_the_same_intensities",
            "stages/test_unmerged.py::test_gemmi_finds_that_merged_and_unmerged_files_match",
            "stages/test_intensities_of_others.py::test_cctbx_merges_observations_to_the_same_intensities",
            "stages/test_intensities_of_others.py::test_reciprocalspaceship_merges_observations_to_the_same_intensities",
            "io/test_mtz.py::test_the_bytes_of_unmerged_files_are_as_the_format_has_them",
        ),
        "a batch a lattice: many programs do not expect 10⁵ of them",
    ),
    Exchanged(
        "mmCIF for the PDB",
        "written",
        "`spreadflow export --to mmcif`",
        "gemmi and cctbx read both blocks",
        (
            "stages/test_unmerged.py::test_mmcif_has_merged_intensities_and_observations",
            "stages/test_intensities_of_others.py::test_cctbx_reads_both_blocks_of_mmcif",
        ),
        "`stage2` has the merged block alone; nothing was deposited",
    ),
)
"""Intensities and amplitudes."""

CELLS = (
    Exchanged(
        "tdata",
        "written",
        "`cells`",
        "lines as cctbx writes them",
        ("io/test_tdata.py::test_lines",),
        "is not read",
    ),
    Exchanged(
        "JSON of the populations",
        "written",
        "`spreadflow export --to json`",
        "the product",
        ("io/test_frozen_cells.py::test_json_has_the_populations_of_a_product",),
        "a format of our own",
    ),
    Exchanged(
        "JSON of the populations",
        "read",
        "`cells.from`",
        "they accept the lattices that the product accepted",
        (
            "stages/test_cells.py::test_frozen_populations_of_json_and_of_uc_metrics_accept_the_same_lattices",
            "io/test_frozen_cells.py::test_json_that_holds_no_populations_is_refused",
        ),
        "",
    ),
    Exchanged(
        "covariance pickles of uc_metrics",
        "read",
        "`cells.from`",
        "pickles of a stand-in for uc_metrics and of scikit-learn's own estimator; the same "
        "lattices are accepted",
        (
            "io/test_frozen_cells.py::test_a_covariance_pickle_is_read_without_the_programs_that_it_names",
            "io/test_frozen_cells.py::test_distances_are_those_of_scikit_learn_itself",
            "io/test_frozen_cells.py::test_nothing_of_a_pickle_is_executed",
            "stages/test_cells.py::test_frozen_populations_of_json_and_of_uc_metrics_accept_the_same_lattices",
        ),
        "no pickle that uc_metrics itself wrote was at hand; nothing of it is executed",
    ),
)
"""Populations of cells."""

MODELS = (
    Exchanged(
        "PDB and mmCIF models",
        "read",
        "`structure_factors.model`, `merge.reference`",
        "structure factors that gemmi and cctbx calculate; elements, cells and numbers by hand",
        (
            "io/test_structure.py::test_pdb_and_mmcif_give_what_gemmi_calculates",
            "physics/test_cctbx.py::test_equal_to_cctbx",
            "io/test_structure.py::test_elements_are_those_of_the_names_where_their_columns_are_blank_or_shifted",
            "io/test_structure.py::test_what_stands_for_something_unknown_is_refused_by_its_place",
            "io/test_reference.py::test_model_without_solvent_is_the_direct_sum",
        ),
        "the first of several models; another group, or other axes, are refused",
    ),
    Exchanged(
        "tables of f′, f″",
        "read",
        "`structure_factors.sites`, `spread.known`",
        "measured tables; every way to write one, by hand",
        (
            "io/test_curve_table.py::test_curves_of_measured_tables",
            "io/test_curve_table.py::test_every_way_to_write_a_table_gives_the_same_curve",
            "io/test_curve_table.py::test_a_row_that_is_wrong_is_named",
        ),
        "three columns; f′ without the atomic number",
    ),
)
"""What structure factors are calculated from."""

CORRELATION = (
    Exchanged(
        "ParCorAna: configurations in Python, user classes, masks and colours as .npy",
        "read",
        "`spreadflow correlate -c FILE`, `correlate.mask`, `correlate.test_mask`, "
        "`correlate.colours`, `correlate.fine_colours`",
        "a configuration and classes by the documented names; pixels counted by hand",
        (
            "stages/test_correlate.py::test_a_configuration_of_parcorana_runs_and_passes_its_tests",
            "stages/test_correlate.py::test_a_file_and_a_module_as_at_lcls_run_unchanged",
            "stages/test_correlate.py::test_a_user_calculates_something_else_by_either_names",
            "io/test_g2.py::test_pixels_are_those_of_the_mask_with_a_colour",
            "io/test_g2.py::test_other_masks_and_colours_are_refused",
        ),
        "a configuration is a program, in Python 3; of psana and ParCorAna there are stand-ins, by "
        "which no event is read",
    ),
    Exchanged(
        "ParCorAna: G2 as HDF5",
        "written",
        "`spreadflow correlate`",
        "the documented paths; the double loop over all pairs",
        (
            "stages/test_correlate.py::test_every_update_is_in_the_file_in_the_old_layout",
            "stages/test_correlate.py::test_outputs_equal_those_of_the_double_loop",
        ),
        "sums and counts stand beside the old datasets; no viewer of others has read it",
    ),
)
"""Pixels correlated in time."""

EXCHANGED = (*LATTICES, *INTENSITIES, *CELLS, *MODELS, *CORRELATION)
