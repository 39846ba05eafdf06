from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nowcast.rendering.palette import CLASSES, FIRST_CLASS, NO_ECHO, NOT_OBSERVED_CODE, classify, colour_table
from nowcast.rendering.themes import THEMES

#: Simulation of complete colour-blindness in linear RGB: Machado, Oliveira and Fernandes (2009), A
#: physiologically based model for simulation of color vision deficiency, doi:10.1109/TVCG.2009.113,
#: severity 1.0.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}

#: sRGB to CIE XYZ (IEC 61966-2-1), and the white point D65.
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
D65 = np.array([0.95047, 1.0, 1.08883])


def seen(colours, sight: str) -> np.ndarray:
    """Return CIELAB coordinates (n, 3) of sRGB colours (n, 3) as an eye sees them."""
    srgb = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ SIGHTS[sight].T, 0, 1) @ XYZ.T / D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def ciede2000(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the colour difference of Sharma, Wu and Dalal (2005), doi:10.1002/col.20070, row by row."""
    (l1, a1, b1), (l2, a2, b2) = one.T, other.T
    c_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians((h2 - h1 + 180) % 360 - 180) / 2)
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = np.where(np.abs(h1 - h2) > 180, (h1 + h2 + 360) / 2, (h1 + h2) / 2)
    t = (
        1
        - 0.17 * np.cos(np.radians(h_mean - 30))
        + 0.24 * np.cos(np.radians(2 * h_mean))
        + 0.32 * np.cos(np.radians(3 * h_mean + 6))
        - 0.20 * np.cos(np.radians(4 * h_mean - 63))
    )
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    turn = np.radians(60 * np.exp(-(((h_mean - 275) / 25) ** 2)))
    r = -np.sin(turn) * 2 * np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7))
    dl, dc = (l2 - l1) / s_l, (c2 - c1) / s_c
    return np.sqrt(dl**2 + dc**2 + (dh / s_h) ** 2 + r * dc * dh / s_h)


def test_the_colour_difference_used_here_is_the_published_one():
    # Pairs 1, 17 and 25 of table 1 in Sharma et al.
    one = np.array([[50.0, 2.6772, -79.7751], [50.0, 2.5, 0.0], [60.2574, -34.0099, 36.2677]])
    other = np.array([[50.0, 0.0, -82.7485], [73.0, 25.0, -18.0], [60.4626, -34.1751, 39.4387]])
    np.testing.assert_allclose(ciede2000(one, other), [2.0425, 27.1492, 1.2644], atol=1e-4)


@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_classes_differ_by_seven_times_what_an_eye_can_tell(sight):
    lab = seen([echo.colour for echo in CLASSES], sight)
    first, second = np.triu_indices(len(CLASSES), k=1)
    assert ciede2000(lab[first], lab[second]).min() > 7.0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_every_class_stands_out_from_land_water_and_the_veil(theme, sight):
    colours = THEMES[theme]
    veiled = np.array(colours.veil) * colours.veil_strength + np.array(colours.land) * (
        1 - colours.veil_strength
    )
    lab = seen([echo.colour for echo in CLASSES], sight)
    for ground in (colours.land, colours.water, veiled):
        assert ciede2000(lab, np.repeat(seen([ground], sight), len(lab), axis=0)).min() > 10.0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_not_observed_stands_out_from_land_and_water(theme, sight):
    colours = THEMES[theme]
    for ground in (colours.land, colours.water):
        veiled = np.array(colours.veil) * colours.veil_strength + np.array(ground) * (
            1 - colours.veil_strength
        )
        assert ciede2000(seen([veiled], sight), seen([colours.land], sight)) > 7.0


@pytest.mark.parametrize("sight", SIGHTS)
def test_brightness_rises_through_light_rain_and_falls_through_heavy_rain(sight):
    lightness = seen([echo.colour for echo in CLASSES], sight)[:, 0]
    brightest = [echo.lower_dbz for echo in CLASSES].index(30.0)
    assert np.all(np.diff(lightness[: brightest + 1]) > 1.5)
    assert np.all(np.diff(lightness[brightest:]) < -1.5)


def test_the_colours_are_those_of_the_published_map():
    pytest.importorskip("cmweather", reason="the published map comes with the oracles")
    matplotlib = pytest.importorskip("matplotlib", reason="the published map comes with the oracles")
    percent = [0, 7, 14, 22, 28, 34, 50, 59, 67, 74, 82, 96]
    published = matplotlib.colormaps["HomeyerRainbow"](np.array(percent) / 100)[:, :3]
    np.testing.assert_allclose(np.array([echo.colour for echo in CLASSES]) / 255, published, atol=0.5 / 255)


def test_each_value_gets_the_class_it_lies_in():
    dbz = np.array([[np.nan, -10.0, 4.99, 5.0, 9.99, 10.0, 34.9, 59.9, 60.0, 75.0]], dtype=np.float32)
    expected = [
        NOT_OBSERVED_CODE,
        NO_ECHO,
        NO_ECHO,
        *(FIRST_CLASS + number for number in (0, 0, 1, 5, 10, 11, 11)),
    ]
    assert classify(dbz).tolist() == [expected]


@given(hnp.arrays(np.float32, (7, 5), elements=st.floats(-40, 90, width=32)))
def test_a_stronger_echo_never_gets_a_lower_code(dbz):
    in_order = np.argsort(dbz, axis=None)
    assert np.all(np.diff(classify(dbz).ravel()[in_order].astype(int)) >= 0)


def test_rows_beyond_one_block_are_classified_too():
    dbz = np.full((600, 2), -10, dtype=np.float32)
    dbz[599, 1], dbz[300, 0] = 62.0, np.nan
    codes = classify(dbz)
    assert (codes[599, 1], codes[300, 0], np.count_nonzero(codes)) == (FIRST_CLASS + 11, NOT_OBSERVED_CODE, 2)


def test_the_colour_table_keeps_the_three_states_apart():
    table = colour_table(not_observed=(1, 2, 3, 4))
    assert table[NO_ECHO].tolist() == [0, 0, 0, 0]
    assert table[NOT_OBSERVED_CODE].tolist() == [1, 2, 3, 4]
    assert table[FIRST_CLASS + 4].tolist() == [*CLASSES[4].colour, 255]
