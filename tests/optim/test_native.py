"""What is done in C for many small tensors is what Python does, and it sees every change that Python sees."""

import ctypes
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cases_optim import Make, assert_same, every, give_gradients, parameters, run
from ravine.optim import QHM, SGDP, Lion, RuleOptimizer, native, sources
from ravine.optim.batches import Given
from ravine.optim.kernels import MANY
from ravine.optim.layouts import Layouts, PythonLayouts

SHAPES: list[tuple[int, ...]] = [(30, 40), (5,), (), (0,), (3, 1, 7), (30, 40)] * MANY


def compiled(make: Make, params: list[Tensor], **options: float) -> RuleOptimizer:
    """One that steps as a compiled optimizer does, by a compiler that does nothing."""
    optimizer = make(params, **options)
    optimizer.compile(lambda graph, _: graph.forward)
    return optimizer


def by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


def layouts(optimizer: RuleOptimizer) -> Layouts:
    return optimizer._arranged[0].layouts


def packs(optimizer: RuleOptimizer) -> set[type]:
    return {type(source) for part in optimizer._arranged[0].parts for source in part.sources}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_python(
    make: Make, dtype: torch.dtype, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twins = parameters(dtype=dtype, shapes=SHAPES), parameters(dtype=dtype, shapes=SHAPES)
    optimizer = compiled(make, ours, lr=0.1, weight_decay=decay)
    run(optimizer, ours, range(3))
    assert isinstance(layouts(optimizer), native.NativeLayouts)
    by_python(monkeypatch)
    twin = compiled(make, twins, lr=0.1, weight_decay=decay)
    run(twin, twins, range(3))
    assert isinstance(layouts(twin), PythonLayouts)
    assert_same(ours, twins)
    if native.NativePack in packs(optimizer):
        before = [param._version for param in ours]
        run(optimizer, ours, range(3, 4))
        assert [param._version for param in ours] == [version + 1 for version in before]
    else:
        assert packs(optimizer) == set()  # all of it is stepped by a kernel


@pytest.mark.parametrize("few", [1, MANY - 1])
def test_few_tensors_are_looked_at_by_python(few: int) -> None:
    params = parameters(shapes=[(3, 4)] * few)
    optimizer = compiled(QHM, params)
    run(optimizer, params, range(1))
    assert isinstance(layouts(optimizer), PythonLayouts)


def test_eager_steps_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: pytest.fail("an eager step asked for a compiler"))
    params = parameters(shapes=SHAPES)
    run(QHM(params), params, range(2))


def gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Another gradient for a parameter."""

    def give(param: Tensor) -> None:
        assert param.grad is not None
        given, param.grad = param.grad, None
        param.grad = change(given)

    return give


def transposed(param: Tensor) -> None:
    assert param.grad is not None
    param.data, param.grad.data = param.data.t(), param.grad.data.t()


def widened(param: Tensor) -> None:
    assert param.grad is not None
    param.data, param.grad = param.data.double(), None
    param.grad = torch.ones_like(param)


def negative(grad: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(grad), -grad).conj().imag


CHANGES: dict[str, Callable[[Tensor], None]] = {
    "a gradient that lies otherwise": gradient(lambda grad: torch.stack([grad, grad], -1)[..., 0]),
    "a gradient that is the negative of its memory": gradient(negative),
    "a sparse gradient": gradient(lambda grad: grad.to_sparse()),
    "a transposed parameter": transposed,
    "a parameter of another dtype": widened,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [Lion, QHM])
def test_a_change_between_steps_is_seen(make: Make, change: Callable[[Tensor], None]) -> None:
    shapes: list[tuple[int, ...]] = [(4, 3)] * MANY
    ours, twins = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, twin = compiled(make, ours, lr=0.1), make(twins, lr=0.1)
    for step in range(5):
        for params, each in ((ours, optimizer), (twins, twin)):
            give_gradients(params, step)
            if step == 2:
                known = each._arranged[0].layouts
                change(params[7])
                grads = [param.grad for param in params if param.grad is not None]
                assert not known.hold(params, grads)
                if change is widened:  # of its state, too
                    each.reset_state(params[7])
            each.step()
    assert_same(ours, twins)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_number_may_be_the_negative_of_its_memory(shape: tuple[int, ...]) -> None:
    """It lies as others do: nothing but a question of its own tells it."""
    ours, twins = parameters(shapes=[shape] * MANY), parameters(shapes=[shape] * MANY)
    optimizer, twin = compiled(QHM, ours), QHM(twins)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(twins, step)
        if step == 1:
            grad = ours[5].grad
            assert grad is not None
            ours[5].grad = negative(grad.view(())).view(shape)
            assert ours[5].grad.is_neg()
        optimizer.step()
        twin.step()
    assert_same(ours, twins)


def test_parameters_and_gradients_may_move_in_memory() -> None:
    ours, twins = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    optimizer, twin = compiled(SGDP, ours), compiled(SGDP, twins)
    run(twin, twins, range(3))
    held = []
    for step in range(3):
        give_gradients(ours, step)
        for param in ours:
            held.append(param.data)
            param.data = param.data.clone()
        before = layouts(optimizer) if step else None
        optimizer.step()
        assert before in (None, layouts(optimizer))
    assert_same(ours, twins)


def test_what_is_no_copy_of_bytes_is_gathered_by_torch() -> None:
    halves, wholes = (parameters(shapes=[(3, 4)] * MANY) for _ in range(2))
    for param in halves[::2]:
        param.data = param.data.bfloat16()
    optimizer, twin = compiled(QHM, halves), QHM(halves)
    run(optimizer, halves, range(1))
    assert isinstance(layouts(optimizer), native.NativeLayouts)
    assert packs(optimizer) == {sources.Pack}
    run(twin, halves, range(1))
    optimizer = compiled(QHM, wholes)
    run(optimizer, wholes, range(1))
    assert packs(optimizer) == {native.NativePack}


@pytest.mark.parametrize("kind", ["complex", "meta", "sparse", "subclass"])
def test_only_plain_numbers_in_memory_are_looked_at_in_c(kind: str) -> None:
    params = parameters(shapes=[(3, 4)] * MANY)
    grads = [torch.ones_like(param) for param in params]
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "complex": lambda grad: grad.to(torch.complex64),
        "meta": lambda grad: grad.to("meta"),
        "sparse": lambda grad: grad.to_sparse(),
        "subclass": lambda grad: grad.as_subclass(type("Mine", (Tensor,), {})),
    }
    given = Given(QHM.rule, params, grads, {}, "graph")
    assert native.NativeLayouts.of(given) is not None
    grads[3] = made[kind](grads[3])
    assert native.NativeLayouts.of(given) is None


# The compiler.


def a_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CC", str(program))


def test_without_a_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert native.library.__wrapped__() is None
    a_compiler(tmp_path, "exit 1", monkeypatch)
    assert native.library.__wrapped__() is None
    a_compiler(tmp_path, "exit 0", monkeypatch)  # it says that it wrote something
    assert native.library.__wrapped__() is None


def test_a_compiler_may_lack_openmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 'for word in "$@"; do [ "$word" = -fopenmp ] && exit 1; done; exec cc "$@"'
    a_compiler(tmp_path, refused, monkeypatch)
    library = native.library.__wrapped__()
    assert library is not None
    tensors = parameters(shapes=[(3, 4)] * 30)
    column = native.Column(library, tensors)
    assert column.lie(tensors)
    assert list(column.data) == [tensor.data_ptr() for tensor in tensors]


def test_another_torch_may_have_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    table, name = (ctypes.c_uint32 * 32)(99), b"dlpack_exchange_api"
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", new(table, name, None))
    assert native.library.__wrapped__() is None
    monkeypatch.delattr(Tensor, "__dlpack_c_exchange_api__")
    assert native.library.__wrapped__() is None
