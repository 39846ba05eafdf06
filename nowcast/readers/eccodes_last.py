"""The eccodes library, loaded behind those it would disturb (docs/decisions/0016)."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any


def load_eccodes() -> Any:
    """Return the module ``eccodes``, after everything that must find its own PROJ library before it.

    Raises:
        ImportError: If it is not installed.
    """
    import_module("pyproj")
    with suppress(ImportError):  # another extra
        import_module("rasterio")
    return import_module("eccodes")
