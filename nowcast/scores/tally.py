"""Scores of forecasts against the truth, kept as sums that may be added before any ratio is taken."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from copy import copy
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import WrongGrid
from nowcast.frame.units import NO_ECHO_DBZ
from nowcast.scores import table
from nowcast.scores.contingency import Contingency, ratio
from nowcast.scores.fss import BLOCK_CELLS, fss_sums, half_windows
from nowcast.scores.judged import COUNTS

#: Widths [km] of the windows the fractions skill score is taken over, unless others are asked for.
WINDOWS_KM = (5.0, 10.0, 20.0)

#: Largest reflectivity [dBZ] that enters an error or a correlation, so that a network gone wild has a bad
#: score instead of an infinite one; a domain keeps at most this (``max_dbz`` in the settings).
HIGHEST_DBZ = 100.0

K = TypeVar("K", bound=Hashable)

_TOTALS = ("forecasts", "pixels")
_FRACTIONS = ("fss_difference", "fss_reference")
_MOMENTS = (
    "absolute_error",
    "squared_error",
    "forecast_sum",
    "truth_sum",
    "forecast_square",
    "truth_square",
    "product",
)
_SUMS = (_TOTALS, COUNTS, _FRACTIONS, _MOMENTS)


class Tally:
    r"""Sums over pixels and forecasts of one model at one lead time.

    ``a + b`` is the tally of both samples together, so scores of a day, a month or a domain come from adding,
    never from averaging ratios (``sum`` needs a start: ``sum(rest, first)``).

    Convention: a pixel counts where the truth is observed, and only there; a forecast pixel without a value
    counts as no echo. An event is a value at or above the threshold, compared in float32 as the fields are.
    Errors and correlations are over all those pixels, echo or not, of dBZ between -10 (no echo) and 100;
    correlations are of :math:`x = \mathrm{dBZ} + 10`, which is the networks' normalised scale times 70.

    Attributes:
        thresholds_dbz: Ascending; ``t`` of them.
        windows_km: Widths of the FSS windows, ascending; ``w`` of them.
        cell_km: Height and width of a cell, which make cells of the windows when a forecast is added.
        totals: int64 ``(2,)``: forecasts with at least one pixel to compare, and pixels compared.
        counts: int64 ``(3, t)``: hits, misses and false alarms, in pixels.
        fractions: float64 ``(2, t, w)``: numerator and denominator of 1 - FSS.
        moments: float64 ``(7,)``: sums of abs(forecast - truth), of its square, of the forecast's and the
            truth's x, of their squares and of their product.
    """

    def __init__(
        self,
        thresholds_dbz: Iterable[float],
        *,
        windows_km: Iterable[float] = (),
        cell_km: tuple[float, float] | None = None,
    ) -> None:
        """Start from nothing.

        Raises:
            ValueError: If there is no threshold, or one that is not finite or would make no echo an event; if
                windows are not positive, or come without the cell size that makes cells of them.
        """
        self.thresholds_dbz = tuple(sorted({float(threshold) for threshold in thresholds_dbz}))
        self.windows_km = tuple(sorted({float(width) for width in windows_km}))
        self.cell_km = None if cell_km is None else (float(cell_km[0]), float(cell_km[1]))
        events_are_sound = all(NO_ECHO_DBZ < threshold < math.inf for threshold in self.thresholds_dbz)
        if not self.thresholds_dbz or not events_are_sound:
            raise ValueError(
                f"expected thresholds, finite and above {NO_ECHO_DBZ:g} dBZ, got {self.thresholds_dbz}"
            )
        if not all(0 < width < math.inf for width in self.windows_km):
            raise ValueError(f"windows must have a positive width in km, got {self.windows_km}")
        if self.windows_km and not (self.cell_km and min(self.cell_km) > 0):
            raise ValueError("windows in km need the height and width of a cell in km")
        t, w = len(self.thresholds_dbz), len(self.windows_km)
        self._halves = half_windows(self.windows_km, self.cell_km) if self.cell_km else ()
        self.totals = np.zeros(len(_TOTALS), np.int64)
        self.counts = np.zeros((len(COUNTS), t), np.int64)
        self.fractions = np.zeros((len(_FRACTIONS), t, w))
        self.moments = np.zeros(len(_MOMENTS))

    @property
    def forecasts(self) -> int:
        """Number of forecasts with at least one pixel to compare."""
        return int(self.totals[0])

    @property
    def pixels(self) -> int:
        """Number of pixels compared."""
        return int(self.totals[1])

    def blank(self) -> Tally:
        """Return a tally of the same thresholds and windows that has counted nothing."""
        return self.with_sums([np.zeros_like(sums) for sums in self.sums])

    def add(self, forecast: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Count one forecast field against what was observed at its valid time.

        Args:
            forecast: dBZ ``(y, x)``; NaN and -inf = no echo.
            truth: dBZ ``(y, x)``; NaN = not observed.

        Raises:
            ValueError: If these are not two fields of one shape.
        """
        forecast, truth = np.asarray(forecast, np.float32), np.asarray(truth, np.float32)
        if forecast.ndim != 2 or forecast.shape != truth.shape:
            raise ValueError(f"expected two fields of one shape, got {forecast.shape} and {truth.shape}")
        thresholds = np.asarray(self.thresholds_dbz, np.float32)
        pixels = 0
        height = max(1, BLOCK_CELLS // truth.shape[1])
        for start in range(0, truth.shape[0], height):
            f, o = forecast[start : start + height], truth[start : start + height]
            observed = o == o
            pixels += int(np.count_nonzero(observed))
            self.counts += contingency_counts(f, o, observed, thresholds)
            self.moments += _moments(f, o, observed)
        if pixels:
            self.totals += (1, pixels)
            if self._halves:
                self.fractions += fss_sums(forecast, truth, thresholds, self._halves)

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both samples.

        Raises:
            ValueError: If thresholds or windows differ.
        """
        if not isinstance(other, Tally):
            return NotImplemented
        if not self.is_like(other):
            raise ValueError(
                f"cannot add scores at {self.thresholds_dbz} dBZ over {self.windows_km} km and "
                f"at {other.thresholds_dbz} dBZ over {other.windows_km} km"
            )
        return self.with_sums([a + b for a, b in zip(self.sums, other.sums, strict=True)])

    @property
    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """All there is to add up: totals, counts, fractions and moments."""
        return self.totals, self.counts, self.fractions, self.moments

    def with_sums(self, sums: Iterable[NDArray[Any]]) -> Tally:
        """Return a tally of the same thresholds and windows with other :attr:`sums`."""
        other = copy(self)
        other.totals, other.counts, other.fractions, other.moments = sums
        return other

    def is_like(self, other: Tally) -> bool:
        """Return whether both have the same thresholds and windows, so that they may be added."""
        return (self.thresholds_dbz, self.windows_km) == (other.thresholds_dbz, other.windows_km)

    def contingency(self, threshold_dbz: float) -> Contingency:
        """Return counts and ratios at one of :attr:`thresholds_dbz`.

        Raises:
            ValueError: If it is none of them.
        """
        hits, misses, false_alarms = self.counts[:, self.thresholds_dbz.index(threshold_dbz)].tolist()
        return Contingency(hits, misses, false_alarms, self.pixels - hits - misses - false_alarms)

    def fss(self, threshold_dbz: float, window_km: float) -> float | None:
        """Return the fractions skill score, 0 to 1; ``None`` if neither field ever reached the threshold.

        Raises:
            ValueError: If the threshold or the window is none of this tally's.
        """
        k, w = self.thresholds_dbz.index(threshold_dbz), self.windows_km.index(window_km)
        difference, reference = self.fractions[:, k, w].tolist()
        return 1.0 - difference / reference if reference else None

    def mae(self) -> float | None:
        """Return the mean absolute error [dBZ]."""
        return ratio(float(self.moments[0]), self.pixels)

    def mse(self) -> float | None:
        """Return the mean squared error per pixel [dBZ^2]; on the networks' scale it is 70^2 times less."""
        return ratio(float(self.moments[1]), self.pixels)

    def cor_real(self) -> float | None:
        """Return sum(F O) / sqrt(sum(F^2) sum(O^2)) of dBZ + 10, 0 to 1: no mean is taken off.

        Source: Shi et al. (2015), Convolutional LSTM Network, section 5.2, https://arxiv.org/abs/1506.04214.
        """
        forecast_square, truth_square, product = self.moments[4:].tolist()
        return ratio(product, math.sqrt(forecast_square * truth_square))

    def pearson_r(self) -> float | None:
        """Return Pearson's correlation, -1 to 1; ``None`` if a field is the same everywhere."""
        n = self.pixels
        forecast_sum, truth_sum, forecast_square, truth_square, product = self.moments[2:].tolist()
        forecast_variance = n * forecast_square - forecast_sum**2
        truth_variance = n * truth_square - truth_sum**2
        rounding = 1e-13 * n  # float sums do not take a constant field's variance to exactly 0
        if forecast_variance <= rounding * forecast_square or truth_variance <= rounding * truth_square:
            return None
        covariance = n * product - forecast_sum * truth_sum
        return float(covariance / (math.sqrt(forecast_variance) * math.sqrt(truth_variance)))

    def rows(self) -> list[dict[str, float | int | None]]:
        """Return one row of counts and ratios for each threshold, by the names of ``scores.json``."""
        return [
            {
                "threshold_dbz": threshold,
                **asdict(counts),
                **{score.name: score.of(counts) for score in table.event_scores()},
                "forecasts": self.forecasts,
            }
            for threshold, counts in zip(
                self.thresholds_dbz, map(self.contingency, self.thresholds_dbz), strict=True
            )
        ]

    def field_row(self) -> dict[str, float | None]:
        """Return the scores of whole fields, whatever the threshold, by the names of ``scores.json``."""
        return {score.name: score.of(self) for score in table.field_scores()}

    def window_rows(self, threshold_dbz: float) -> list[dict[str, float | None]]:
        """Return one row for each window with the scores of events in it, by the names of ``scores.json``."""
        return [
            {
                "window_km": width,
                **{score.name: score.of(self, threshold_dbz, width) for score in table.window_scores()},
            }
            for width in self.windows_km
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the sums as plain numbers and lists; :meth:`from_dict` gives back exactly these sums."""
        result: dict[str, Any] = {
            "thresholds_dbz": list(self.thresholds_dbz),
            "windows_km": list(self.windows_km),
            "cell_km": self.cell_km and list(self.cell_km),
        }
        for names, sums in zip(_SUMS, self.sums, strict=True):
            result.update(zip(names, sums.tolist(), strict=True))
        return result

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, length: int | None = None) -> Tally:
        """Return the tally of :meth:`to_dict`.

        Args:
            content: The dictionary.
            length: Length of a last axis that every sum has in addition: a series of tallies in one.

        Raises:
            ValueError: If something is missing, of another shape, negative or not finite.
        """
        try:
            cell_km = content["cell_km"]
            empty = _empty(
                tuple(content["thresholds_dbz"]), tuple(content["windows_km"]), cell_km and tuple(cell_km)
            )
            axis = () if length is None else (length,)
            return empty.with_sums(
                [
                    _checked([content[name] for name in names], like.dtype, like.shape + axis)
                    for names, like in zip(_SUMS, empty.sums, strict=True)
                ]
            )
        except (KeyError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"these are no sums of scores: {error!r}") from error


def score_fields(
    fields: Iterable[tuple[K, NDArray[np.float32], NDArray[np.float32]]], empty: Tally
) -> dict[K, Tally]:
    """Return what forecast fields score against their truths, one tally each; two fields are held at a time.

    Args:
        fields: What a tally shall be found by, the forecast and the truth ``(y, x)`` [dBZ], as
            :meth:`Tally.add` takes them.
        empty: A tally with the thresholds and windows to score by; stays as it is.

    Raises:
        WrongGrid: If a forecast lies on another number of cells than its truth.
    """
    tallies = {}
    for key, forecast, truth in fields:
        if forecast.shape != truth.shape:
            raise WrongGrid(f"expected a forecast on {truth.shape} cells, got {forecast.shape}")
        tally = empty.blank()
        tally.add(forecast, truth)
        tallies[key] = tally
    return tallies


@lru_cache(maxsize=16)
def _empty(
    thresholds_dbz: tuple[float, ...], windows_km: tuple[float, ...], cell_km: tuple[float, float] | None
) -> Tally:
    """Return an empty tally to take thresholds and windows from: thousands of files share a few of them."""
    return Tally(thresholds_dbz, windows_km=windows_km, cell_km=cell_km)


def _checked(values: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return sums read from a file as an array."""
    array = np.array(values, dtype)
    if array.shape != shape:
        raise ValueError(f"expected sums of shape {shape}, got {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < np.inf:
        raise ValueError("sums of scores cannot be negative or infinite")
    return array


def contingency_counts(
    forecast: NDArray[np.float32],
    truth: NDArray[np.float32],
    observed: NDArray[np.bool_],
    thresholds: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Return hits, misses and false alarms ``(3, t)`` where the truth is observed.

    The events of each field and of both at once say all there is, at a quarter of a joint histogram's time.
    """
    counts = np.empty((len(COUNTS), len(thresholds)), np.int64)
    for k, threshold in enumerate(thresholds):
        truth_event = truth >= threshold
        forecast_event = forecast >= threshold
        forecast_event &= observed
        forecast_events = np.count_nonzero(forecast_event)
        forecast_event &= truth_event
        hits = np.count_nonzero(forecast_event)
        counts[:, k] = hits, np.count_nonzero(truth_event) - hits, forecast_events - hits
    return counts


def _moments(
    forecast: NDArray[np.float32], truth: NDArray[np.float32], observed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the sums of :attr:`Tally.moments` ``(7,)``."""
    f, o = _above_no_echo(forecast), _above_no_echo(truth)
    f *= observed  # where nothing is observed both are 0 and add nothing
    of_fields = f.sum(), o.sum(), *(np.vecdot(a, b).sum() for a, b in ((f, f), (o, o), (f, o)))
    f -= o
    squared_error = np.vecdot(f, f).sum()  # row by row, for the reason :func:`~nowcast.scores.fss.inner` has
    return np.array([np.abs(f, out=f).sum(), squared_error, *of_fields])


def _above_no_echo(dbz: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return dBZ + 10; 0 for no echo and for NaN."""
    bounded = np.fmax(dbz, np.float32(NO_ECHO_DBZ))
    np.minimum(bounded, np.float32(HIGHEST_DBZ), out=bounded)
    above = bounded.astype(np.float64)
    above -= NO_ECHO_DBZ
    return above
