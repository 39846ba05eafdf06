"""eccodes brings a PROJ library of its own: in every order of imports ours finds the right one."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

pytest.importorskip("eccodes", reason="the extra 'grib' is not installed")

PROJECT = Path(__file__).resolve().parents[3]

WORKS = """
import numpy
from pyproj import CRS, Transformer
assert CRS.from_epsg(4326).name == "WGS 84"
x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(5.0, 52.0)
assert abs(x - 556597.454) < 0.01 and abs(y - 6800125.454) < 0.01
from nowcast.frame.grid import Grid
grid = Grid.from_crs("EPSG:3067", nx=2, ny=2, x0=320000, y0=6880000, dx=1000, dy=1000)
assert abs(grid.xy_to_lonlat(320000.0, 6880000.0)[1] - 62.0138) < 0.01
print("works")
"""

RASTERIO = """
from rasterio.crs import CRS as Raster
assert Raster.from_epsg(3857).to_wkt().startswith("PROJCS")
"""

#: Without the engines that other packages bring: xarray imports all there are, and none but cfgrib matters.
OPEN_DATASET = """
import importlib.metadata as metadata
found = metadata.entry_points
metadata.entry_points = lambda **which: metadata.EntryPoints(
    entry for entry in found(**which) if which.get("group") != "xarray.backends" or entry.name == "cfgrib"
)
import xarray, numpy, tempfile, pathlib
path = pathlib.Path(tempfile.mkdtemp()) / "a.nc"
xarray.Dataset({"a": ("x", numpy.arange(3.0))}).to_netcdf(path, engine="h5netcdf")
with xarray.open_dataset(path) as opened:
    assert opened["a"].values.tolist() == [0.0, 1.0, 2.0]
import sys
assert "eccodes" in sys.modules, "xarray has imported it for cfgrib"
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=100,
    )


@cache
def brings_proj() -> bool:
    found = run(
        "import eckitlib, pathlib; here = pathlib.Path(eckitlib.__file__).parents[1]; "
        "print(*here.glob('eckitlib.libs/libproj*'))"
    )
    return bool(found.stdout.strip())


ORDERS = list(permutations(["import eccodes", "import pyproj", "import nowcast.frame.grid"]))


@pytest.mark.parametrize("order", ORDERS, ids="; ".join)
def test_every_order_of_imports_works_or_says_what_to_do(order):
    found = run("\n".join(order) + WORKS)
    if order == ("import eccodes", "import pyproj", "import nowcast.frame.grid") and brings_proj():
        assert "import nowcast or pyproj first, or install eccodeslib below" in found.stderr
        assert found.returncode != 0
    else:
        assert found.stdout == "works\n", found.stderr
        assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import eccodes\nimport nowcast",
        "from nowcast.readers.eccodes_last import load_eccodes\nload_eccodes()",
    ],
)
def test_rasterio_finds_its_own_too(first):
    pytest.importorskip("rasterio", reason="the extra 'geo' is not installed")
    found = run(first + RASTERIO + WORKS)
    assert (found.returncode, found.stdout) == (0, "works\n"), found.stderr


@pytest.mark.parametrize(
    "order", [OPEN_DATASET + "import nowcast", "import nowcast.frame.grid" + OPEN_DATASET]
)
def test_a_notebook_that_opens_a_file_with_cfgrib_installed_works(order):
    pytest.importorskip("cfgrib", reason="cfgrib is an oracle, not a dependency")
    if order.startswith(OPEN_DATASET) and brings_proj():
        pytest.skip("the eccodeslib installed is newer than pyproject allows")
    found = run(order + WORKS)
    assert (found.returncode, found.stdout) == (0, "works\n"), found.stderr
