"""Small models of every kind of layer for the tests of curvature, in float64, and dense references for them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Make = Callable[[], nn.Module]
ROWS = 6


class Tied(nn.Module):
    """An autoencoder whose decoder is the transpose of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.encode(x)) @ self.encode.weight


class Shared(nn.Module):
    """Two layers that are the same parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Sequences -> 3 numbers through a recurrent layer."""

    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.RNN) -> None:
        super().__init__()
        self.layer = kind(4, 3, batch_first=True)
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        return self.out(states[:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Sequences -> 3 numbers through attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


class Several(nn.Module):
    """Returns a dict of two outputs, of which the loss uses both, and a third that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor | int]:
        h = torch.tanh(self.body(x))
        return {"one": self.one(h), "two": self.two(h), "rows": len(x)}


class ByHand(torch.autograd.Function):
    """tanh with forward-mode derivatives, and a look at a value, which cannot be traced."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return slope * (1 - h.square())  # type: ignore[no-any-return]

    @staticmethod
    def jvp(ctx: torch.autograd.function.FunctionCtx, tangent: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return tangent * (1 - h.square())  # type: ignore[no-any-return]


class Untraceable(nn.Module):
    """Asks for a value in Python, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return self.two(torch.tanh(h) if float(h.detach().sum()) < 1e9 else h)  # type: ignore[no-any-return]


def several_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs["one"], targets) + outputs["two"].square().sum(1).mean()


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


def rows(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )


CLASSES = torch.arange(ROWS) % 3
CASES: dict[str, tuple[Make, Callable[..., Tensor], Tensor, Tensor]] = {
    "dense": (dense, F.cross_entropy, rows(4), CLASSES),
    "dense, squared error": (dense, squared, rows(4), rows(3)),
    "BatchNorm": (normalized, F.cross_entropy, rows(4), CLASSES),
    "BatchNorm, eval": (lambda: normalized().eval(), F.cross_entropy, rows(4), CLASSES),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4), nn.Tanh(), nn.Linear(5, 3)),
        F.cross_entropy,
        rows(4),
        CLASSES,
    ),
    "convolution": (convolutional, F.cross_entropy, rows(1, 6, 6), CLASSES),
    "tied to its transpose": (Tied, squared, rows(4), rows(4)),
    "tied layers": (Shared, squared, rows(4), rows(4)),
    "RNN": (Recurrent, F.cross_entropy, rows(5, 4), CLASSES),
    "LSTM": (lambda: Recurrent(nn.LSTM), F.cross_entropy, rows(3, 4), CLASSES),
    "attention": (Attention, F.cross_entropy, rows(3, 4), CLASSES),
    "several outputs": (Several, several_loss, rows(4), CLASSES),
    "not traceable": (Untraceable, F.cross_entropy, rows(4), CLASSES),
}


def build(name: str) -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
    make, loss, inputs, targets = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double(), loss, inputs, targets


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def split(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    of = trained(model)
    parts = torch.split(vector, [p.numel() for p in of.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(of.items(), parts, strict=True)}


def point(model: nn.Module) -> Tensor:
    return torch.cat([p.reshape(-1) for p in trained(model).values()])


def outputs_at(model: nn.Module, vector: Tensor, inputs: Tensor, seed: int | None = None) -> Tensor | dict[str, Tensor]:
    """What the model returns with its parameters at `vector`, buffers as they are; the draws from `seed`."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    plain = torch.backends.mkldnn.flags(False, None, None, None), sdpa_kernel(SDPBackend.MATH)
    with torch.random.fork_rng(devices=[]), plain[0], plain[1]:
        if seed is not None:
            torch.manual_seed(seed)
        return functional_call(model, {**split(model, vector), **buffers}, (inputs,))  # type: ignore[no-any-return]


def leaves(outputs: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [z for z in outputs.values() if isinstance(z, Tensor)]


def jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(function, at)  # type: ignore[no-any-return, no-untyped-call]


def dense_hessian(
    model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor, seed: int | None = None
) -> Tensor:
    """d2 loss / dw2, by torch's reverse over reverse."""
    return torch.autograd.functional.hessian(  # type: ignore[no-any-return, no-untyped-call]
        lambda w: loss(outputs_at(model, w, inputs, seed), targets), point(model)
    )


def dense_gauss_newton(
    model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor, seed: int | None = None
) -> Tensor:
    """J' (d2 loss / dz2) J with every factor as a matrix."""
    w = point(model)
    given = outputs_at(model, w, inputs, seed)
    shapes = [z.shape for z in leaves(given)]

    def flat(vector: Tensor) -> Tensor:
        return torch.cat([z.reshape(-1) for z in leaves(outputs_at(model, vector, inputs, seed))])

    def of_outputs(z: Tensor) -> Tensor:
        parts = [p.view(s) for p, s in zip(torch.split(z, [s.numel() for s in shapes]), shapes, strict=True)]
        return loss(parts[0] if isinstance(given, Tensor) else dict(zip(given, parts, strict=False)), targets)

    j = jacobian(flat, w)
    return j.T @ torch.autograd.functional.hessian(of_outputs, flat(w).detach()) @ j  # type: ignore[no-any-return, no-untyped-call]


def dense_fisher(
    model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Tensor, seed: int | None = None
) -> Tensor:
    """The mean of g_i g_i', from the gradients of the losses of single rows on the outputs of the whole batch."""

    def losses(w: Tensor) -> Tensor:
        z = outputs_at(model, w, inputs, seed)
        one = [
            loss({k: v[i : i + 1] for k, v in z.items() if isinstance(v, Tensor)}, targets[i : i + 1])
            if isinstance(z, dict)
            else loss(z[i : i + 1], targets[i : i + 1])
            for i in range(len(inputs))
        ]
        return torch.stack(one)

    g = jacobian(losses, point(model))
    return g.T @ g / len(inputs)


def as_matrix(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)], dim=1)
