"""The problems that the speed benchmarks train, made from fixed random data: only their shapes matter here."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ravine.metrics import accuracy
from ravine.problems import Problem
from ravine.problems.autoencoders import Output
from ravine.problems.autoencoders import autoencoder as autoencoder_problem
from ravine.problems.digits import digits
from ravine.problems.sequences import addition, memorize_5, memorize_20, multiplication


class Recurrent(nn.Module):
    """The net of the addition task: 100 tanh units, T = 80, one output after the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 100, batch_first=True)
        self.out = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 80, 2) -> (batch, 1)."""
        return self.out(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


def recurrent() -> Problem:
    """Recurrent net, batch 100."""
    x = torch.rand(2000, 80, 2, generator=torch.Generator().manual_seed(0))
    y = x[:, :40, 0].mean(1, keepdim=True)
    return Problem(name="rnn", model=Recurrent, loss=mse_loss, train=(x, y), batch_size=100, steps=50)


def convolutional() -> Problem:
    """Convolutions with 16 and 32 channels on 28x28 pictures, batch 64."""

    def model() -> nn.Module:
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 49, 10))

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 1, 28, 28, generator=generator)
    y = torch.randint(10, (2000,), generator=generator)
    return Problem(
        name="conv",
        model=model,
        loss=cross_entropy,
        train=(x, y),
        metrics={"accuracy": accuracy},
        batch_size=64,
        steps=50,
    )


def autoencoder() -> Problem:
    """The MNIST autoencoder of Hinton and Salakhutdinov, 784-1000-500-250-30 and back, batch 200."""
    widths = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for k in range(len(widths) - 1):
            layers.append(nn.Linear(widths[k], widths[k + 1]))
            if k not in (3, len(widths) - 2):
                layers.append(nn.Sigmoid())
        return nn.Sequential(*layers)

    x = torch.rand(2000, 784, generator=torch.Generator().manual_seed(0))
    return Problem(name="autoencoder", model=model, loss=mse_loss, train=(x, x), batch_size=200, steps=100)


def deep(widths: Sequence[int], output: Output) -> Callable[[], Problem]:
    """An autoencoder of Sutskever et al. 2013 on random pictures, judged on eight of them."""

    def made() -> Problem:
        x = torch.rand(2000, widths[0], generator=torch.Generator().manual_seed(0))
        return autoencoder_problem("deep", widths, x, x[:8], output=output, steps=20, validation=x[:8])

    return made


def sequence(task: Callable[..., Problem], length: int) -> Callable[[], Problem]:
    """A sequence task of Sutskever et al. 2013 on few sequences, judged on eight of them."""

    def made() -> Problem:
        of = task(length) if task is memorize_5 else task(length, rows=2000)
        few = tuple(tensor[:8] for tensor in of.train)
        return replace(of, validation=few, test=few, steps=20)

    return made


SUTSKEVER: dict[str, Callable[[], Problem]] = {
    "curves 784-400-200-100-50-25-6": deep((784, 400, 200, 100, 50, 25, 6), "logistic"),
    "mnist 784-1000-500-250-30": deep((784, 1000, 500, 250, 30), "logistic"),
    "faces 625-2000-1000-500-30": deep((625, 2000, 1000, 500, 30), "linear"),
    "addition, T = 80": sequence(addition, 80),
    "multiplication, T = 80": sequence(multiplication, 80),
    "memorize-5, T = 200": sequence(memorize_5, 200),
    "memorize-20, T = 80": sequence(memorize_20, 80),
}

CASES: dict[str, Callable[[], Problem]] = {
    "dense 64-64-64-10": digits,
    "recurrent, T = 80": recurrent,
    "convolutional 16-32": convolutional,
    "autoencoder 784-1000-500-250-30": autoencoder,
}

EVERY = {**CASES, **SUTSKEVER}
