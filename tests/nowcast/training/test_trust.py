"""Trust: as much as helped, at each lead by itself, and none where nothing did."""

from __future__ import annotations

import torch

from models.correction import KNOT_MINUTES
from nowcast.training.trust import FACTORS, LEAST_GAIN, chosen

MINUTES = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])


def test_each_lead_has_the_factor_that_gained_most_there():
    gains = torch.zeros(len(FACTORS), 6)
    gains[2, :2] = 1.0  # early leads want all of it
    gains[1, 2:4] = 0.5  # later ones some
    gains[1:, 4:] = -1.0  # the last none
    assert KNOT_MINUTES == (0.0, 15.0, 30.0, 60.0)
    assert chosen(gains, MINUTES).tolist() == torch.tensor([1.0, 1.0, 0.5, 0.0]).tolist()


def test_more_trust_must_be_worth_it():
    gains = torch.zeros(len(FACTORS), 6)
    gains[1:] = LEAST_GAIN / 2
    assert chosen(gains, MINUTES).tolist() == [0.0] * 4
    gains[2:] = 0.5
    gains[3:] = 0.5 + LEAST_GAIN / 2
    assert chosen(gains, MINUTES).tolist() == torch.tensor([1.0] * 4).tolist()
