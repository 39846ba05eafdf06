"""pysteps' extrapolation and S-PROG as methods, run as their users run them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from nowcast.errors import MissingExtra
from nowcast.forecast.prediction import Lead, Prediction
from nowcast.frame.units import NO_ECHO_DBZ, ZR
from nowcast.methods.cube import Cube
from nowcast.methods.method import Method

#: pysteps' own defaults for rain: from 0.1 mm/h on; what is less stands 5 dB of rain rate below that. In dBZ
#: by Z = 200 R^1.6, which is linear in dB of rain rate, S-PROG and the motion come out the same as in that.
RAIN_DBZ = float(ZR().to_dbz(np.array([0.1], np.float32))[0])
ZERO_DBZ = RAIN_DBZ - 1.6 * 5.0

#: Order of S-PROG's autoregression, pysteps' default: it takes one frame more.
ORDER = 2

Array = NDArray[np.float64]


class PystepsExtrapolation(Method):
    """The newest frame carried along Lucas-Kanade motion; air from outside is not covered (NaN).

    What was not observed is taken for no echo: left out, it would spread along its edges with each step.
    """

    name = "pysteps_extrapolation"

    def __init__(self) -> None:
        self.version = _version()

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the carried fields; the motion stays pysteps' own."""
        with _quiet():
            velocity = _motion(_rain(cube.values))
            return Prediction(map(Lead, _carried(cube.newest, velocity, leads)))


class PystepsSprog(Method):
    """S-PROG: scales of rain that fade as fast as they can be foreseen, carried along Lucas-Kanade motion.

    What is below :data:`RAIN_DBZ` is no echo to it, before and after. Where the last frames cannot be
    decomposed, as without rain, pysteps' extrapolation stands in and the prediction says so.
    """

    name = "pysteps_sprog"

    def __init__(self) -> None:
        self.version = _version()

    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return the faded fields; the motion stays pysteps' own."""
        from pysteps import nowcasts

        with _quiet():
            rain = _rain(cube.values)
            velocity = _motion(rain)
            reason = _undecomposable(rain)
            if not reason:
                try:
                    sprog = nowcasts.get_method("sprog")
                    fields = sprog(rain[-ORDER - 1 :], velocity, leads, precip_thr=RAIN_DBZ)
                    if np.isfinite(fields).any(axis=(1, 2)).all():
                        return Prediction(map(Lead, _echoes(fields)))
                    reason = "no number came out"
                except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
                    reason = f"it raised {type(error).__name__}"
            fields = _carried(cube.newest, velocity, leads)
            return Prediction(map(Lead, fields), shortfalls=(f"extrapolation instead of S-PROG: {reason}",))


#: The methods of pysteps by name.
PYSTEPS: dict[str, Callable[[], Method]] = {
    PystepsExtrapolation.name: PystepsExtrapolation,
    PystepsSprog.name: PystepsSprog,
}


def _version() -> str:
    try:
        return f"1, pysteps {version('pysteps')}"
    except PackageNotFoundError as error:
        raise MissingExtra("pysteps is not installed: pip install 'nowcast-service[oracles]'") from error


def _rain(dbz: NDArray[np.float32]) -> Array:
    """Return dBZ with all that is no rain, or was not observed, at one value."""
    return np.where(dbz >= RAIN_DBZ, dbz, ZERO_DBZ).astype(float)


def _motion(rain: Array) -> Array:
    """Return the motion ``(2, y, x)`` [cells per step] behind frames ``(time, y, x)``; none behind one."""
    from pysteps import motion

    if len(rain) < 2:
        return np.zeros((2, *rain.shape[1:]))
    found: Array = motion.get_method("LK")(rain)
    return found


def _carried(newest: NDArray[np.float32], velocity: Array, leads: int) -> NDArray[np.float32]:
    from pysteps import nowcasts

    field = np.nan_to_num(newest, nan=NO_ECHO_DBZ).astype(float)
    carried = nowcasts.get_method("extrapolation")(field, velocity, leads)
    return np.asarray(carried, np.float32)


def _undecomposable(rain: Array) -> str:
    """Return why S-PROG cannot take the last frames, empty if it can."""
    if len(rain) <= ORDER:
        return f"{ORDER + 1} frames are needed"
    if not (rain[-ORDER - 1 :] > ZERO_DBZ).any(axis=(1, 2)).all():
        return "a frame has no rain"
    return ""


def _echoes(fields: Array) -> Iterator[NDArray[np.float32]]:
    """Yield fields [dBZ] with no echo where there is no rain."""
    for field in fields:
        yield np.where(field < RAIN_DBZ, NO_ECHO_DBZ, field).astype(np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pysteps prints, and the warnings of its division by zero, from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
