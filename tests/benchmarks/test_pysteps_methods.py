"""The methods of pysteps, on rain whose drift is known and without rain."""

from __future__ import annotations

import numpy as np
import pytest
from drifting import write_frames

from benchmarks.pysteps_methods import PystepsExtrapolation, PystepsSprog
from nowcast.hindcast.cases import Cases
from nowcast.readers.listing import FrameList
from nowcast.scores.tally import Tally


@pytest.mark.parametrize("make", [PystepsExtrapolation, PystepsSprog])
def test_pysteps_carries_drifting_rain_better_than_it_stands(tmp_path, make):
    pytest.importorskip("pysteps")
    case = Cases(FrameList(write_frames(tmp_path, range(8))), history=4, steps=3).at(3)
    prediction = make().predict(case.cube, 3)
    fields = list(prediction.fields)

    assert "; ".join(prediction.shortfalls) == ""
    for lead, field in enumerate(fields, start=1):
        assert field.dtype == np.float32
        scored, still = Tally([35.0]), Tally([35.0])
        scored.add(field, case.truths[lead])
        still.add(case.cube.values[-1], case.truths[lead])
        assert scored.contingency(35.0).csi > max(0.6, still.contingency(35.0).csi)
    assert np.nanmin(fields[0]) == -10


def test_sprog_of_pysteps_without_rain_is_its_extrapolation_and_says_so(tmp_path):
    pytest.importorskip("pysteps")
    paths = write_frames(tmp_path, range(4), values=np.full((48, 64), -np.inf))
    half_seen = np.full((48, 64), -np.inf)
    half_seen[:, :30] = np.nan
    paths += write_frames(tmp_path, [4], values=half_seen)
    cases = Cases(FrameList(paths), history=4, steps=1)
    prediction = PystepsSprog().predict(cases.at(3).cube, 2)

    assert "; ".join(prediction.shortfalls) == "extrapolation instead of S-PROG: a frame has no rain"
    assert all((field == -10).all() for field in prediction.fields)
