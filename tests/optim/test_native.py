"""What C copies for a compiled step of many small tensors is what torch copies."""

import ctypes
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cases_optim import Make, assert_same, every, give_gradients, parameters, run
from ravine.optim import QHM, SGDP, RuleOptimizer, native, sources
from ravine.optim.kernels import MANY

SHAPES: list[tuple[int, ...]] = [(30, 40), (5,), (), (0,), (3, 1, 7), (30, 40)] * MANY


def compiled(make: Make, params: list[Tensor], **options: float) -> RuleOptimizer:
    """One that steps as a compiled optimizer does, by a compiler that does nothing."""
    optimizer = make(params, **options)
    optimizer.compile(lambda graph, _: graph.forward)
    return optimizer


def packs(optimizer: RuleOptimizer) -> set[type]:
    return {type(source) for part in optimizer._arranged[0].parts for source in part.sources}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torch(
    make: Make, dtype: torch.dtype, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twins = parameters(dtype=dtype, shapes=SHAPES), parameters(dtype=dtype, shapes=SHAPES)
    optimizer = compiled(make, ours, lr=0.1, weight_decay=decay)
    run(optimizer, ours, range(3))
    monkeypatch.setattr(native, "library", lambda: None)
    twin = compiled(make, twins, lr=0.1, weight_decay=decay)
    run(twin, twins, range(3))
    assert native.NativePack not in packs(twin)
    assert_same(ours, twins)
    if native.NativePack in packs(optimizer):
        before = [param._version for param in ours]
        run(optimizer, ours, range(3, 4))
        assert [param._version for param in ours] == [version + 1 for version in before]
    else:
        assert packs(optimizer) == set()  # all of it is stepped by a kernel


def test_an_eager_step_and_one_of_few_tensors_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: pytest.fail("it asked for a compiler"))
    params, few = parameters(shapes=SHAPES), parameters(shapes=[(3, 4)] * (MANY - 1))
    run(QHM(params), params, range(2))
    run(compiled(QHM, few), few, range(2))


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
        before = optimizer._arranged.get(0)
        optimizer.step()
        assert before in (None, optimizer._arranged[0])
    assert_same(ours, twins)


def without_order(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


def negative(tensor: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def without_memory(tensor: Tensor) -> Tensor:
    return torch._efficientzerotensor(tensor.shape)


@pytest.mark.parametrize("change", [without_order, negative, without_memory])
@pytest.mark.parametrize("shape", [(4, 3), (1,), ()])
def test_what_is_no_copy_of_bytes_is_copied_by_torch(
    shape: tuple[int, ...], change: Callable[[Tensor], Tensor]
) -> None:
    ours, twins = parameters(shapes=[shape] * MANY), parameters(shapes=[shape] * MANY)
    optimizer, twin = compiled(QHM, ours), QHM(twins)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(twins, step)
        if step == 1:
            grad = ours[5].grad
            assert grad is not None
            ours[5].grad = change(grad)
            if change is without_memory:
                twins[5].grad = torch.zeros_like(twins[5])
        optimizer.step()
        twin.step()
        bytes_alone = step != 1 or (change is without_order and shape != (4, 3))
        assert packs(optimizer) == {native.NativePack if bytes_alone else sources.Pack}
    assert_same(ours, twins)


def test_half_precision_is_copied_by_torch() -> None:
    params = parameters(shapes=[(3, 4)] * MANY)
    for param in params[::2]:
        param.data = param.data.bfloat16()
    optimizer = compiled(QHM, params)
    run(optimizer, params, range(1))
    assert packs(optimizer) == {sources.Pack}


# The compiler.


def a_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CC", str(program))


def test_without_a_compiler_there_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert native.library.__wrapped__() is None
    monkeypatch.setenv("CC", 'cc "')
    assert native.library.__wrapped__() is None
    a_compiler(tmp_path, "exit 1", monkeypatch)
    assert native.library.__wrapped__() is None
    a_compiler(tmp_path, "exit 0", monkeypatch)  # it says that it wrote something
    assert native.library.__wrapped__() is None


@pytest.mark.parametrize("folder", ["nowhere", "/proc"])
def test_without_a_folder_for_it_there_is_no_library(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    assert native.library.__wrapped__() is None


def test_a_forked_process_steps_on() -> None:
    program = """
import os, sys, torch
from cases_optim import parameters, run
from ravine.optim import QHM, native

torch.set_num_threads(2)
params = parameters(shapes=[(30, 30)] * 30)  # large enough for two threads in C, and not in torch
optimizer = QHM(params)
optimizer.compile(lambda graph, _: graph.forward)
run(optimizer, params, range(2))
child = os.fork()
if not child:
    run(optimizer, params, range(2, 3))
    os._exit(0 if native.NativePack is type(optimizer._arranged[0].parts[0].sources[0]) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ, **paths}, timeout=60)
    assert done.returncode == 0


def test_a_compiler_may_lack_openmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 'for word in "$@"; do [ "$word" = -fopenmp ] && exit 1; done; exec cc "$@"'
    a_compiler(tmp_path, refused, monkeypatch)
    library = native.library.__wrapped__()
    assert library is not None
    tensors = parameters(shapes=[(3, 4)] * 30)
    assert library.gather(tensors, (piece := torch.empty(30, 3, 4)).data_ptr(), piece.nbytes, 2) == 0
    assert torch.equal(piece, torch.stack(tensors))


def test_nothing_is_written_beyond_a_piece() -> None:
    library, tensors, piece = native.library(), parameters(shapes=[(3, 4)] * 30), torch.zeros(30, 3, 4)
    assert library is not None
    with pytest.raises(ValueError, match="differ in size"):
        library.gather(tensors[1:], piece.data_ptr(), piece.nbytes, 2)
    with pytest.raises(ValueError, match="differ in size"):
        library.scatter(tensors, piece.data_ptr(), piece.nbytes - 4, 2)
    with pytest.raises(SystemError, match="bad argument"):
        library.gather(tuple(tensors), piece.data_ptr(), piece.nbytes, 2)
    with pytest.raises(ValueError, match="no memory"):
        library.gather([torch._efficientzerotensor((30, 3, 4))], piece.data_ptr(), piece.nbytes, 2)
    with pytest.raises(RuntimeError, match="storage"):
        library.gather([tensors[0].detach().to_sparse()], piece.data_ptr(), piece.nbytes, 2)
    assert not piece.any()


def test_another_torch_may_have_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    table, name = (ctypes.c_uint32 * 32)(99), b"dlpack_exchange_api"
    for capsule in (new(table, name, None), new(table, b"another", None), None):
        monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", capsule)
        assert native.library.__wrapped__() is None
    monkeypatch.delattr(Tensor, "__dlpack_c_exchange_api__")
    assert native.library.__wrapped__() is None
