"""What the API answers, as typed documents; the OpenAPI description is made from these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from nowcast.scores.table import Score, event_scores, field_scores, recorded_scores, window_scores

#: Example values, one story throughout: a Finnish composite on a showery day.
_ISSUE = "2026-11-21T07:10:00Z"
_VALID = "2026-11-21T07:15:00Z"

Time = Annotated[datetime, Field(examples=[_ISSUE])]
Latitude = Annotated[float, Field(ge=-90, le=90, description="Degrees north, WGS 84", examples=[60.17])]
Longitude = Annotated[float, Field(ge=-180, le=180, description="Degrees east, WGS 84", examples=[24.94])]
LeadMinutes = Annotated[int, Field(description="Minutes after the issue time", examples=[5])]
Dbz = Annotated[float | None, Field(description="Reflectivity [dBZ]; null unless the state is `value`")]
RainRate = Annotated[
    float | None, Field(description="Rain rate [mm/h] by the domain's Z-R relation; null where not covered")
]
Ratio = Annotated[float | None, Field(description="null where it is 0/0")]
State = Annotated[
    Literal["value", "no_echo", "not_covered"],
    Field(
        description="`value`: an echo; `no_echo`: looked at and dry; `not_covered`: nobody looked, not dry"
    ),
]


class Document(BaseModel):
    """Base of every answer: immutable, and nothing in it by accident."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ParameterProblem(Document):
    """What is wrong with one parameter."""

    parameter: Annotated[str, Field(examples=["lat"])]
    detail: Annotated[str, Field(examples=["expected 90 or less, got '100'"])]


class Problem(Document):
    """An error, as RFC 9457 writes it."""

    type: Annotated[
        str, Field(description="Stable name of the kind", examples=["urn:nowcast:problem:no-forecast"])
    ]
    title: Annotated[str, Field(examples=["No forecast"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str | None, Field(examples=["there is no forecast of domain 'fmi' yet"])] = None
    instance: Annotated[
        str | None, Field(description="Path asked for", examples=["/v1/domains/fmi/forecasts/latest"])
    ] = None
    request_id: Annotated[
        str | None, Field(description="Also in the header X-Request-ID", examples=["9f86d081884c7d65"])
    ] = None
    parameters: Annotated[
        list[ParameterProblem] | None, Field(description="Only with `urn:nowcast:problem:invalid-parameter`")
    ] = None


class ZRelation(Document):
    """The relation Z = a R^b between reflectivity Z [mm^6 m^-3] and rain rate R [mm/h]."""

    a: Annotated[float, Field(examples=[200.0])]
    b: Annotated[float, Field(examples=[1.6])]


class Health(Document):
    """The process lives."""

    status: Literal["ok"] = "ok"


class DomainFreshness(Document):
    """How new the data of one domain is."""

    domain: Annotated[str, Field(examples=["fmi"])]
    status: Annotated[
        Literal["fresh", "stale", "empty", "unreadable"],
        Field(
            description="`stale`: the newest frame or forecast is over three steps old; `empty`: no frame "
            "has come yet; `unreadable`: the disk refuses"
        ),
    ]
    newest_frame: datetime | None = Field(None, description="Time of the newest archived frame")
    frame_age_seconds: float | None = None
    newest_forecast: datetime | None = Field(None, description="Issue time of the newest forecast")
    forecast_age_seconds: float | None = None


class Readiness(Document):
    """Whether the service can answer, and how well."""

    status: Annotated[
        Literal["ready", "degraded"],
        Field(description="`degraded` still answers, but Redis is away or a domain is not fresh"),
    ]
    redis: Annotated[
        Literal["ok", "away", "none"],
        Field(description="`none`: not configured, products are kept in memory only"),
    ]
    domains: list[DomainFreshness]


class DomainSummary(Document):
    """One domain."""

    name: Annotated[str, Field(examples=["fmi"])]
    title: Annotated[str, Field(examples=["Finland"])]
    credit: Annotated[
        str, Field(description="Whose data this is", examples=["Finnish Meteorological Institute"])
    ]
    step_minutes: Annotated[int, Field(description="Between two frames and between two leads", examples=[5])]
    leads: Annotated[int, Field(description="Lead times of a forecast", examples=[12])]
    model: Annotated[str, Field(description="Method whose forecast is served", examples=["auto"])]
    newest_frame: datetime | None
    newest_forecast: datetime | None
    href: Annotated[str, Field(examples=["/v1/domains/fmi"])]


class Domains(Document):
    """All domains."""

    domains: list[DomainSummary]


class BoundingBox(Document):
    """The domain's outer limits [degrees], as GeoJSON has them (RFC 7946, section 5)."""

    west: float = Field(ge=-180, le=180, description="Greater than `east` where the grid crosses 180 degrees")
    south: float = Field(ge=-90, le=90)
    east: float = Field(ge=-180, le=180)
    north: float = Field(ge=-90, le=90)


class Lattice(Document):
    """Geographic positions of evenly spaced points of the grid, to place a click without a map projection.

    Point `(i, j)` lies at the fraction `i / (rows - 1)` of the grid's height from its northern outer edge and
    `j / (columns - 1)` of its width from its western one. Interpolate linearly in between.
    """

    rows: int
    columns: int
    latitude: list[list[float | None]] = Field(description="Degrees north, by row from north to south")
    longitude: list[list[float | None]] = Field(
        description="Degrees east; a row counts on beyond 180 or -180 where the grid crosses that meridian"
    )


class MapBox(Document):
    """Where on a `map.png` the grid lies: fractions of the picture's width and height from its upper left."""

    left: float
    top: float
    width: float
    height: float


class GridDescription(Document):
    """The cells of a domain: rows from north to south, columns from west to east."""

    rows: Annotated[int, Field(examples=[1226])]
    columns: Annotated[int, Field(examples=[760])]
    cell_height_km: float
    cell_width_km: float
    crs_wkt: str = Field(description="Coordinate reference system")
    x0: float = Field(description="Centre of the western column, in the unit of the CRS")
    y0: float = Field(description="Centre of the northern row")
    dx: float
    dy: float
    bounds: BoundingBox
    lattice: Lattice
    map_box: MapBox


class DomainDetail(DomainSummary):
    """One domain with its grid, which is null until the first frame has come."""

    thresholds_dbz: Annotated[list[float], Field(examples=[[20.0, 30.0, 35.0, 40.0]])]
    zr: ZRelation
    grid: GridDescription | None


class FrameEntry(Document):
    """One archived frame."""

    time: Time
    href: str
    map: str


class Frames(Document):
    """Archived frames, newest first."""

    domain: str
    frames: list[FrameEntry]


class Observation(Document):
    """One observed frame: what it says, in short."""

    domain: Annotated[str, Field(examples=["fmi"])]
    time: Time
    answered_at: datetime
    age_seconds: Annotated[float, Field(description="Seconds from `time` to `answered_at`", examples=[95.0])]
    source: Annotated[str, Field(description="Agency and product", examples=["FMI composite"])]
    credit: str
    observed_fraction: Annotated[float, Field(ge=0, le=1, description="Share of cells somebody looked at")]
    echo_fraction: Annotated[
        float, Field(ge=0, le=1, description="Share of observed cells with an echo above -10 dBZ")
    ]
    max_dbz: float | None = Field(description="Highest reflectivity [dBZ]; null if there is no echo")
    max_rain_rate_mm_h: float = Field(description="The same as a rain rate [mm/h]; 0 if there is no echo")
    zr: ZRelation
    href: str
    map: str


D = TypeVar("D", bound=Document)


def with_scores(scores: Iterable[Score]) -> Callable[[type[D]], type[D]]:
    """Return a decorator that gives a document one field for each score, after those it has."""
    fields: dict[str, Any] = {score.name: (Ratio, Field(description=str(score))) for score in scores}

    def add(document: type[D]) -> type[D]:
        return create_model(
            document.__name__, __base__=document, __module__=document.__module__, __doc__=document.__doc__,
            **fields,
        )  # fmt: skip

    return add


@with_scores(recorded_scores())
class _RecentRow(Document):
    """One lead time and threshold."""

    lead_minutes: LeadMinutes
    threshold_dbz: Annotated[float, Field(examples=[20.0])]


class LeadScore(_RecentRow):
    """How forecasts of this method did lately at one lead time and threshold."""

    forecasts: Annotated[int, Field(description="Forecasts behind these scores", examples=[288])]


class RecentScores(Document):
    """Scores of the same method over the day of valid times up to the issue time; empty before any truth."""

    start: Annotated[datetime, Field(alias="from")]
    end: Annotated[datetime, Field(alias="to")]
    rows: list[LeadScore]


class InputFrame(Document):
    """A frame a forecast was made from."""

    time: Time
    bridged: bool = Field(description="Made up between its neighbours because the radar frame is missing")


class Record(Document):
    """What a forecast says about itself."""

    domain: Annotated[str, Field(examples=["fmi"])]
    issue_time: Time
    answered_at: datetime
    age_seconds: Annotated[
        float, Field(description="Seconds from `issue_time` to `answered_at`", examples=[95.0])
    ]
    model: Annotated[str, Field(description="Method that made it", examples=["auto"])]
    model_version: Annotated[
        str, Field(description="Version, or hash of the weights", examples=["extrapolation 1"])
    ]
    degraded_reason: Annotated[
        str | None, Field(description="Why a better method did not answer; null if none should have")
    ]
    method_by_lead: Annotated[
        list[str],
        Field(
            description="Method behind each lead time, the shortest first; where `model` is `auto`, the one "
            "that the gate chose",
            examples=[["extrapolation", "extrapolation"]],
        ),
    ]
    choice_reason: Annotated[
        str | None,
        Field(
            description="Why the gate chose these methods, on what evidence; null where there was no choice"
        ),
    ]
    base_weights: Annotated[
        dict[str, float] | None,
        Field(
            description="What S-PROG's field was mixed with, and the weight an hour ahead that the last hour "
            "gave it; null where nothing was mixed",
            examples=[{"in place": 0.12, "along older motion": 0.03}],
        ),
    ]
    input_frames: list[InputFrame] = Field(description="Oldest first")
    step_minutes: Annotated[int, Field(examples=[5])]
    zr: ZRelation
    credit: Annotated[str, Field(examples=["Finnish Meteorological Institute"])]
    recent_scores: RecentScores


class ForecastLead(Document):
    """One lead time of a forecast."""

    lead_minutes: LeadMinutes
    valid_time: Annotated[datetime, Field(examples=[_VALID])]
    map: Annotated[
        str, Field(description="PNG", examples=[f"/v1/domains/fmi/forecasts/{_ISSUE}/map.png?lead=5"])
    ]


class Forecast(Record):
    """A forecast: its record, and where its numbers and pictures are."""

    models: list[str] = Field(description="Methods with a stored forecast of this issue time")
    leads: list[ForecastLead]
    href: str
    data: str = Field(description="The whole forecast as CF netCDF")


class ForecastEntry(Document):
    """A stored forecast."""

    issue_time: Time
    models: Annotated[list[str], Field(examples=[["extrapolation", "persistence"]])]
    href: str


class Forecasts(Document):
    """Stored forecasts, newest first."""

    domain: str
    forecasts: list[ForecastEntry]


class Cell(Document):
    """The grid cell an answer speaks of."""

    row: int
    column: int
    latitude: Latitude = Field(description="Of the cell's centre")
    longitude: Longitude = Field(description="Of the cell's centre")


class Observed(Document):
    """The newest observation at the point."""

    time: Time
    state: State
    reflectivity_dbz: Dbz
    rain_rate_mm_h: RainRate


class Expected(Document):
    """The forecast at the point for one lead time."""

    lead_minutes: LeadMinutes
    valid_time: Annotated[datetime, Field(examples=[_VALID])]
    state: State
    reflectivity_dbz: Dbz
    rain_rate_mm_h: RainRate


class Peak(Document):
    """The strongest moment of an event."""

    time: datetime
    rain_rate_mm_h: float


class Event(Document):
    """The first spell of rain in the series: consecutive times of at least 0.1 mm/h."""

    start: datetime = Field(description="First time with rain")
    already_raining: bool = Field(
        description="It rains at the newest observation, so the start may lie before it"
    )
    peak: Peak
    end: datetime | None = Field(description="First time without rain after it; null if `open_end` says why")
    open_end: Literal["horizon", "not_covered"] | None = Field(
        description="`horizon`: still raining at the last lead; `not_covered`: then nobody looks"
    )
    total_mm: float = Field(
        description="Rain [mm] of this spell within the forecast, each rate held for one step"
    )


class PointForecast(Document):
    """Rain at one point: observed, expected, and as an event."""

    latitude: Latitude
    longitude: Longitude
    cell: Cell
    outlook: Literal["rain", "dry", "unknown"] = Field(
        description="`unknown`: no rain in what is covered, but some lead times are not covered"
    )
    event: Event | None = Field(description="null without rain")
    observed: Observed | None = Field(description="null if no frame is archived")
    series: list[Expected]
    forecast: Record


@with_scores(window_scores())
class WindowRow(Document):
    """Scores in a square window."""

    window_km: float


class ScoreEntry(Document):
    """What a score is and how to read it."""

    name: Annotated[str, Field(description="Its key in a row", examples=["csi"])]
    label: Annotated[str, Field(examples=["CSI"])]
    long_name: Annotated[str, Field(examples=["critical success index"])]
    formula: Annotated[
        str,
        Field(
            description="With a hits, b false alarms, c misses, d correct negatives, n of all, "
            "H = a / (a + c), F = b / (b + d), f and o forecast and truth",
            examples=["a / (a + b + c)"],
        ),
    ]
    low: float = Field(description="Least value")
    high: float | None = Field(description="Largest value; null if there is none")
    perfect: float = Field(description="Value of a perfect forecast")
    better: Literal["larger", "smaller", "nearer"] = Field(description="`nearer`: to the perfect value")
    page: bool = Field(description="Whether the web page offers it")


@with_scores([*event_scores(), *field_scores()])
class _CountedRow(Document):
    """Counts of one method at one lead time and threshold."""

    model: Annotated[str, Field(examples=["extrapolation"])]
    lead_minutes: LeadMinutes
    threshold_dbz: Annotated[float, Field(examples=[20.0])]
    hits: int
    misses: int
    false_alarms: int
    correct_negatives: int


class VerificationRow(_CountedRow):
    """Scores of one method at one lead time and threshold, from counts pooled over all forecasts.

    Scores of whole fields are those of the lead, whatever the threshold.
    """

    fss: list[WindowRow] = Field(description="Scores in windows, the narrowest first")
    forecasts: int = Field(description="Forecasts counted")


class Verification(Document):
    """How well forecasts did, by method, lead time and threshold."""

    domain: str
    start: Annotated[datetime, Field(alias="from", description="First valid time counted")]
    end: Annotated[datetime, Field(alias="to", description="Last valid time counted")]
    zr: ZRelation
    mask_policy: str = Field(
        description="Which pixels count",
        examples=[
            "a pixel counts where the truth is observed; a forecast pixel without a value counts as no echo"
        ],
    )
    scores: list[ScoreEntry] = Field(description="The scores there are, in the order to show them")
    rows: list[VerificationRow]
