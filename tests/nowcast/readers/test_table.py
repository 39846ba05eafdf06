"""Every real file there is: read as what it is, or refused for the reason written here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import numpy as np
import pytest

from nowcast.errors import InputError, RefusedProduct
from nowcast.frame.frame import Quantity, check_is_frame
from nowcast.readers import read


@dataclass(frozen=True)
class Reads:
    """Files under ``pattern`` that are read, and what every frame of theirs is."""

    pattern: str
    files: int
    quantity: str
    interval_minutes: float | None
    shape: tuple[int, int]
    source: str
    frames: int = 1  # 0 reads the first frame only, of files with a day's each
    step_minutes: float = 0.0
    is_frame: bool = True
    at_once: int = 0  # so many of the files, evenly spread; all are read where that is 0, or by the slow test


@dataclass(frozen=True)
class Refused:
    """Files under ``pattern`` that are refused, and the sentence that says why."""

    pattern: str
    files: int
    because: str


NATIONAL, EXTENDED, OPERA_2KM, OPERA_1KM = (900, 900), (1100, 900), (2200, 1900), (4400, 3800)
PCP = "RAD_NL25_PCP"
RADOLAN = "formats/radolan/raa01-"

TABLE: list[Reads | Refused] = [
    # Trains and validation
    Reads("train/fmi_pgm/*/*.gz", 40, "DBZH", None, (1226, 760), "FMI SUOMI1 LOWEST"),
    Reads("*/mch_gif/*/*.gif", 80, "ACRR", 5, (640, 710), "MeteoSwiss AQC"),
    Reads("train/bom_rf3/*/*.nc", 144, "ACRR", 10, (512, 512), "BoM Rainfields MtStapl", at_once=19),
    Reads("train/cpol*/*.nc", 1, "RATE", 10, (117, 117), "CPOL product level 2", 144, 10),
    Reads("train/knmi_rap*/*.h5", 92, "ACRR", 5, (765, 700), "KNMI RAD_NL25_RAU_5mi", at_once=14),
    Reads("*/knmi_pcp_2021/*/*.hf5", 324, "DBZH", None, (765, 700), f"KNMI {PCP}_NA", at_once=36),
    Reads(
        "train/opera_odyssey*/*.hdf", 12, "RATE", None, OPERA_2KM, "OPERA RATE composite (COMP)", at_once=4
    ),
    Reads(
        "train/opera_cirrus*/*.hdf", 13, "DBZH", None, OPERA_1KM, "OPERA DBZH composite (MAX)", at_once=3
    ),
    Reads("train/dwd_radolan_yw*/*", 12, "ACRR", 5, EXTENDED, "DWD RADOLAN YW"),
    Reads(
        "train/openrainer*/*.nc", 1, "ACRR", 15, (290, 373),
        "OpenRainER-RP: radar 15-min accumulated precipitation", 11, 15,
    ),
    *(
        Reads(
            f"*/dpc_vmi_2025/{region}_*/*.nc", days, "DBZH", 10, shape,
            f"VMI reflectivity composite, {region}", 0,
        )
        for region, days, shape in (
            ("north", 23, (479, 617)), ("centre_south", 10, (591, 930)), ("campania", 10, (428, 353)),
        )
    ),
    Reads("val/dwd_radolan_ry_nc*/*.nc", 1, "ACRR", 5, NATIONAL, "DWD RADOLAN RY", 12, 5),
    # RADOLAN, RADVOR
    Reads("formats/dwd_radolan_ry_20200101/*.gz", 13, "ACRR", 5, NATIONAL, "DWD RADOLAN RY"),
    Reads(RADOLAN + "ex*", 1, "DBZH", 5, (1500, 1400), "DWD RADOLAN EX"),
    Reads(RADOLAN + "rx*", 2, "DBZH", 5, NATIONAL, "DWD RADOLAN RX"),
    Reads(RADOLAN + "wx*", 1, "DBZH", 5, EXTENDED, "DWD RADOLAN WX"),
    Reads(RADOLAN + "ry*", 1, "ACRR", 5, NATIONAL, "DWD RADOLAN RY"),
    Reads(RADOLAN + "rz*", 1, "ACRR", 5, NATIONAL, "DWD RADOLAN RZ"),
    Reads(RADOLAN + "rw*", 1, "ACRR", 60, NATIONAL, "DWD RADOLAN RW", is_frame=False),
    Reads(RADOLAN + "sf*", 1, "ACRR", 1440, NATIONAL, "DWD RADOLAN SF", is_frame=False),
    Reads("formats/radolan/radvor/*.tar.bz2", 1, "ACRR", 5, (1200, 1100), "DWD RADOLAN RV"),
    Reads("formats/radolan/radvor/RQ*_000.gz", 1, "ACRR", 60, NATIONAL, "DWD RADOLAN RQ", is_frame=False),
    Refused("formats/radolan/radvor/RQ*_060.gz", 1, "60 minutes ahead is a forecast"),
    Refused("formats/radolan/radvor/RQ*_120.gz", 1, "120 minutes ahead is a forecast"),
    Refused("formats/radolan/radvor/RE*.gz", 25, "RE is the aggregate state of precipitation"),
    # FMI, KNMI, MRMS, NIMROD
    Reads("formats/fmi_ravake/*.pgm", 1, "DBZH", None, (1826, 1160), "FMI RAVAKE LOWEST"),
    Reads("formats/knmi/RAD_NL25_PCP_CM*.h5", 1, "DBZH", None, (765, 700), f"KNMI {PCP}_CM"),
    Refused("formats/knmi/RAD_NL25_ETH*.h5", 1, r"holds HEIGHT_\[KM\]; expected REFLECTIVITY"),
    Reads("formats/mrms/MRMS_PrecipRate*", 1, "RATE", 2, (3500, 7000), "NOAA MRMS PrecipRate"),
    Reads(
        "formats/mrms/MRMS_Reflectivity*", 1, "DBZH", 2, (3500, 7000),
        "NOAA MRMS ReflectivityAtLowestAltitude",
    ),
    Reads(
        "formats/nimrod/input_preciprate.nimrod", 1, "RATE", None, (704, 548),
        "Met Office Rainfall rate Composite",
    ),
    Refused("formats/nimrod/input_coverage.nimrod", 1, r"field code 450"),
    Reads(
        "formats/nimrod/kgo_preciprate.nc", 1, "RATE", None, (704, 548), "Met Office rainfall_rate_composite"
    ),
    Refused("formats/nimrod/kgo_coverage.nc", 1, "holds no precipitation; its fields are arc_composite"),
    # ODIM
    Reads("formats/odim/2024-08-21*.h5", 1, "DBZH", None, OPERA_1KM, "OPERA DBZH composite (MAX)"),
    Reads(
        "formats/odim/2024-10-08*.h5", 1, "RATE", None, OPERA_2KM,
        "OPERA NIMBUS instantaneous rain rate composite",
    ),
    Reads("formats/odim/RAD_OPERA*.h5", 1, "RATE", None, OPERA_2KM, "OPERA RATE composite (COMP)"),
    Reads("formats/odim/comp4ctfilter.h5", 1, "DBZH", None, (1916, 1022), "SMHI DBZH composite (PPI)"),
    Reads(
        "formats/odim/composite_swe_gmap.h5", 1, "DBZH", None, (1090, 800),
        "eua_gmaps DBZH composite (PCAPPI)",
    ),
    Reads(
        "formats/odim/CPC*.h5", 1, "ACRR", 60, (640, 710), "MeteoSwiss CHCPC_00060", is_frame=False
    ),
    Reads(
        "formats/odim/belgium.comp.hdf", 1, "ACRR", 60, (700, 700),
        "NOD:behel,NOD:bejab,NOD:bewid,NOD:frave ACRR composite (QPE2_MFB)", is_frame=False,
    ),
    Reads(
        "formats/opera_nimbus*/T_PAAH22*.hdf", 1, "RATE", None, OPERA_2KM,
        "OPERA NIMBUS instantaneous rain rate composite",
    ),
    Reads(
        "formats/opera_nimbus*/T_PASH22*.hdf", 1, "ACRR", 60, OPERA_2KM,
        "OPERA NIMBUS 1-hour accumulation composite", is_frame=False,
    ),
    # Forecasts, archives and real-time sums that were read wrong
    Refused("faults/composite_rv_*_050-hd5", 1, "simulated is 'True': expected an observation"),
    Reads("faults/composite_rv_*.tar", 1, "ACRR", 5, (1200, 1100), "DWD RV_top_view"),
    Reads("faults/RAD_NL25_RAC_RT_0825.h5", 1, "ACRR", 5, (765, 700), "KNMI RAD_NL25_COR_CM"),
    # Météo-France, IRIS, GeoTIFF
    Reads(
        "formats/bufr/*.bufr.gz", 1, "DBZH", None, (1536, 1536), "Météo-France Mosaique metropole Z 1km"
    ),
    Reads("formats/iris/*.CAP*.gz", 1, "DBZH", None, (940, 940), "IRIS CAPPI Surgavere, Radar"),
    Reads("formats/iris/*.SRI*.gz", 1, "DBZH", None, (720, 720), "IRIS SRI Surgavere, Radar"),
    Reads("formats/iris/*.MAX*.gz", 1, "RATE", None, (660, 660), "IRIS MAX Surgavere, Radar"),
    Refused("formats/iris/*.HMX*.gz", 1, "the product HMAX"),
    Refused("formats/iris/*.TOP*.gz", 1, "the product TOPS"),
    Reads("faults/geotiff_dbz_undeclared*.tif", 3, "DBZH", None, (64, 64), "GeoTIFF"),
    Reads("faults/201609281445_FINUTM.tif", 1, "DBZH", None, (7316, 4963), "GeoTIFF"),
    Reads("faults/dry_frame_in_the_middle/*.nc", 4, "RATE", None, (64, 64), "netCDF rain_rate"),
    # Forecasts, units, ranges and attributes of netCDF
    Refused("faults/pysteps_forecast*.nc", 1, "forecast"),
    Reads("faults/goes_like*.nc", 1, "RATE", None, (40, 50), "netCDF RRQPE"),
    Reads("faults/netcdf4_null*.nc", 1, "RATE", None, (40, 50), "netCDF rain_rate"),
    Reads("faults/unit_kg*.nc", 1, "RATE", None, (40, 50), "netCDF rain_rate"),
    Reads("faults/RADNL_OPER*.nc", 1, "RATE", None, (765, 700), "RADNL_OPER_R___25PCPRR_L3"),
    # Places written in ways that were taken wrong before
    Reads("faults/*_grid_mapping*.nc", 4, "RATE", None, (40, 50), "netCDF rain_rate"),
    Reads("faults/us_lon_0_360*.nc", 1, "RATE", None, (40, 50), "netCDF rain_rate"),
    Reads("faults/openMRG_example*.nc", 1, "RATE", 5, (48, 37), "OpenMRG-Radar", 19, 5),
    Reads(
        "faults/RAD_CU21*.h5", 1, "DBZH", None, (720, 720),
        "WMO:0,PLC:Composite DBZH composite (CAPPI)",
    ),
    # Rain in units nobody states
    Refused("formats/openmrg*/openMRG_Radar_180minutes.nc", 1, "'rainfall_amount' states no unit"),
    Refused("formats/openmrg*/openmrg_rad.nc", 1, "'rainfall_amount' states the unit 'sum 5min'"),
]  # fmt: skip


@pytest.mark.parametrize("row", [row for row in TABLE if isinstance(row, Reads)], ids=lambda row: row.pattern)
def test_files_are_read_as_what_they_are(shared_data, row):
    paths = sorted(shared_data.glob(row.pattern))
    assert len(paths) == row.files
    assert_are(row, evenly_spread(paths, row.at_once or len(paths)))


@pytest.mark.slow
def test_all_files_of_the_long_events_are_read_as_what_they_are(shared_data):
    for row in (row for row in TABLE if isinstance(row, Reads) and row.at_once):
        assert_are(row, sorted(shared_data.glob(row.pattern)))


def evenly_spread(paths, count):
    """Return the first, the last and others evenly between them; they reach into every event of a row."""
    return [paths[i] for i in np.linspace(0, len(paths) - 1, count).round().astype(int)]


def test_the_files_read_at_once_are_of_every_event(shared_data):
    for row in (row for row in TABLE if isinstance(row, Reads) and row.at_once):
        paths = sorted(shared_data.glob(row.pattern))
        some = evenly_spread(paths, row.at_once)
        assert len(set(some)) == row.at_once
        assert {path.parent for path in some} == {path.parent for path in paths}


def assert_are(row, paths):
    """Assert that every frame of the files is what a row of the table says."""
    for path in paths:
        previous, count = None, 0
        for raw in islice(read(path), row.frames + 1 if row.frames else 1):
            assert (raw.quantity, raw.source) == (row.quantity, row.source), path.name
            assert raw.interval_minutes == row.interval_minutes, path.name
            assert raw.values.shape == row.shape
            assert_states_are_kept_apart(raw, path.name)
            if previous is not None:
                assert raw.time - previous == timedelta(minutes=row.step_minutes)
            previous, count = raw.time, count + 1
            if row.is_frame:
                check_is_frame(raw)
            else:
                with pytest.raises(RefusedProduct, match="is not a frame of a nowcast"):
                    check_is_frame(raw)
        assert count == (row.frames or 1), path.name


def assert_states_are_kept_apart(raw, name):
    """Missing, no echo and values are each what a raw frame says; all but CPOL's gaps observe something."""
    is_reflectivity = raw.quantity in (Quantity.DBZH, Quantity.TH)
    low, high = (-100.0, 100.0) if is_reflectivity else (0.0, 10_000.0)
    some = False
    for rows in np.array_split(raw.values, -(-raw.values.size // 2**16)):  # a copy of the whole takes longer
        observed = rows == rows
        some = some or observed.any()
        values = rows[observed & (rows != -np.inf)] if is_reflectivity else rows[observed]
        assert values.size == 0 or (low <= values.min() and values.max() <= high), name
    assert some or "CPOL" in raw.source, name


@pytest.mark.parametrize(
    "row", [row for row in TABLE if isinstance(row, Refused)], ids=lambda row: row.pattern
)
def test_files_are_refused_for_their_reason(shared_data, row):
    paths = sorted(shared_data.glob(row.pattern))
    assert len(paths) == row.files
    for path in paths:
        with pytest.raises(InputError, match=row.because) as refusal:
            next(read(path))
        assert refusal.type is RefusedProduct
        assert path.name.removesuffix(".gz") in str(refusal.value), "the sentence names the file"


def test_every_file_stands_in_exactly_one_row(shared_data):
    listed = [path for row in TABLE for path in shared_data.glob(row.pattern)]
    there = {
        path
        for path in shared_data.rglob("*")
        if path.is_file() and path.name != "README.md" and "LICENCES" not in path.parts
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == there
