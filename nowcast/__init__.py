"""Radar frames in, verified precipitation forecasts out: everything that is true of radar and forecasts."""

import os
import sys
from contextlib import suppress
from importlib import import_module

__version__ = "0.1.0"


def _bind_proj() -> None:
    """Load what uses PROJ so that it finds its own, where eccodes has put another before all (decision 0016).

    Raises:
        ImportError: If pyproj was loaded in between and found the wrong one: that cannot be undone.
    """
    if "pyproj" in sys.modules:
        pyproj = sys.modules["pyproj"]
        try:
            pyproj.CRS.from_epsg(4326)
        except pyproj.exceptions.CRSError as error:
            raise ImportError(
                "pyproj was imported after eccodes and found the PROJ library of eccodes instead of its own; "
                "import nowcast or pyproj first, or install eccodeslib below 2.48.3"
            ) from error
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        import_module("pyproj")
        with suppress(ImportError):  # an extra
            import_module("rasterio")
    finally:
        sys.setdlopenflags(flags)


if "gribapi" in sys.modules:
    _bind_proj()
