"""What the tags of a GeoTIFF tell: quantity, scaling, states, time and interval, however they are wrapped."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nowcast.errors import RefusedProduct, UnreadableFile
from nowcast.frame.frame import Quantity
from nowcast.readers.forecasts import WORDS, denies, refuse_forecast
from nowcast.readers.source import parse_time

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

#: Quantity of a unit, in lower case and without spaces and dots.
_UNITS = {
    "dbz": Quantity.DBZH,
    "dbzh": Quantity.DBZH,
    "mm/h": Quantity.RATE,
    "mm/hr": Quantity.RATE,
    "mm/hour": Quantity.RATE,
    "mmh-1": Quantity.RATE,
    "mmhr-1": Quantity.RATE,
    "mmh^-1": Quantity.RATE,
    "mmh**-1": Quantity.RATE,
    "kgm-2h-1": Quantity.RATE,
    "kg/m2/h": Quantity.RATE,
    "mm": Quantity.ACRR,
    "kgm-2": Quantity.ACRR,
    "kg/m2": Quantity.ACRR,
}

#: Tags that tell a time of observation, in the order they are asked; spaces count as underscores.
_TIME_TAGS = ("observation_time", "valid_time", "nominal_time", "timestamp", "time")

#: Tags that tell when a forecast was made; in an observation they are not before its time.
_ISSUE_TAGS = ("reference_time", "issue_time", "analysis_time", "forecast_reference_time", "model_run")

#: Tags in which a description may call the image a forecast.
_DESCRIPTIONS = ("title", "description", "product", "quantity", "long_name", "standard_name", "parameter")

#: One item of GDAL's metadata: its attributes and its text.
_ITEM = re.compile(r"<Item\s([^<>]{1,400})>([^<]{0,400})</Item>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")

#: Longest metadata [bytes] looked at; FMI's are under 1000.
_LONGEST_METADATA = 1_000_000

#: Times the metadata are unescaped at most: programs that copy them as text escape them once more.
_MOST_ESCAPES = 4

#: Minutes in the units an interval is told in.
_MINUTES = {"h": 60.0, "hour": 60.0, "min": 1.0, "minutes": 1.0, "s": 1.0 / 60.0}

#: Date and time in a file name: 12 or 14 digits, or 8 and then 4 or 6.
_STAMP = re.compile(r"(?<!\d)(20\d{6})[-_T]?(\d{4}(?:\d\d)?)(?!\d)")

#: Time in a file name and creation time of the image may differ by this and still be the same.
_SAME_TIME = timedelta(minutes=1)


def quantity_of(units: set[str]) -> Quantity | None:
    """Return the quantity that all of these units mean, ``None`` if they are none, unknown or differ."""
    meant = {_UNITS.get(re.sub(r"[\s.·]", "", unit).lower()) for unit in units}
    return meant.pop() if len(meant) == 1 else None


@dataclass(frozen=True)
class Tags:
    """The tags of one band and of its image.

    Attributes:
        name: File name, for messages and for the time.
        texts: Text of each tag by its name in lower case, spaces as underscores.
        units: Unit of each tag that has one: an attribute that GDAL drops.
        band_unit: Unit of the band.
    """

    name: str
    texts: dict[str, str]
    units: dict[str, str]
    band_unit: str

    def text(self, *keys: str) -> str | None:
        """Return the text of the first of these tags that has any."""
        return next((self.texts[key] for key in keys if self.texts.get(key)), None)

    def number(self, *keys: str) -> float | None:
        """Return the number of the first of these tags that has any text; ``none`` is no number.

        Raises:
            UnreadableFile: If text stands where a number belongs.
        """
        text = self.text(*keys)
        if text is None or text.lower() in ("none", "null"):
            return None
        try:
            return float(text)
        except ValueError as error:
            raise UnreadableFile(f"{self.name}: the tag {keys[0]!r} is no number: {text[:40]!r}") from error

    def quantity(self) -> Quantity:
        """Return what the numbers are.

        Raises:
            RefusedProduct: If the tags tell no unit of precipitation, or two.
        """
        told = {self.band_unit, self.text("unit"), self.text("units"), self.units.get("quantity")}
        units = {unit for unit in told if unit}
        quantity = quantity_of(units)
        if quantity is None:
            raise RefusedProduct(
                f"{self.name}: the tags must tell one unit, dBZ, mm/h or mm, "
                f"but tell {', '.join(sorted(units)) or 'none'}"
            )
        return quantity

    def scaling(self, scale: float, offset: float) -> tuple[float, float] | None:
        """Return gain and offset as tags or the band tell them, ``None`` if neither does.

        Raises:
            RefusedProduct: If they contradict each other.
        """
        gain, add = self.number("gain", "scale_factor"), self.number("offset", "add_offset")
        of_band = None if (scale, offset) == (1.0, 0.0) else (scale, offset)
        if gain is None and add is None:
            return of_band
        told = (1.0 if gain is None else gain, 0.0 if add is None else add)
        if of_band not in (None, told):
            raise RefusedProduct(
                f"{self.name}: the band's scale and offset are {scale:g} and {offset:g}, "
                f"the tags say {told[0]:g} and {told[1]:g}"
            )
        return told

    def interval(self) -> float | None:
        """Return the minutes an accumulation covers."""
        minutes = self.number("interval_minutes", "accumulation_minutes")
        unit = self.units.get("accumulation_time", "")
        if minutes is None and unit in _MINUTES:
            told = self.number("accumulation_time")
            minutes = None if told is None else told * _MINUTES[unit]
        return minutes

    def time(self) -> tuple[datetime, str]:
        """Return the time of observation and who tells it.

        A tag that names the observation counts most. The DateTime tag of TIFF is by its definition the time
        of the image's creation (TIFF 6.0, section 8): it serves, unless the file name tells another time.

        Raises:
            UnreadableFile: If nothing tells a time, or two are told.
        """
        told = {key: _spelt(self.texts[key], self.name) for key in _TIME_TAGS if self.texts.get(key)}
        if len(set(told.values())) > 1:
            listed = ", ".join(f"{key} {time:%Y-%m-%dT%H:%MZ}" for key, time in told.items())
            raise UnreadableFile(f"{self.name}: the tags tell more than one time: {listed}")
        if told:
            return next(iter(told.values())), "tag"
        named = self._named()
        text = self.texts.get("tifftag_datetime")
        created = _spelt(text, self.name) if text else None
        if named and created and abs(named - created) >= _SAME_TIME:
            raise UnreadableFile(
                f"{self.name}: the file name says {named:%Y-%m-%dT%H:%MZ} and the tag DateTime "
                f"{created:%Y-%m-%dT%H:%MZ}; a tag 'observation_time' would decide"
            )
        if created:
            return created, "tag"
        if named:
            return named, "file name"
        raise UnreadableFile(f"{self.name}: neither a tag nor the file name tells the time of observation")

    def _named(self) -> datetime | None:
        """Return the time in the file name, such as ``202405010005`` or ``20240501_0005``."""
        stamps = {(day + clock).ljust(14, "0") for day, clock in _STAMP.findall(self.name)}
        if len(stamps) > 1:
            raise UnreadableFile(
                f"{self.name}: the file name holds {len(stamps)} times and no tag tells that of observation"
            )
        return parse_time(stamps.pop(), "%Y%m%d%H%M%S", self.name) if stamps else None

    def refuse_forecast(self, time: datetime) -> None:
        """Refuse an image that its name or tags call a forecast, or that was made for a later time.

        Raises:
            RefusedProduct: If they do.
        """
        refuse_forecast(self.name, *(self.texts.get(key, "") for key in _DESCRIPTIONS))
        for key, text in self.texts.items():
            if key in _ISSUE_TAGS or WORDS.search(key.replace("_", " ")):
                if denies(text) or self._is_time(text, time):
                    continue
            elif key != "grib_ref_time" or text == self.texts.get("grib_valid_time", text):
                continue
            raise RefusedProduct(
                f"{self.name}: a forecast, not an observation: the tag {key!r} says {text[:40]!r}"
            )

    def _is_time(self, text: str, time: datetime) -> bool:
        try:
            return abs(_spelt(text, self.name) - time) < _SAME_TIME
        except UnreadableFile:
            return False


def read_tags(dataset: DatasetReader, band: int, content: bytes, name: str) -> Tags:
    """Return the tags of a band (from 1) and of the image; those of the band count more.

    FMI's items carry their unit in an attribute that GDAL drops, and some programs store the whole metadata
    of their input, escaped, as the text of one item: so the metadata are read once more as they are written.

    Raises:
        UnreadableFile: If an item is told twice and differently.
    """
    texts: dict[str, str] = {}
    units: dict[str, str] = {}
    for attributes, text in _ITEM.findall(_metadata(content)):
        given = {key.lower(): html.unescape(value) for key, value in _ATTRIBUTE.findall(attributes)}
        key = _key(given.get("name", ""))
        if "role" in given or given.get("sample", str(band - 1)) != str(band - 1):
            continue  # what GDAL itself reads into the band's own fields, or of another band
        if texts.setdefault(key, text.strip()) != text.strip():
            raise UnreadableFile(f"{name}: the metadata tell {key!r} twice and differently")
        if given.get("unit"):
            units[key] = given["unit"].strip()
    for given in (dataset.tags(), dataset.tags(band)):
        texts.update((_key(key), str(value).strip()) for key, value in given.items())
    texts.pop("gdal_metadata", None)
    return Tags(name=name, texts=texts, units=units, band_unit=dataset.units[band - 1] or "")


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _metadata(content: bytes) -> str:
    """Return GDAL's metadata (tag 42112), an XML text, with every level of escapes resolved."""
    start = content.find(b"<GDALMetadata")
    end = content.find(b"</GDALMetadata>", start)
    if not 0 <= start < end <= start + _LONGEST_METADATA:
        return ""
    text = content[start:end].decode("utf-8", "replace")
    for _ in range(_MOST_ESCAPES):
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def _spelt(text: str, name: str) -> datetime:
    """Return the time of an ISO 8601 text, or of 12 or 14 digits; without an offset it is UTC."""
    if re.fullmatch(r"\d{12}(\d\d)?", text):
        return parse_time(text.ljust(14, "0"), "%Y%m%d%H%M%S", name)
    if re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
        return parse_time(text, "%Y:%m:%d %H:%M:%S", name)
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnreadableFile(f"{name}: {text!r} is no time") from error
