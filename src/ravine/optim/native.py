"""Copies between many small tensors and one piece, in a little C: `native.c`.

Torch takes longer to copy a thousand small tensors, one by one, than a step of all of them. So a compiled step, which
needs a C++ compiler anyway, has them copied by C: compiled in .3 s by the first step of a process that gathers as many,
and for that process alone, so that nothing is stored. Without a compiler, or with a torch that does not have DLPack's C
exchange API yet (before 2.10), torch does it, and the steps are the same.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from ctypes import PyDLL, c_int, c_int64, c_void_p, py_object
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ravine.optim.arithmetic import Piece
from ravine.optim.kernels import MANY, is_itself, plain
from ravine.optim.sources import Pack, working_dtype

if TYPE_CHECKING:
    from ravine.optim.batches import Given

ADD = {torch.float32: "add_float", torch.float64: "add_double"}


PROCESS = os.getpid()
"""The process that has OpenMP's threads: in one that was forked from it they are missing, and would be waited for."""


@cache
def library() -> PyDLL | None:
    """The functions of `native.c`, compiled; None where that fails."""
    try:
        table = Tensor.__dlpack_c_exchange_api__
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            made = _compiled(Path(folder) / "native.so")
    except (AttributeError, OSError, ValueError):  # no such table, no folder, no compiler, no library, an odd CC
        return None
    if not made.begin(py_object(table)):
        return None
    for name in ("gather", "scatter", *ADD.values()):
        getattr(made, name).argtypes = py_object, c_void_p, c_int64, c_int
    return made


def _compiled(target: Path) -> PyDLL:
    """`native.c` as a library, with OpenMP if the compiler has it: torch's own, which is in this process already."""
    headers = (sysconfig.get_path("include"), str(Path(torch.__file__).parent / "include"))
    words = ["-O3", "-shared", "-fPIC", *(f"-I{path}" for path in headers)]
    words += [str(Path(__file__).with_suffix(".c")), "-o", str(target)]
    command = [*shlex.split(os.environ.get("CC", "cc")), *words]
    if subprocess.run([*command, "-fopenmp"], check=False, capture_output=True).returncode:
        subprocess.run(command, check=False, capture_output=True)
    return PyDLL(str(target))


def pack_of(given: Given, places: list[int], point: Tensor, slope: Tensor) -> Pack:
    """A pack of small parameters with that room: copied by C in a step that is compiled, if they can be."""
    if given.way == "graph" and len(places) >= MANY and all(_is_bytes(given.params[k], given.grads[k]) for k in places):
        native = library()
        if native:
            return NativePack(native, given, places, point, slope)
    return Pack(given, places, point, slope)


def _is_bytes(param: Tensor, grad: Tensor) -> bool:
    """Whether to gather a parameter and its gradient is to copy bytes."""
    return all(
        plain(each)
        and each.device.type == "cpu"
        and each.layout is torch.strided
        and each.is_contiguous()
        and is_itself(each)
        and each.dtype == working_dtype(param)
        and each.shape == param.shape
        for each in (param, grad)
    )


class NativePack(Pack):
    """A pack of tensors that lie as its own memory does."""

    def __init__(self, native: PyDLL, given: Given, places: list[int], point: Tensor, slope: Tensor) -> None:
        super().__init__(given, places, point, slope)
        self.native = native

    def _call(self, name: str, tensors: list[Tensor], piece: Tensor) -> None:
        threads = torch.get_num_threads() if os.getpid() == PROCESS else 1
        getattr(self.native, name)(tensors, piece.data_ptr(), piece.nbytes, threads)

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        self._call("gather", self.params, self.point)
        return self.from_point(grads)

    def from_point(self, grads: Sequence[Tensor]) -> Piece:
        self._call("gather", [grads[k] for k in self.places], self.slope)
        return self.point, self.slope, *self.rest

    def scatter(self) -> None:
        self._call("scatter", self.params, self.point)
        increment_version(self.params)

    def add(self) -> None:
        self._call(ADD[self.point.dtype], self.params, self.point)
        increment_version(self.params)
