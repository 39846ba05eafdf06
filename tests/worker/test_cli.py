"""The command line: results on disk, one clear line for bad input, and a quick ``--help``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import command
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from weather import START, STEP, drop, raw_frames

from models.convlstm import ConvLSTM, ConvLSTMConfig
from nowcast.archive.archive import Archive
from nowcast.compute import Compute
from nowcast.errors import WeightsError
from nowcast.forecast.file import read_record
from nowcast.methods.networks import loading as bridge
from nowcast.methods.networks.checkpoint import Card, Task, save
from worker.cli import forecast, hindcast
from worker.cli.options import compute_of

#: Networks of the papers' sizes, for which the package has no weights.
UNSHIPPED = ("unet_standard", "convlstm_paper")

#: What takes long to load.
HEAVY = ("numpy", "xarray", "h5py", "netCDF4", "pydantic", "pyproj", "redis", "fastapi", "cv2", "torch")


def nowcast(*words: object, code: int = 0) -> command.Done:
    done = command.nowcast(*words)
    assert done.code == code, done.err + done.out
    return done


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("radar")
    return [drop(raw, folder) for raw in raw_frames(12)]


def test_forecast_writes_the_documented_file_and_maps(files: list[Path], tmp_path: Path) -> None:
    output, maps = tmp_path / "out.nc", tmp_path / "maps"
    nowcast("forecast", *files[:5], "--steps", 4, "-o", output, "--png", maps)
    with xr.open_dataset(output, engine="h5netcdf", decode_timedelta=False) as forecast:
        assert forecast["reflectivity"].dims == ("lead_time", "y", "x")
        assert forecast["reflectivity"].attrs["standard_name"] == "equivalent_reflectivity_factor"
        assert forecast["lead_time"].values.tolist() == [5, 10, 15, 20]
        assert forecast["lead_time"].attrs["standard_name"] == "forecast_period"
        assert forecast["forecast_reference_time"].values == np.datetime64(
            (START + 4 * STEP).replace(tzinfo=None)
        )
        assert "crs_wkt" in forecast["crs"].attrs
        assert forecast.attrs["model"] == "auto"
        assert forecast.attrs["degraded_reason"].startswith("made from the newest 5 frames instead of 13,")
        assert forecast.attrs["base_weights"].startswith("in place ")
        assert forecast.attrs["Conventions"] == "CF-1.11"
        values = forecast["reflectivity"].values
        assert np.nanmin(values) == -10.0
        assert (values >= 20).any()
    assert len(list(maps.glob("*min.png"))) == 4
    with Image.open(next(maps.glob("*overview.png"))) as overview:
        assert overview.size[0] == 1600


def test_hindcast_writes_the_documented_scores(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    nowcast(
        "hindcast", *files, "--models", "persistence,extrapolation", "--steps", 3, "--every", 2, "-o", output
    )
    scores = json.loads(output.read_text())
    assert {"rows", "models", "files", "skipped"} <= set(scores)
    assert scores["files"] == 12
    row = {
        "model",
        "lead_minutes",
        "threshold_dbz",
        "hits",
        "misses",
        "false_alarms",
        "correct_negatives",
        "csi",
        "far",
        "pod",
        "bias",
        "hss",
        "ets",
        "sedi",
        "cor_bin",
        "forecasts",
    }
    assert set(scores["rows"][0]) == row
    csi = {(r["model"], r["lead_minutes"]): r["csi"] for r in scores["rows"] if r["threshold_dbz"] == 20}
    assert csi["extrapolation", 15] > csi["persistence", 15]
    assert {r["forecasts"] for r in scores["rows"]} == {3}  # issue times 4, 6 and 8 of 12 frames
    assert scores["models"]["extrapolation"]["seconds_per_forecast"] > 0


def test_the_archive_is_filled_listed_compacted_and_exported(files: list[Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    adding = ("archive", "add", *files[:3], "--domain", "sim", "--data", data)
    assert "3 new frames, 0 known" in nowcast(*adding).out
    assert "0 new frames, 3 known" in nowcast(*adding).out
    assert "2026-01-01" in nowcast("archive", "ls", "--data", data).out
    nowcast("archive", "compact", "sim", "2026-01-01", "--data", data)
    store = tmp_path / "frames.zarr"
    nowcast("archive", "export", "sim", store, "--data", data)
    with xr.open_zarr(store) as exported:
        assert exported["reflectivity"].sizes["time"] == 3


def test_simulate_writes_files_that_forecast_reads(tmp_path: Path) -> None:
    nowcast("simulate", "-o", tmp_path, "--frames", 2, "--seed", 7)
    made = sorted(tmp_path.glob("*.h5"))
    assert len(made) == 2
    nowcast("forecast", *made, "--steps", 1, "-o", tmp_path / "out.nc")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("forecast", "absent.h5", "-o", "out.nc"), "absent.h5"),
        (("forecast", __file__, "-o", "out.nc"), "no reader knows content"),
        (("archive", "export", "sim", "out.zarr"), "sim"),
        (("up", "--domains", "absent.toml"), "absent.toml: expected a TOML file of domains"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_failing_exit(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = nowcast(*words, code=2)
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("nowcast: ")
    assert message in done.err
    assert "Traceback" not in done.err


def test_the_process_itself_ends_with_the_code_and_says_the_line_on_standard_error(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "worker.cli", "forecast", "absent.h5", "-o", "out.nc")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith("nowcast: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert "absent.h5" in done.stderr


def test_an_unknown_model_is_answered_with_the_known_ones(files: list[Path], tmp_path: Path) -> None:
    done = nowcast("forecast", *files[:2], "--model", "oracle", "-o", tmp_path / "out.nc", code=2)
    assert "extrapolation" in done.err
    assert not (tmp_path / "out.nc").exists()


def test_help_waits_for_nothing_but_the_command_line_itself() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "worker.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    loaded = {
        line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")
    }
    assert "typer" in loaded
    # What reads, forecasts or serves takes seconds to load.
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY) == set()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints with one of ``convlstm``, of new weights, for the step and the cells here."""
    torch.manual_seed(1)
    folder, config = tmp_path_factory.mktemp("weights"), ConvLSTMConfig(hidden=(8,))
    save(folder / "convlstm", ConvLSTM(config), Card(config, Task(5, 12, 5.0, 2.0)))
    return folder


@pytest.mark.parametrize("model", UNSHIPPED)
def test_a_network_forecasts_untrained_for_whom_asks_for_it_and_says_so(
    files: list[Path], tmp_path: Path, model: str
) -> None:
    output = tmp_path / "out.nc"
    done = nowcast("forecast", *files[:6], "--model", model, "--steps", 2, "-o", output)
    assert "untrained weights" in " ".join(done.out.split())
    with xr.open_dataset(output, engine="h5netcdf", decode_timedelta=False) as forecast:
        assert forecast.attrs["model"] == model
        assert forecast.attrs["model_version"] == "untrained"
        assert forecast.attrs["degraded_reason"] == "untrained weights"
        assert forecast["reflectivity"].shape == (2, 80, 96)
        assert "motion_x" in forecast


def test_a_network_with_weights_looks_back_as_far_as_they_were_trained_to(
    files: list[Path], tmp_path: Path, weights: Path
) -> None:
    output = tmp_path / "out.nc"
    nowcast(
        *("forecast", *files[:7], "--model", "convlstm", "--weights", weights / "convlstm"),
        *("--memory-mb", 128, "--steps", 2, "-o", output),
    )
    with xr.open_dataset(output, engine="h5netcdf", decode_timedelta=False) as forecast:
        assert forecast.attrs["model_version"].startswith("sha256:")
        assert forecast.attrs["degraded_reason"] == ""
        assert len(forecast.attrs["input_frames"].split()) == 5


@pytest.mark.parametrize("untrained", [True, False])
def test_maps_say_whose_weights_no_one_trained(
    files: list[Path], tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, untrained: bool
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(forecast, "_write_maps", lambda *arguments: titles.append(arguments[3]))
    compute = Compute(weights=None if untrained else weights, shipped=False, untrained=untrained)
    forecast.forecast_files(
        files[:5], tmp_path / "out.nc", "convlstm", 1, tmp_path / "maps", "light", None, compute
    )
    assert titles[0].endswith("by convlstm with untrained weights" if untrained else "by convlstm")


def test_whoever_has_frames_of_another_step_than_the_weights_is_told(
    files: list[Path], tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights trained on steps of five minutes, and a frame every ten."""
    told, compute = "degraded: weights trained on steps of 5 minutes, not 10", Compute(weights=weights)
    forecast.forecast_files(files[::2], tmp_path / "out.nc", "convlstm", 1, None, "light", None, compute)
    assert told in " ".join(capsys.readouterr().out.split())
    hindcast.hindcast_files(
        files[::2], tmp_path / "scores.json", ["convlstm"], 1, 1, 5, [20.0], None, compute
    )
    assert f"convlstm: 1 of 1 {told}" in " ".join(capsys.readouterr().out.split())


def test_whoever_has_cells_of_another_width_than_the_weights_is_told(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = ConvLSTMConfig(hidden=(8,)), tmp_path / "out.nc"
    save(tmp_path / "fine", ConvLSTM(config), Card(config, Task(4, 12, 5.0, 1.0)))
    compute = Compute(weights=tmp_path / "fine")
    forecast.forecast_files(files[:5], output, "convlstm", 1, None, "light", None, compute)
    told = "weights trained on cells of 1 km, not 2 x 2"
    assert f"degraded: {told}" in " ".join(capsys.readouterr().out.split())
    assert read_record(output).degraded_reason == told


def test_weights_of_the_package_forecast_for_whom_names_none_and_never_for_whom_does(
    files: list[Path], tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "SHIPPED", weights)
    monkeypatch.setenv("NOWCAST_WEIGHTS_DIR", str(tmp_path / "absent"))
    output = tmp_path / "out.nc"
    forecast.forecast_files(files[:6], output, "convlstm", 1, None, "light", None, compute_of(None, None))
    record = read_record(output)
    assert record.model_version.startswith("sha256:")
    assert (record.model, record.degraded_reason) == ("convlstm", "")
    with pytest.raises(WeightsError, match="expected weights of convlstm, found no"):
        forecast.forecast_files(
            files[:6], output, "convlstm", 1, None, "light", None, compute_of(tmp_path, None)
        )


def test_weights_that_are_named_are_used_or_refused(files: list[Path], tmp_path: Path, weights: Path) -> None:
    output = tmp_path / "out.nc"
    crn = ("forecast", *files[:5], "--model", "crn", "--weights")
    done = nowcast(*crn, weights, "-o", output, code=2)
    assert "expected weights of crn" in done.err
    done = nowcast(*crn, weights / "convlstm", "-o", output, code=2)
    assert "expected weights of crn" in done.err
    done = nowcast(*crn, tmp_path / "absent", "-o", output, code=2)
    assert str(tmp_path / "absent") in done.err
    assert not output.exists()


def test_networks_are_scored_beside_the_others(files: list[Path], tmp_path: Path, weights: Path) -> None:
    output = tmp_path / "scores.json"
    models = "persistence,extrapolation,convlstm"
    nowcast(
        *("hindcast", *files[:9], "--models", models, "--weights", weights),
        *("--steps", 2, "--every", 2, "-o", output),
    )
    facts = json.loads(output.read_text())["models"]
    assert facts["convlstm"]["version"].startswith("sha256:")
    assert facts["convlstm"]["degraded"] == {}
    assert facts["convlstm"]["forecasts"] == facts["persistence"]["forecasts"] == 2


def test_a_hindcast_without_weights_says_that_it_was_untrained(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    done = nowcast("hindcast", *files[:7], "--models", UNSHIPPED[0], "--steps", 2, "-o", output)
    facts = json.loads(output.read_text())["models"][UNSHIPPED[0]]
    assert f"{UNSHIPPED[0]}: 1 of 1 degraded: untrained weights" in " ".join(done.out.split())
    assert facts["degraded"] == {"untrained weights": 1}
    assert facts["version"] == "untrained"


def test_help_names_the_networks() -> None:
    told = nowcast("forecast", "--help").out
    assert all(name in told for name in ("persistence", "convlstm", "scs", "--weights", "--memory-mb"))


def test_what_files_do_not_say_the_command_line_can(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "formats/openmrg_smhi_2015/openMRG_Radar_180minutes.nc"
    words = ("archive", "add", str(path), "--data", str(tmp_path), "--domain", "smhi")
    assert "states no unit" in nowcast(*words, code=2).err
    nowcast(*words, "--quantity", "RATE", "--unit", "mm/h")
    archive = Archive(tmp_path / "archive")
    frame = archive.load("smhi", archive.times("smhi")[0])
    assert frame.attrs["declared"] == "quantity=RATE unit=mm/h"
