"""A domain: one named composite with its step, grid, thresholds and Z-R relation."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from annotated_types import Interval, Len

from nowcast.frame.grid import Grid
from nowcast.frame.units import MAX_DBZ, NO_ECHO_DBZ, ZR
from nowcast.names import AUTO


@dataclass(frozen=True)
class Domain:
    """What the service must know of one radar composite.

    The bounds hold for what an operator writes: :mod:`nowcast.settings` reads them from the annotations.

    Attributes:
        name: Identifier, used in paths and URLs: lower-case letters, digits, ``-`` and ``_``.
        step_minutes: Time between two frames, and between two lead times.
        leads: Number of lead times in a forecast.
        history: Frames a forecast looks back on, newest included.
        thresholds_dbz: Reflectivities verification counts events at, ascending.
        zr: Relation between reflectivity and rain rate.
        grid: Cells of the domain; ``None`` takes the grid of the first frame.
        reproject: Whether frames on other grids are brought to ``grid`` (else they are refused).
        max_dbz: Larger reflectivities are artefacts and are bounded to this.
        model: Method whose forecast is served.
        future_minutes: A frame further ahead of the clock than this is refused.
        backfill_minutes: Frames this much older than the newest count as late: they are archived but not
            forecast from any more.
        title: Name for people.
        credit: Agency whose data this is, shown with every product.
        quantity: What the numbers in files are that do not say it, by the names of ODIM_H5.
        unit: Their unit, likewise.
        variable: Name of the field in files that hold several.
        time_format: How the time is written in the name of files that do not hold it.
    """

    name: str
    step_minutes: Annotated[int, Interval(ge=1, le=30)]
    leads: Annotated[int, Interval(ge=1, le=72)] = 12
    history: Annotated[int, Interval(ge=1, le=24)] = 4
    thresholds_dbz: Annotated[
        tuple[Annotated[float, Interval(gt=NO_ECHO_DBZ, le=MAX_DBZ)], ...], Len(1, 16)
    ] = (20.0, 30.0, 35.0, 40.0)
    zr: ZR = field(default_factory=ZR)
    grid: Grid | None = None
    reproject: bool = False
    max_dbz: Annotated[float, Interval(ge=40, le=100)] = MAX_DBZ
    model: str = AUTO
    future_minutes: Annotated[int, Interval(ge=0, le=1440)] = 10
    backfill_minutes: Annotated[int, Interval(ge=1, le=10_080)] = 180
    title: str = ""
    credit: str = ""
    quantity: str = ""
    unit: str = ""
    variable: str = ""
    time_format: str = ""

    def nominal_time(self, time: datetime) -> datetime:
        """Return the full step a frame's time stands for, or ``time`` itself if none is near.

        Some agencies stamp a composite seconds after its nominal time; a quarter of a step is near.
        """
        step = self.step_minutes * 60
        seconds = time.timestamp()
        nominal = round(seconds / step) * step
        return datetime.fromtimestamp(nominal, tz=UTC) if abs(nominal - seconds) <= step / 4 else time
