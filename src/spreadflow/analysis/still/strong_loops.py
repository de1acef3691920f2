"""The loops of `strong_pixels`, compiled: over all pixels of a shot once, over the windows of a few
twice.

A position is a flat index into panels that have a margin of one pixel around each: no array holds
it, but a pixel beyond an edge has a position of its own. Windows end at the edges of their panel.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

LEAST_VARIANCE = 1e-9
"""Photons²; the least variance of a pixel, so that nothing is divided by zero where neither photons
nor readout noise are expected.
"""

SLACK = 1e-5
"""How far float32 sums of a window may be off, relative: the bound that they give is lowered by
it.
"""

WORD = 8
"""Marks of pixels that are looked at together, bytes."""

ROOM = 1024
"""Strong pixels that there is room for at first."""

VALID, TESTED, BESIDE, STRONG = 1, 2, 4, 8
"""Bits of the role of a pixel: whether it may be used, was tested a second time, is strong or next
to a strong one, is strong.
"""


class Frame(NamedTuple):
    """The pixels of a shot. Arrays (panel, slow, fast), C order."""

    image: np.ndarray
    """float32 photons"""
    mask: np.ndarray
    """bool, True = valid"""
    relative_gain: np.ndarray
    """float32 gain of each pixel, by which its readout noise is divided; (0, 0, 0) = 1"""


class Settings(NamedTuple):
    """The settings of `strong_pixels.DispersionThreshold` as they are computed with."""

    gain: float
    readout_photons: float
    k_slow: int
    k_fast: int
    sigma_background: float
    sigma_strong: float
    global_threshold: float


class Rows(NamedTuple):
    """What is kept of the rows of a panel while they are gone through; float32."""

    photons: np.ndarray
    """(2 k_slow + 1, fast), those of the rows around the present one; row r lies in r modulo their
    number
    """
    since: np.ndarray
    """(fast,) sums over the rows from the first of these to the last that was filled"""
    behind: np.ndarray
    """(2 k_slow + 1, fast) sums from each of these to the last, as they were filled before"""
    column: np.ndarray
    """(fast + 2 k_fast,) sums over all rows of the windows, with margins of zeros"""
    threes: np.ndarray
    """likewise, sums of each of them and the next two"""
    total: np.ndarray
    """(fast,) sums over windows"""
    share: np.ndarray
    """(fast,) 1/columns of the panel in the window, less slack"""
    is_above: np.ndarray
    """(fast,) uint8, 1 = the pixel may be strong; up to the next whole word"""


# ---------------------------------------------------------------- one pixel


@inlined
def _is_background(role):
    """Whether a pixel of this role is valid and not beside a strong one."""
    return (role & (VALID | BESIDE)) == VALID


@inlined
def _readout_variance(frame, settings, panel, slow, fast):
    """Return the variance of the readout of a pixel, photons²."""
    if frame.relative_gain.size == 0:
        return settings.readout_photons**2
    readout = np.float32(settings.readout_photons) / frame.relative_gain[panel, slow, fast]
    return np.float64(readout * readout)


@inlined
def _gather(frame, settings, role, panel, slow, fast, values):
    """Put the photons of the background pixels in the window of a pixel one after the other, so
    that loops over them run in vector registers, and return their number. values: (n,) float64.
    """
    _, n_slow, n_fast = frame.image.shape
    first, end = max(fast - settings.k_fast, 0), min(fast + settings.k_fast + 1, n_fast)
    n = 0
    for i in range(max(slow - settings.k_slow, 0), min(slow + settings.k_slow + 1, n_slow)):
        photons = frame.image[panel, i, first:end]
        roles = role[panel, i, first:end]
        for j in range(len(photons)):
            values[n] = photons[j]
            n += _is_background(roles[j])
    return n


@inlined
def _is_strong(frame, settings, role, panel, slow, fast, values):
    """Whether a pixel is brighter than the background pixels in its window, and these with it more
    dispersed than their noise. A pixel that is no background itself need not pass the second.

    values: as of `_room`, is overwritten.
    """
    n = _gather(frame, settings, role, panel, slow, fast, values)
    if n < 2:
        return False
    total = 0.0
    for i in range(n):
        total += values[i]
    mean = total / n
    readout = _readout_variance(frame, settings, panel, slow, fast)
    noise = max(settings.gain * max(mean, 0.0) + readout, LEAST_VARIANCE)
    limit = max(mean, 0.0) + settings.sigma_strong * np.sqrt(noise)
    if not frame.image[panel, slow, fast] > limit:
        return False
    if not _is_background(role[panel, slow, fast]):
        return True

    squares = 0.0
    for i in range(n):
        squares += (values[i] - mean) ** 2
    # the relative variance of a sample's variance: of a Gaussian, and the kurtosis of counts
    kurtosis = settings.gain**2 * (noise - readout) / (n * noise**2)
    relative_sigma = np.sqrt(2.0 / (n - 1) + kurtosis)
    return squares / (n - 1) > noise * (1.0 + settings.sigma_background * relative_sigma)


@inlined
def _room(settings):
    """Return an array for the pixels of a window, and one more."""
    return np.empty((2 * settings.k_slow + 1) * (2 * settings.k_fast + 1) + 1, np.float64)


# ---------------------------------------------------------------- all pixels


@inlined
def _fill(image, mask, photons, role):
    """Set the photons of a row, 0 where masked, and the roles of its pixels."""
    for j in range(len(photons)):
        photons[j] = image[j] if mask[j] else np.float32(0)
        role[j] = mask[j]


@inlined
def _add(one, total):
    """Add a row to a total."""
    for j in range(len(total)):
        total[j] += one[j]


@inlined
def _set_sum(one, two, total):
    """Set the sum of two rows."""
    for j in range(len(total)):
        total[j] = one[j] + two[j]


@inlined
def _set_sum_of_three(one, two, three, total):
    """Set the sum of three rows."""
    for j in range(len(total)):
        total[j] = one[j] + two[j] + three[j]


@inlined
def _sum_rows(rows, slot):
    """Set the sums over the rows of the windows that end with the row in this slot, newly filled.

    They are the sum of the rows since the first slot and that of the rows behind this one when the
    slots were filled before. There are only additions: no bright pixel leaks out of its windows, as
    it does from sums that move along.
    """
    n_kept, n_fast = rows.photons.shape
    margin = (len(rows.column) - n_fast) // 2
    column = rows.column[margin : margin + n_fast]
    _add(rows.photons[slot], rows.since)
    if slot + 1 < n_kept:
        _set_sum(rows.since, rows.behind[slot + 1], column)
        return
    for j in range(n_fast):
        column[j] = rows.since[j]
        rows.since[j] = 0
        rows.behind[slot, j] = rows.photons[slot, j]
    for earlier in range(slot - 1, 0, -1):
        _set_sum(rows.photons[earlier], rows.behind[earlier + 1], rows.behind[earlier])


@inlined
def _sum_columns(rows, width):
    """Set the sums over windows of `width` columns, by threes where these fill it."""
    n = len(rows.total)
    column, step = rows.column, 1
    if width % 3 == 0:
        m = len(column) - 2
        _set_sum_of_three(column[:m], column[1 : 1 + m], column[2 : 2 + m], rows.threes[:m])
        column, step = rows.threes, 3
    if width == 3 * step:
        _set_sum_of_three(
            column[:n], column[step : step + n], column[2 * step : 2 * step + n], rows.total
        )
        return
    for j in range(n):
        rows.total[j] = column[j]
    for j in range(step, width, step):
        _add(column[j : j + n], rows.total)


@inlined
def _compare(photons, rows, share, settings, relative_gain):
    """Mark the pixels of a row that exceed the mean of their windows by the noise that it has, and
    return their number.

    share: 1/rows of the panel in the window; relative_gain: (fast,) of the pixels, or (0,).
    """
    gain = np.float32(settings.gain)
    readout = np.float32(settings.readout_photons)
    sigma2 = np.float32(settings.sigma_strong**2 * (1 - SLACK))
    threshold = np.float32(settings.global_threshold)
    is_same = len(relative_gain) == 0
    n_above = 0
    for j in range(len(photons)):
        mean = rows.total[j] * (rows.share[j] * share)
        mean = mean if mean > 0 else np.float32(0)
        own_readout = readout if is_same else readout / relative_gain[j]
        variance = gain * mean + own_readout * own_readout
        above = photons[j] - mean
        is_above = (above > 0) & (above * above > sigma2 * variance) & (photons[j] > threshold)
        rows.is_above[j] = is_above
        n_above += is_above
    return n_above


@inlined
def _position(shape, panel, slow, fast):
    """Return the position of a pixel. shape: (panel, slow, fast)."""
    return (panel * (shape[1] + 2) + slow + 1) * (shape[2] + 2) + fast + 1


@inlined
def _place(shape, position):
    """Return panel, slow and fast of a position."""
    row, fast = divmod(position, shape[2] + 2)
    panel, slow = divmod(row, shape[1] + 2)
    return panel, slow - 1, fast - 1


@inlined
def _appended(positions, n, position):
    """Return the first n positions with another after them, in an array that has room for more."""
    if n < len(positions):
        positions[n] = position
        return positions
    longer = np.empty(2 * n, np.int64)
    for i in range(n):
        longer[i] = positions[i]
    longer[n] = position
    return longer


@inlined
def _rows(n_fast, settings):
    """Return rows for panels of so many columns."""
    n_kept = 2 * settings.k_slow + 1
    n_wide = n_fast + 2 * settings.k_fast
    rows = Rows(
        np.zeros((n_kept, n_fast), np.float32),
        np.zeros(n_fast, np.float32),
        np.zeros((n_kept, n_fast), np.float32),
        np.zeros(n_wide, np.float32),
        np.zeros(n_wide, np.float32),
        np.zeros(n_fast, np.float32),
        np.zeros(n_fast, np.float32),
        np.zeros(-(-n_fast // WORD) * WORD, np.uint8),
    )
    for j in range(n_fast):
        in_reach = min(j, settings.k_fast) + min(n_fast - 1 - j, settings.k_fast) + 1
        rows.share[j] = (1 - SLACK) / in_reach
    return rows


@inlined
def _zero(row):
    """Set a row to 0."""
    for j in range(len(row)):
        row[j] = 0


@inlined
def _clear(rows):
    """Forget the rows of the panel before."""
    _zero(rows.since)
    for slot in range(len(rows.behind)):
        _zero(rows.behind[slot])


@inlined
def _valid_above(words, is_above, role, columns):
    """Put the valid columns of a row that are marked into `columns`, and return their number.

    words: the marks, of which few are set, as numbers of `WORD` bytes.
    """
    n = 0
    for word in range(len(words)):
        if words[word]:
            for j in range(WORD * word, min(WORD * word + WORD, len(role))):
                columns[n] = j
                n += (is_above[j] != 0) & (role[j] != 0)
    return n


@compiled
def strong_once(frame, settings, role):
    """Return the sorted positions of the strong pixels of a shot when no other is known. role: is
    set, (panel, slow, fast) uint8.

    A cheap bound of the mean, from the sum over the window, leaves few pixels to test: masked ones
    count as zeros in it, so that the mean comes out too small, never too large.
    """
    n_panels, n_slow, n_fast = frame.image.shape
    rows = _rows(n_fast, settings)
    n_kept = len(rows.photons)
    words = rows.is_above.view(np.uint64)
    columns = np.empty(n_fast + 1, np.int64)
    values = _room(settings)
    no_gain = np.zeros(0, np.float32)
    is_same = frame.relative_gain.size == 0
    found = np.empty(ROOM, np.int64)
    n_found = 0
    for panel in range(n_panels):
        _clear(rows)
        for newest in range(n_slow + settings.k_slow):
            photons = rows.photons[newest % n_kept]
            if newest < n_slow:
                image, mask = frame.image[panel, newest], frame.mask[panel, newest]
                _fill(image, mask, photons, role[panel, newest])
            else:
                _zero(photons)
            _sum_rows(rows, newest % n_kept)
            i = newest - settings.k_slow
            if i < 0:
                continue
            _sum_columns(rows, 2 * settings.k_fast + 1)
            gain = no_gain if is_same else frame.relative_gain[panel, i]
            in_reach = min(i, settings.k_slow) + min(n_slow - 1 - i, settings.k_slow) + 1
            share = np.float32(1 / in_reach)
            if not _compare(rows.photons[i % n_kept], rows, share, settings, gain):
                continue
            for number in range(_valid_above(words, rows.is_above, role[panel, i], columns)):
                j = columns[number]
                if _is_strong(frame, settings, role, panel, i, j, values):
                    found = _appended(found, n_found, _position(role.shape, panel, i, j))
                    n_found += 1
    return found[:n_found]


# ---------------------------------------------------------------- around strong pixels


@compiled
def mark(positions, role):
    """Give strong pixels and those next to them their roles."""
    _, n_slow, n_fast = role.shape
    for position in positions:
        panel, slow, fast = _place(role.shape, position)
        role[panel, slow, fast] |= STRONG
        for i in range(max(slow - 1, 0), min(slow + 2, n_slow)):
            for j in range(max(fast - 1, 0), min(fast + 2, n_fast)):
                role[panel, i, j] |= BESIDE


@compiled
def strong_around(frame, settings, role, strong):
    """Return the positions, not sorted, of more strong pixels in the windows around those that are
    known, `strong`: brighter than what is background by `role`.
    """
    _, n_slow, n_fast = frame.image.shape
    threshold = np.float32(settings.global_threshold)
    values = _room(settings)
    found = np.empty(ROOM, np.int64)
    n_found = 0
    for position in strong:
        panel, slow, fast = _place(role.shape, position)
        for i in range(max(slow - settings.k_slow, 0), min(slow + settings.k_slow + 1, n_slow)):
            for j in range(max(fast - settings.k_fast, 0), min(fast + settings.k_fast + 1, n_fast)):
                if role[panel, i, j] & (VALID | TESTED | STRONG) != VALID:
                    continue
                role[panel, i, j] |= TESTED
                if not frame.image[panel, i, j] > threshold:
                    continue
                if _is_strong(frame, settings, role, panel, i, j, values):
                    found = _appended(found, n_found, _position(role.shape, panel, i, j))
                    n_found += 1
    return found[:n_found]


@compiled
def window_moments(frame, settings, role, strong):
    """Return sums (pixel, 9) over the background pixels in the window around each strong pixel: the
    columns of `spots._Moments`, counted from that pixel.
    """
    _, n_slow, n_fast = frame.image.shape
    sums = np.zeros((len(strong), 9))
    for number in range(len(strong)):
        panel, slow, fast = _place(role.shape, strong[number])
        own = sums[number]
        for i in range(max(slow - settings.k_slow, 0), min(slow + settings.k_slow + 1, n_slow)):
            for j in range(max(fast - settings.k_fast, 0), min(fast + settings.k_fast + 1, n_fast)):
                if not _is_background(role[panel, i, j]):
                    continue
                x, y = float(j - fast), float(i - slow)
                photons = np.float64(frame.image[panel, i, j])
                own[0] += 1.0
                own[1] += x
                own[2] += y
                own[3] += x * x
                own[4] += x * y
                own[5] += y * y
                own[6] += photons
                own[7] += photons * x
                own[8] += photons * y
    return sums
