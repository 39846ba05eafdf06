"""Echo classes: known answers on simple fields, a direct computation, and a real frame."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.fanet.echo_classes import (
    CLUTTER_DBZ,
    ECHO_DBZ,
    EchoClass,
    background_dbz,
    convective_area,
    disk_sum,
    echo_classes,
    inject_clutter,
)
from models.fanet.segmentation import IGNORED
from nowcast.readers import read

#: Cells of 1 km within 11 km and 3 km of one.
CELLS_11, CELLS_3 = 377, 29


def rain(dbz: float, peak: float | None = None, *, cells: int = 41) -> Tensor:
    """Return even rain of ``dbz``, with one cell of ``peak`` in the middle."""
    field = torch.full((cells, cells), dbz)
    if peak is not None:
        field[cells // 2, cells // 2] = peak
    return field


def test_even_rain_is_stratiform_up_to_the_edge() -> None:
    assert (echo_classes(rain(30.0), 1.0) == EchoClass.STRATIFORM).all()


def test_even_rain_of_40_dbz_is_convective_whatever_its_texture() -> None:
    assert (echo_classes(rain(39.9), 1.0) == EchoClass.STRATIFORM).all()
    assert (echo_classes(rain(40.0), 1.0) == EchoClass.CONVECTIVE).all()


def test_a_peak_is_convective_with_its_four_neighbours_in_a_weak_background() -> None:
    classes = echo_classes(rain(20.0, 35.0), 1.0)
    expected = torch.full((41, 41), int(EchoClass.STRATIFORM))
    expected[19:22, 20] = EchoClass.CONVECTIVE
    expected[20, 19:22] = EchoClass.CONVECTIVE
    assert torch.equal(classes, expected)


def test_a_lone_peak_makes_nothing_convective_that_is_dry() -> None:
    field = rain(-10.0, 45.0)
    field[20, 21:30] = 10.0
    convective = convective_area(field, 1.0)
    assert convective.sum() == 5  # within 4 km of the peak: its background is 35.01 dBZ
    assert convective[20, 20:25].all()


def test_the_same_reflectivity_has_another_class_in_other_surroundings() -> None:
    assert echo_classes(rain(20.0, 35.0), 1.0)[20, 20] == EchoClass.CONVECTIVE
    assert echo_classes(rain(33.0, 35.0), 1.0)[20, 20] == EchoClass.STRATIFORM


@pytest.mark.parametrize("background", [6.0, 20.0, 35.0])
@pytest.mark.parametrize(("above", "convective"), [(0.05, True), (-0.05, False)])
def test_the_excess_a_peak_needs_falls_with_its_background(
    background: float, above: float, convective: bool
) -> None:
    def excess(peak: float) -> float:
        mean = 10 * math.log10((10 ** (peak / 10) + (CELLS_11 - 1) * 10 ** (background / 10)) / CELLS_11)
        return peak - mean - (10 - mean**2 / 180)

    low, high = background, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    assert low < 40
    assert bool(convective_area(rain(background, low + above), 1.0)[20, 20]) is convective


@pytest.mark.parametrize(
    ("background", "cells"), [(22.0, 5), (27.0, 13), (32.0, CELLS_3), (37.0, 49), (39.7, 49)]
)
def test_the_convective_radius_grows_with_the_background(background: float, cells: int) -> None:
    assert convective_area(rain(background, 45.0), 1.0).sum() == cells


def test_the_convective_radius_is_5_km_where_the_background_reaches_40_dbz() -> None:
    assert convective_area(rain(39.9, 56.0), 1.0).sum() == 81


def test_the_background_is_the_mean_of_z_over_echoes_alone() -> None:
    field = torch.full((1, 40), -10.0)
    field[0, :6], field[0, 6:12] = 20.0, 40.0
    assert background_dbz(field, 1.0)[0, 0] == pytest.approx(10 * math.log10((100 + 10_000) / 2), abs=1e-4)
    assert background_dbz(field, 1.0)[0, 22] == pytest.approx(40.0, abs=1e-4)
    assert background_dbz(field, 1.0)[0, 23].isnan()


def test_what_was_not_observed_has_no_class_and_no_part_in_any_background() -> None:
    field = rain(20.0, 35.0)
    field[:, 21:] = torch.nan
    classes = echo_classes(field, 1.0)
    assert (classes[:, 21:] == IGNORED).all()
    assert (classes[:, :21] != IGNORED).all()
    assert background_dbz(field, 1.0)[0, 0] == pytest.approx(20.0, abs=1e-4)


def test_dry_cells_are_no_echo_however_dry_is_written() -> None:
    for dry in (-torch.inf, -32.0, -10.0, 4.9):
        field = rain(30.0)
        field[:10] = dry
        assert (echo_classes(field, 1.0)[:10] == EchoClass.NO_ECHO).all()
        assert (echo_classes(field, 1.0)[10:] == EchoClass.STRATIFORM).all()


def test_even_drizzle_is_weak_and_a_core_of_hail_intense() -> None:
    assert (echo_classes(rain(18.0), 1.0) == EchoClass.WEAK).all()
    classes = echo_classes(rain(30.0, 53.0), 1.0)
    assert (classes == EchoClass.INTENSE).sum() == 1
    assert (classes == EchoClass.CONVECTIVE).sum() == CELLS_3 - 1


def test_known_clutter_is_told_apart_and_does_not_make_its_surroundings_convective() -> None:
    field = rain(20.0, 50.0)
    clutter = torch.zeros(41, 41, dtype=torch.bool)
    clutter[20, 20] = True
    classes = echo_classes(field, 1.0, clutter=clutter)
    assert classes[20, 20] == EchoClass.NON_METEOROLOGICAL
    assert (classes == EchoClass.STRATIFORM).sum() == 41 * 41 - 1


def test_radii_are_kilometres_whatever_the_cell() -> None:
    coarse, fine = rain(32.0, 45.0), rain(32.0, 45.0, cells=81)
    half = convective_area(fine, 0.5).sum()
    assert convective_area(coarse, 1.0).sum() == CELLS_3
    assert half == sum(1 for i in range(-6, 7) for j in range(-6, 7) if i * i + j * j <= 36)
    assert convective_area(fine, (1.0, 0.5)).any(0).sum() == 13
    assert convective_area(fine, (1.0, 0.5)).any(1).sum() == 7


def test_cells_a_few_millimetres_too_large_keep_their_neighbours() -> None:
    field = rain(20.0, 35.0)
    assert torch.equal(convective_area(field, 1.000003), convective_area(field, 1.0))


def test_the_disk_sum_is_that_of_a_direct_count() -> None:
    field = torch.rand(2, 9, 13, generator=torch.Generator().manual_seed(1))
    height, width, radius = 1.0, 0.7, 2.6
    expected = torch.zeros(2, 9, 13, dtype=torch.float64)
    for y in range(9):
        for x in range(13):
            for v in range(9):
                for u in range(13):
                    if ((v - y) * height) ** 2 + ((u - x) * width) ** 2 <= radius**2:
                        expected[:, y, x] += field[:, v, u]
    torch.testing.assert_close(disk_sum(field, radius, (height, width)), expected, rtol=1e-12, atol=1e-12)


def test_the_convective_area_is_that_of_a_direct_computation() -> None:
    generator = torch.Generator().manual_seed(2)
    field = (
        torch.nn.functional.interpolate(
            torch.rand(1, 1, 8, 8, generator=generator), size=(30, 34), mode="bilinear"
        )[0, 0]
        * 50
    )
    field += 6 * torch.rand(30, 34, generator=generator)
    field[4:7, 5:9] = torch.nan
    echo = [(y, x) for y in range(30) for x in range(34) if field[y, x] >= ECHO_DBZ]
    z = {at: 10 ** (float(field[at]) / 10) for at in echo}
    expected = torch.zeros(30, 34, dtype=torch.bool)
    for y, x in echo:
        near = [z[at] for at in echo if math.dist(at, (y, x)) <= 11]
        background = 10 * math.log10(sum(near) / len(near))
        excess = 10 if background < 0 else max(0, 10 - background**2 / 180)
        if field[y, x] >= 40 or field[y, x] - background >= excess:
            radius = 1 + sum(background >= step for step in (25, 30, 35, 40))
            for at in echo:
                if math.dist(at, (y, x)) <= radius:
                    expected[at] = True
    area = convective_area(field, 1.0)
    assert 0.05 < expected.float().mean() < 0.95
    assert torch.equal(area, expected)


def test_frames_of_a_batch_are_classified_each_on_its_own() -> None:
    fields = torch.stack([rain(20.0, 35.0), rain(30.0), rain(0.0)])[:, None]
    for classes, field in zip(echo_classes(fields, 1.0), fields, strict=True):
        assert torch.equal(classes, echo_classes(field, 1.0))


def test_impossible_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 11"):
        background_dbz(rain(20.0), 12.0)
    with pytest.raises(ValueError, match="above 0 km"):
        background_dbz(rain(20.0), (1.0, 0.0))


def test_injected_clutter_stays_in_place_flickers_and_leaves_the_rest_alone() -> None:
    dbz = torch.full((2, 3, 40, 40), -10.0)
    dbz[:, :, :4] = torch.nan
    dbz[:, :, 36:] = 55.0
    seen, clutter = inject_clutter(dbz, 0.005, generator=torch.Generator().manual_seed(3))
    assert 0.01 < clutter.float().mean() < 0.3
    assert torch.equal(clutter[:, 0], clutter[:, 2])
    assert not torch.equal(clutter[0], clutter[1])
    assert not torch.equal(seen[:, 0][clutter[:, 0]], seen[:, 1][clutter[:, 1]])
    assert torch.equal(seen[~clutter].nan_to_num(), dbz[~clutter].nan_to_num())
    assert not clutter[:, :, :4].any()
    assert not clutter[:, :, 36:].any()
    assert seen[clutter].min() >= CLUTTER_DBZ[0]
    assert seen[clutter].max() <= CLUTTER_DBZ[1]
    again, _ = inject_clutter(dbz, 0.005, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again.nan_to_num(), seen.nan_to_num())
    labels = echo_classes(seen, 1.0, clutter=clutter)
    assert torch.equal(labels == EchoClass.NON_METEOROLOGICAL, clutter)


def test_a_real_frame_of_showers_has_convective_cores_in_weaker_rain(shared_data: Path) -> None:
    path = sorted((shared_data / "train" / "fmi_pgm" / "20170509").iterdir())[0]
    frame = next(iter(read(path)))
    dbz = torch.from_numpy(frame.values.copy())
    classes = echo_classes(dbz, (frame.grid.dy / 1000, frame.grid.dx / 1000))
    assert torch.equal(classes == IGNORED, dbz.isnan())
    assert torch.equal(classes == EchoClass.NO_ECHO, dbz < ECHO_DBZ)
    raining = (classes >= EchoClass.STRATIFORM).sum()
    assert 0.1 < (classes >= EchoClass.CONVECTIVE).sum() / raining < 0.5
    assert (classes[dbz >= 40] >= EchoClass.CONVECTIVE).all()
    assert dbz[classes == EchoClass.CONVECTIVE].mean() > dbz[classes == EchoClass.STRATIFORM].mean() + 1
