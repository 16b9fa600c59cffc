"""With the real packages where they are installed; without them the sentence that names what is missing."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ravine.monitor
from cases_monitor import Clock, bitwise, clock
from ravine.errors import UserError
from ravine.monitor import Monitor, lightning, read, transformers

__all__ = ["clock"]
LIGHTNING = [name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)]
pytestmark = pytest.mark.filterwarnings("ignore")  # those packages' own


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(640, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long())


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Python finds no such packages, whether they are installed or not."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    for made in (lightning.callback, transformers.callback):
        made.cache_clear()


def test_without_lightning_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, *lightning.HOMES)
    with pytest.raises(UserError, match="needs Lightning: pip install"):
        ravine.monitor.LightningMonitor  # noqa: B018


def test_without_transformers_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "transformers")
    with pytest.raises(UserError, match="needs transformers: pip install"):
        ravine.monitor.TransformersMonitor  # noqa: B018


def test_without_tensorboard_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing(monkeypatch, "torch.utils.tensorboard")
    model = net()
    with pytest.raises(UserError, match="needs the package tensorboard"):
        Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1), tensorboard=tmp_path)


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError):
        ravine.monitor.KerasMonitor  # noqa: B018


def test_options_that_the_callbacks_take_from_the_training() -> None:
    with pytest.raises(UserError, match="leave batches= out"):
        lightning._Hooks(batches=[])
    with pytest.raises(UserError, match="leave loss= and batches= out"):
        transformers._Hooks(loss=F.mse_loss)


def test_a_trainer_that_keeps_the_labels_back_leaves_a_note() -> None:
    """Label smoothing takes them out before the model is called."""
    model = net()
    watch = transformers._Hooks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    watch.on_train_begin(None, state, None, model=model, optimizer=optimizer)
    for _ in range(5):
        model(torch.ones(4, 6)).square().mean().backward()
        optimizer.step()
        watch.on_step_end(None, state, None)
    watch.on_train_end(None, state, None)
    assert watch.monitor is not None
    (note,) = watch.monitor.notes
    assert note.startswith("noise and curvature were not measured: the model was called with labels fewer than 4 times")
    assert not model._forward_pre_hooks


# Lightning is large and no dependency: this needs the real one, nothing that imitates it.
@pytest.mark.skipif(not LIGHTNING, reason="neither lightning nor pytorch_lightning is installed")
def test_lightning_trains_the_same_and_is_watched(tmp_path: Path, clock: Clock) -> None:
    pl = importlib.import_module("lightning.pytorch" if "lightning" in LIGHTNING else "pytorch_lightning")
    clock.look = 0.001

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Any:
            return self.net(x)

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            clock.now += 0.1
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    found = []
    for watched in (False, True):
        torch.manual_seed(2)
        module = Module()
        callback = ravine.monitor.LightningMonitor(tmp_path, loss=F.cross_entropy, budget=1.0)
        trainer = pl.Trainer(
            max_epochs=6,
            accelerator="cpu",
            callbacks=[callback] if watched else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(rows(), batch_size=32, shuffle=True))
        found.append((bitwise(module.state_dict()), torch.rand(3).tolist()))
    assert found[0] == found[1]
    steps = read(tmp_path)
    assert steps.height == 120 and steps["sharpness"].drop_nulls().len() > 0
    assert callback.monitor.notes == [] and callback.monitor.says()
    assert set(read(tmp_path, "layers")["parameter"]) == {f"net.{k}.{n}" for k in (0, 3) for n in ("weight", "bias")}


def test_the_trainer_of_transformers_trains_the_same_and_is_watched(tmp_path: Path, clock: Clock) -> None:
    hf = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    clock.look = 0.001

    class Words(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 320

        def __getitem__(self, k: int) -> dict[str, Tensor]:
            ids = (torch.arange(8) * (k + 1)) % 50
            return {"input_ids": ids, "labels": torch.tensor(k % 2)}

    found = []
    for watched in (False, True):
        torch.manual_seed(2)
        config = hf.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        model = hf.BertForSequenceClassification(config)
        model.register_forward_pre_hook(lambda *_: setattr(clock, "now", clock.now + 0.1))
        callback = ravine.monitor.TransformersMonitor(tmp_path / "records", budget=1.0)
        arguments = hf.TrainingArguments(
            output_dir=str(tmp_path / "hf"),
            per_device_train_batch_size=8,
            num_train_epochs=3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = hf.Trainer(model, arguments, train_dataset=Words(), callbacks=[callback] if watched else [])
        trainer.train()
        found.append((bitwise(model.state_dict()), torch.rand(3).tolist()))
    assert found[0] == found[1]
    steps = read(tmp_path / "records")
    assert steps.height == 120 and steps["sharpness"].drop_nulls().len() > 0
    assert callback.monitor.notes == []
    assert steps["momentum"].unique().to_list() == [0.9]


def test_tensorboard_gets_the_scalars(tmp_path: Path, clock: Clock) -> None:
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = rows()[:64]
    with Monitor(model, optimizer, loss=F.cross_entropy, batches=[(x, y)], budget=1.0, tensorboard=tmp_path) as watcher:
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            clock.now += 0.01
            optimizer.step()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("ravine/gradient_norm")] == [20, 40, 60, 80, 100]
    assert len(events.Scalars("ravine/sharpness")) == watcher.steps["sharpness"].drop_nulls().len() > 0
    assert "ravine/gain" in events.Tags()["scalars"]
