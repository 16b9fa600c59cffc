"""The autoencoder problems: architectures, losses, the reported error; the faces from photographs made here."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ravine.errors import UserError, WorkError
from ravine.metrics import squared_error
from ravine.problems import Problem, check, load, prepare
from ravine.problems import data as data_module
from ravine.problems.autoencoders import ERROR, autoencoder, network
from ravine.problems.curves import small_curves_autoencoder
from ravine.problems.data import DataSet
from ravine.problems.faces import PEOPLE, face_patches
from ravine.problems.readers import read_faces


@pytest.mark.parametrize(
    ("widths", "layers", "parameters"),
    [
        ((784, 400, 200, 100, 50, 25, 6), 12, 842_340),
        ((784, 1000, 500, 250, 30), 8, 2_837_314),
        ((625, 2000, 1000, 500, 30), 8, 7_537_655),
    ],
)
def test_the_papers_nets(widths: tuple[int, ...], layers: int, parameters: int) -> None:
    """Logistic units but for the code and the output, which are linear; untied weights; Table 6's sizes."""
    net = network(widths)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert len(linear) == layers
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert [layer.out_features for layer in linear] == [*widths[1:], *reversed(widths[:-1])]
    plain = [
        a for a, b in pairwise([*net, nn.Identity()]) if isinstance(a, nn.Linear) and not isinstance(b, nn.Sigmoid)
    ]
    assert plain == [linear[layers // 2 - 1], linear[-1]]


def problem(output: str) -> Problem:
    pictures = torch.rand(40, 12, generator=torch.Generator().manual_seed(0))
    return autoencoder("small", (12, 20, 3), pictures, pictures, output=output, steps=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["logistic", "linear"])
def test_losses_and_the_reported_error_are_sums_over_pixels_and_means_over_cases(output: str) -> None:
    made = problem(output)
    torch.manual_seed(0)
    net = made.build()
    inputs, targets = made.train
    with torch.no_grad():
        values, outputs = made.evaluate(net, (inputs, targets)), net(inputs).double()
    y, t = outputs.sigmoid() if output == "logistic" else outputs, targets.double()
    squared = (y - t).square().sum() / 40
    entropy = -(t * y.log() + (1 - t) * (1 - y).log()).sum() / 40 if output == "logistic" else squared
    torch.testing.assert_close(values[ERROR].double(), squared)
    torch.testing.assert_close(values["loss"].double(), entropy)


def test_an_error_is_better_when_lower_and_diverged_runs_score_their_width() -> None:
    metric = squared_error(784)
    assert (metric.higher_is_better, metric.worst, metric.bounded) == (False, 784.0, False)


def test_units_start_with_fifteen_links_of_the_given_scale() -> None:
    torch.manual_seed(0)
    one, half = (small_curves_autoencoder(scale).build() for scale in (1.0, 0.5))
    for layer in (layer for layer in one.children() if isinstance(layer, nn.Linear)):
        assert set(layer.weight.count_nonzero(1).tolist()) == {min(15, layer.in_features)}
        assert not layer.bias.any()
    spread = [torch.cat([p[p != 0] for p in net.parameters()]).std().item() for net in (one, half)]
    assert spread == pytest.approx([1.0, 0.5], rel=0.02)


def test_small_curves_are_ready_to_train() -> None:
    curves = load("curves-small")
    data = prepare(curves)
    assert (data.train.rows, data.validation.rows, data.test.rows) == (2000, 1000, 1000)
    assert check(curves, data) > 0
    assert load("curves-small").train[0] is curves.train[0]  # drawn once


def photographs() -> Tensor:
    """400 smooth pictures, those of a person alike."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(400, 1, 7, 6, generator=generator) + torch.rand(
        40, 1, 7, 6, generator=generator
    ).repeat_interleave(10, 0)
    return (nn.functional.interpolate(rough, (112, 92), mode="bicubic").squeeze(1) * 100 + 20).clamp(0, 255).byte()


def test_patches_have_mean_zero_and_unit_variance_on_average() -> None:
    made = face_patches(photographs(), 50, 0).double()
    assert made.shape == (PEOPLE * 50, 625)
    assert made.mean(0).abs().max() < 1e-3
    assert made.square().mean().item() == pytest.approx(1, abs=1e-3)
    assert torch.equal(face_patches(photographs(), 50, 0).double(), made)


def test_a_patch_is_the_middle_of_its_photograph_turned_and_scaled() -> None:
    """Photographs of a ramp: a patch is again one, whose slope tells angle and scale, and whose middle is the mean."""
    columns = torch.arange(92, dtype=torch.float64) - 45.5
    ramp = (128 + 2 * columns).round().byte().expand(400, 112, 92).clone()
    from ravine.problems import faces

    draws = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.5, 1.0], [0.9, 1.0, 0.5]], dtype=torch.float64)
    frames = nn.functional.interpolate(
        ramp[:10, 10:102].double().unsqueeze(1), (64, 64), mode="bilinear", antialias=True
    )
    flat, steep, turned = faces._patches(frames, draws).view(3, 25, 25)
    slope = 2 * 92 / 64  # grey levels a pixel of the frame
    assert (flat[:, -1] - flat[:, 0]).mean().item() / 24 == pytest.approx(1.4 * slope, rel=0.02)
    assert (steep[:, -1] - steep[:, 0]).mean().item() / 24 == pytest.approx(1.8 * slope, rel=0.02)
    assert (turned[-1] - turned[0]).mean().abs().item() / 24 == pytest.approx(1.6 * slope, rel=0.02)
    assert (turned[:, -1] - turned[:, 0]).abs().max() < 0.1
    assert flat[12, 12].item() == pytest.approx(127.5, abs=1)  # 128 + 2 * -0.25, bytes


def pgm(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], damaged: bool) -> bytes:
    raw = b"P5\n92 112\n255\n" + picture.tobytes()
    return raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if damaged else raw


def test_line_feeds_that_a_program_changed_are_changed_back(tmp_path: Path) -> None:
    smooth = photographs()[:3].numpy().copy()
    smooth[smooth == 10] = 11
    smooth[0, 5:9, 40] = 10  # line feeds among the pixels
    smooth[1, 3, 4] = 10
    smooth[1, 50, 30:32] = (13, 10)  # a pair that was there before
    file = tmp_path / "faces.pgm"
    file.write_bytes(b"".join(pgm(one, damaged) for one, damaged in zip(smooth, (True, True, False), strict=True)))
    assert np.array_equal(read_faces(file).numpy(), smooth)
    file.write_bytes(pgm(smooth[2], False)[:-9])
    with pytest.raises(WorkError, match="cut short or damaged"):
        read_faces(file)
    file.write_bytes(b"no picture")
    with pytest.raises(WorkError, match="no row of PGM pictures"):
        read_faces(file)


def test_no_person_is_in_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People are told by their patches: with one grey level each, a patch is that level."""
    (tmp_path / "faces").mkdir()
    levels = np.repeat(np.arange(40, dtype=np.uint8) + 100, 10)
    file = tmp_path / "faces" / "faces.pgm"
    file.write_bytes(b"".join(pgm(np.full((112, 92), level, np.uint8), False) for level in levels))
    files = {"faces.pgm": hashlib.sha256(file.read_bytes()).hexdigest()}
    monkeypatch.setattr(data_module, "DATA_SETS", {"faces": DataSet("faces", "", "", 1, (), files)})
    monkeypatch.setenv("RAVINE_DATA", str(tmp_path))
    made = load("faces-small")
    seen = [set(rows[0][:, 312].tolist()) for rows in (made.train, made.validation, made.test)]
    assert [len(people) for people in seen] == [25, 5, 10]
    assert len(set.union(*seen)) == 40


@pytest.mark.parametrize("name", ["faces-small", "mnist-autoencoder-small", "mnist-autoencoder"])
def test_without_data_the_command_is_named(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAVINE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"run `ravine data fetch (faces|mnist)` once"):
        load(name)
