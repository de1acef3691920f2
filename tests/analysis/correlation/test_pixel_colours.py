"""Colours of pixels, and their places in an image, on pixels counted by hand."""

import numpy as np

from spreadflow.analysis.correlation import image_map, pixel_colours
from spreadflow.analysis.correlation.image_map import ImageMap


def test_colours_by_intensity_have_as_many_pixels_each():
    values = np.random.default_rng(1).random((7, 9))
    usable = values > 0.1
    colours = pixel_colours.by_quantiles(values, usable, 6)
    counts = np.bincount(colours.ravel())
    assert counts[0] == np.count_nonzero(~usable)
    assert np.ptp(counts[1:]) <= 1
    assert len(counts) == 7
    for colour in range(1, 6):
        assert values[colours == colour].max() < values[colours == colour + 1].min()


def test_there_are_no_more_colours_than_pixels():
    usable = np.array([True, False, True])
    colours = pixel_colours.by_quantiles(np.array([3.0, 1.0, 2.0]), usable, 6)
    np.testing.assert_array_equal(colours, [2, 0, 1])
    assert not pixel_colours.by_quantiles(np.ones(3), np.zeros(3, bool), 6).any()


def test_rings_are_of_equal_width_and_hold_their_limits():
    q = np.array([0.0, 0.1, 0.19, 0.2, 0.31, 0.4, 0.41, np.nan])
    colours = pixel_colours.by_rings(q, np.ones(8, bool), 3, (0.1, 0.4))
    np.testing.assert_array_equal(colours, [0, 1, 1, 2, 3, 3, 0, 0])


def test_pixels_for_tests_follow_each_other_from_the_bright_ones_on():
    values = np.random.default_rng(2).permutation(200.0 * np.ones(1) * np.arange(200) / 200)
    mask = pixel_colours.tested(values, values >= 0, 10)
    np.testing.assert_array_equal(np.sort(values[mask > 0]), np.arange(190, 200))
    few = pixel_colours.tested(values[:12], np.ones(12, bool), 10)
    assert few.sum() == 10


def test_places_with_several_elements_and_with_none_are_known():
    ring = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (2, 2), (4, 1)]
    row, column = np.array(ring).T
    places = ImageMap(np.append(row, -1), np.append(column, -1))
    assert places.shape == (5, 3)
    assert places.shared() == [(2, 2, [7, 8])]
    np.testing.assert_array_equal(places.gaps(), [[1, 1]])
    image = places.image(np.arange(11))
    assert image[0, 2] == 2
    assert image[1, 1] == image[3, 0] == 0
    array = places.array(image)
    np.testing.assert_array_equal(array[:7], np.arange(7))
    assert array[10] == 0


def test_an_image_stands_as_in_the_laboratory():
    x, y = np.array([[-2.0, 0.1, np.nan], [-2.0, 0.0, 2.0]]), np.array([[1.0, 1, 1], [-1, -1, -1]])
    places = image_map.of_positions(x, y, pixel=1.0)
    np.testing.assert_array_equal(places.row, [[0, 0, -1], [2, 2, 2]])
    np.testing.assert_array_equal(places.column, [[0, 2, -1], [0, 2, 4]])
    same = image_map.of_images((2, 3))
    array = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(same.image(array), array)
