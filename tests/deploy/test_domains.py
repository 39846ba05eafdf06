"""The example of domains: what the service reads it as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nowcast.frame.domain import Domain
from nowcast.settings import load_domains


@pytest.fixture(scope="module")
def domains(project: Path) -> dict[str, Domain]:
    return load_domains(project / "deploy" / "nowcast.toml")


def test_the_example_has_a_domain_for_each_public_feed(domains: dict[str, Domain]) -> None:
    steps = {name: domain.step_minutes for name, domain in domains.items()}
    assert steps == {
        "fmi": 5,
        "meteoswiss": 5,
        "dwd": 5,
        "knmi": 5,
        "opera": 5,
        "mrms": 2,
        "brisbane": 10,
    }


def test_every_domain_has_a_name_for_people_a_credit_and_an_hour_of_leads(domains: dict[str, Domain]) -> None:
    for domain in domains.values():
        assert domain.title
        assert domain.credit
        assert domain.leads * domain.step_minutes >= 60


def test_the_european_grid_covers_what_opera_sends(domains: dict[str, Domain], shared_data: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pyproj = pytest.importorskip("pyproj")
    grid = domains["opera"].grid
    assert grid is not None
    newest = sorted((shared_data / "train" / "opera_cirrus_dbzh_20241126").iterdir())[-1]
    with h5py.File(newest) as file:
        where = dict(file["where"].attrs)
    to_plane = pyproj.Transformer.from_crs("OGC:CRS84", grid.crs_wkt, always_xy=True)
    west, north = to_plane.transform(where["UL_lon"], where["UL_lat"])
    east, south = to_plane.transform(where["LR_lon"], where["LR_lat"])
    ours = (
        grid.x0 - grid.dx / 2,
        grid.y0 + grid.dy / 2,
        grid.x0 + (grid.nx - 0.5) * grid.dx,
        grid.y0 - (grid.ny - 0.5) * grid.dy,
    )
    np.testing.assert_allclose(ours, (west, north, east, south), atol=1.0)  # metres
    assert (grid.dx, grid.nx) == (2 * where["xscale"], where["xsize"] // 2)
