"""What every forecasting network promises, whichever paper it comes from."""

from __future__ import annotations

import pytest
import torch
from small_networks import small_forecasters
from torch import Tensor, nn

from models.forecaster import Forecaster, RecurrentForecaster
from models.registry import PRESETS, build

SMALL = small_forecasters()
RECURRENT = [name for name in SMALL if isinstance(build(PRESETS[name]), RecurrentForecaster)]

#: Networks that forecast without being fed a frame back, for as many leads as they have outputs.
NEVER_FED = {"convlstm_hourglass_cpu": 99, "unet_cpu": 4, "exceedance_cpu": 99}

BATCH, FRAMES = 2, 5


def network(name: str) -> Forecaster:
    torch.manual_seed(3)
    net = build(PRESETS[name])
    assert isinstance(net, Forecaster)
    # New weights may forecast almost nothing; a little noise makes every path count.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def rain(*shape: int, seed: int = 0) -> Tensor:
    """Smooth frames in [0, 1] with dry places, ``(*shape[:2], 1, *shape[2:])``."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames, rows, columns = shape
    coarse = torch.rand(batch * frames, 1, rows // 4 + 2, columns // 4 + 2, generator=generator)
    fine = nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear", align_corners=False)
    return (fine - 0.3).clamp(0, 1).reshape(batch, frames, 1, rows, columns)


def has_batch_statistics(net: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout) for module in net.modules())


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_any_grid_and_any_horizon(name):
    net = network(name).eval()
    for rows, columns, horizon in ((32, 32, 1), (37, 50, 7), (5, 3, 2)):
        pred = net(rain(BATCH, FRAMES, rows, columns), horizon)["pred"]
        assert pred.shape == (BATCH, horizon, 1, rows, columns)
        assert torch.isfinite(pred).all()
        assert pred.min() >= 0
        assert pred.max() <= 1


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_a_longer_horizon_begins_with_the_shorter_one(name):
    net, x = network(name).eval(), rain(BATCH, FRAMES, 32, 32)
    torch.testing.assert_close(net(x, 6)["pred"][:, :2], net(x, 2)["pred"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_remembered_between_calls(name):
    net, x = network(name).eval(), rain(BATCH, FRAMES, 32, 32)
    with torch.inference_mode():
        first = net(x, 3)["pred"]
        net(rain(BATCH, FRAMES, 32, 32, seed=9), 3)
        net(rain(1, FRAMES, 20, 28, seed=8), 2)
        assert torch.equal(net(x, 3)["pred"], first)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.eval()(x, 2)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    hidden = [
        key for module in net.modules() for key, value in vars(module).items() if isinstance(value, Tensor)
    ]
    assert hidden == [], "tensors live in parameters and buffers only"


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_training_and_evaluation_forecast_the_same_but_for_clamping(name):
    net, x = network(name), rain(BATCH, FRAMES, 32, 32)
    if has_batch_statistics(net):
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        net.train()(x[:1], 1)
        pytest.skip("normalises by batch: training sees other statistics than evaluation")
    torch.testing.assert_close(
        net.train()(x, 4)["pred"].clamp(0, 1), net.eval()(x, 4)["pred"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_the_true_frame_is_fed_back_where_the_mask_says_so(name):
    net, x, truth = network(name).eval(), rain(BATCH, FRAMES, 16, 16), rain(BATCH, 4, 16, 16, seed=5)
    free, forced = net(x, 4)["pred"], net(x, 4, truth)["pred"]
    nowhere, everywhere = torch.zeros(BATCH, 3, dtype=torch.bool), torch.ones(BATCH, 3, dtype=torch.bool)
    assert torch.equal(net(x, 4, truth, nowhere)["pred"], free)
    assert torch.equal(net(x, 4, truth, everywhere)["pred"], forced)
    assert torch.equal(free[:, 0], forced[:, 0]), "the first lead has nothing fed back"
    if NEVER_FED.get(name, 0) >= 4:
        assert torch.equal(free, forced)
        return
    assert not torch.equal(free[:, 1], forced[:, 1])
    only_first = nowhere.clone()
    only_first[0, 0] = True
    mixed = net(x, 4, truth, only_first)["pred"]
    torch.testing.assert_close(mixed[0, 1], forced[0, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[1], free[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_every_frame_it_looks_at_changes_the_forecast(name):
    """In double precision and before clamping, which would hide a small change."""
    net, x = network(name).train().double(), rain(2, FRAMES, 32, 32).double()
    pred = net(x, 1)["pred"]
    for back in range(1, (net.frames or FRAMES) + 1):
        other = x.clone()
        other[:, -back] = rain(2, 1, 32, 32, seed=7)[:, 0]
        assert (net(other, 1)["pred"] - pred).abs().max() > 1e-12, f"{back} frames back"


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_a_sample_is_forecast_alone_as_in_a_batch(name):
    net, x = network(name).eval(), rain(3, FRAMES, 24, 32)
    together = net(x, 3)["pred"]
    for k in range(3):
        torch.testing.assert_close(net(x[k : k + 1], 3)["pred"], together[k : k + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RECURRENT)
@torch.inference_mode()
def test_frame_by_frame_is_the_same_as_all_at_once(name):
    net, x = network(name).eval(), rain(BATCH, 7, 30, 41)
    stream = None
    for count, frame in enumerate(x.unbind(1), start=1):
        stream = net.observe(frame, stream)
        if count >= FRAMES:
            forecast = net.forecast(stream, 3)["pred"]
            torch.testing.assert_close(forecast, net(x[:, :count], 3)["pred"], atol=1e-5, rtol=0)
    assert torch.equal(net.forecast(stream, 3)["pred"], forecast), "forecasting leaves the stream as it is"
    with pytest.raises(ValueError, match="as in the stream"):
        net.observe(x[:, 0, :, :-1], stream)


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_explanations_leave_the_forecast_as_it_is(name):
    net, x = network(name).eval(), rain(1, FRAMES, 29, 34)
    plain, explained = net(x, 2), net(x, 2, explain=True)
    torch.testing.assert_close(explained["pred"], plain["pred"], atol=1e-6, rtol=0)
    for name_of_it, value in explained["aux"].items():
        assert torch.isfinite(value).all(), name_of_it
        assert value.shape[-2] <= 29, f"{name_of_it} is cropped to the grid, or coarser"


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_is_finite_moves_every_parameter_and_follows_its_generator(name):
    net, x, target = network(name).train(), rain(BATCH, FRAMES, 32, 32), rain(BATCH, 4, 32, 32, seed=5)

    def loss(seed: int, progress: float) -> dict[str, Tensor]:
        return net.training_loss(x, target, progress=progress, generator=torch.Generator().manual_seed(seed))

    state = torch.random.get_rng_state()
    terms = loss(0, 0.9)
    assert torch.equal(torch.random.get_rng_state(), state), "no randomness but the generator's"
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(not value.requires_grad for key, value in terms.items() if key != "loss")
    terms["loss"].backward()
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    if not has_batch_statistics(net):
        torch.testing.assert_close(loss(0, 0.4)["loss"], loss(0, 0.4)["loss"])


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_what_was_not_observed_has_no_say_in_the_loss(name):
    net, x, target = network(name).train(), rain(BATCH, FRAMES, 32, 32), rain(BATCH, 4, 32, 32, seed=5)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[..., 8:20, 12:30] = False
    other = torch.where(valid, target, 1 - target)

    def loss(truth: Tensor, mask: Tensor | None) -> Tensor:
        # At the end of the training no true frame is fed back, so the target acts through the loss alone.
        generator = torch.Generator().manual_seed(0)
        return net.training_loss(x, truth, valid=mask, progress=1.0, generator=generator)["loss"]

    torch.testing.assert_close(loss(target, valid), loss(other, valid), atol=1e-6, rtol=1e-5)
    assert not torch.isclose(loss(target, None), loss(other, None), rtol=1e-3)
    assert torch.isfinite(loss(target, torch.zeros_like(valid)))


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_double_precision_works(name):
    net, x = network(name).eval().double(), rain(1, FRAMES, 16, 16).double()
    assert net(x, 2)["pred"].dtype == torch.float64
    torch.testing.assert_close(
        net(x, 2)["pred"].float(), network(name).eval()(x.float(), 2)["pred"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", SMALL)
def test_bad_shapes_are_refused(name):
    net, x = network(name).eval(), rain(1, FRAMES, 16, 16)
    with pytest.raises(ValueError, match=r"expected frames \(b, t, 1, y, x\)"):
        net(x[:, :, 0], 2)
    with pytest.raises(ValueError, match=r"of floats, got torch\.uint8"):
        net(x.byte(), 2)
    with pytest.raises(ValueError, match="expected a horizon of at least one frame, got 0"):
        net(x, 0)
    with pytest.raises(ValueError, match=r"expected true frames \(1, 2, 1, 16, 16\), got \(1, 3"):
        net(x, 2, rain(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"expected a boolean mask \(1, 1\), got torch.float32"):
        net(x, 2, rain(1, 2, 16, 16), torch.ones(1, 1))
    if net.frames is not None:
        with pytest.raises(ValueError, match=f"expected at least {net.frames} frames"):
            net(x[:, : net.frames - 1], 2)
