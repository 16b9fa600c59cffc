"""Many small tensors at a time in a compiled step, by a little C: `native.c`.

Python takes longer to look at a thousand tensors, and torch to copy them one by one, than the step of all of them. So
where a C compiler is found, as a compiled step needs one anyway, both are done in C: compiled in .3 s by the first
process that has 24 tensors or more to step, and for that process alone, so that nothing is stored. Without a compiler
(or with a torch that does not have DLPack's C exchange API, before 2.10) Python does it, with the same steps.
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
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ravine.optim.arithmetic import Piece
from ravine.optim.kernels import MANY, plain
from ravine.optim.sources import Pack, working_dtype

if TYPE_CHECKING:
    from ravine.optim.batches import Given

ADD = {torch.float32: "add_float", torch.float64: "add_double"}


@cache
def library() -> PyDLL | None:
    """The functions of `native.c`, compiled; None where that fails."""
    table = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if table is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = _compiled(Path(folder) / "native.so")
    if made is None or not made.begin(py_object(table)):
        return None
    made.record.argtypes, made.record.restype = (py_object, c_void_p, c_void_p), c_int64
    made.lie_as.argtypes = (py_object, c_void_p, c_void_p)
    for name in ("gather", "scatter", *ADD.values()):
        function = getattr(made, name)
        function.argtypes, function.restype = (c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_int), None
    return made


def _compiled(target: Path) -> PyDLL | None:
    """`native.c` as a library, with OpenMP if the compiler has it: torch's own, which is in this process already."""
    source = Path(__file__).with_suffix(".c")
    headers = (sysconfig.get_path("include"), Path(torch.__file__).parent / "include")
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O3", "-shared", "-fPIC", *(f"-I{path}" for path in headers)]
    for threads in (["-fopenmp"], []):
        try:
            subprocess.run([*command, *threads, source, "-o", target], check=True, capture_output=True)
            return PyDLL(str(target))
        except (OSError, subprocess.CalledProcessError):
            continue
    return None


class NativeLayouts:
    """`ravine.optim.layouts.Layouts` in C; since it was last asked it knows where in memory each tensor is."""

    def __init__(self, native: PyDLL, params: Column, grads: Column) -> None:
        self.native, self.params, self.grads = native, params, grads

    @classmethod
    def of(cls, given: Given) -> NativeLayouts | None:
        """For many plain tensors of real numbers, each with memory of its own; else None."""
        columns = given.params, given.grads
        if len(given.params) < MANY or not all(_is_itself(tensor) for column in columns for tensor in column):
            return None
        native = library()
        return cls(native, *(Column(native, column) for column in columns)) if native else None

    def hold(self, params: list[Tensor], grads: list[Tensor]) -> bool:
        return self.params.lie(params) and self.grads.lie(grads) and not any([grad.is_neg() for grad in grads])

    def pack(self, given: Given, places: list[int], point: Tensor, slope: Tensor) -> Pack:
        if all(_is_copied(given.params[k], given.grads[k]) for k in places):
            return NativePack(self, given, places, point, slope)
        return Pack(given, places, point, slope)


def _is_itself(tensor: Tensor) -> bool:
    """Whether a tensor is what its memory says."""
    strided = plain(tensor) and tensor.layout is torch.strided and not tensor.is_meta
    return strided and not tensor.is_complex() and not tensor.is_neg()


def _is_copied(param: Tensor, grad: Tensor) -> bool:
    """Whether to gather a parameter and its gradient is to copy bytes."""
    return all(
        each.device.type == "cpu"
        and each.dtype == working_dtype(param)
        and each.is_contiguous()
        and each.shape == param.shape
        for each in (param, grad)
    )


class Column:
    """Tensors of which it is known how they lie; ``data``: their addresses."""

    def __init__(self, native: PyDLL, tensors: list[Tensor]) -> None:
        self.native, self.data = native, (c_void_p * len(tensors))()
        self.known = (c_int64 * native.record(tensors, None, self.data))()
        native.record(tensors, self.known, self.data)

    def lie(self, tensors: list[Tensor]) -> bool:
        """Whether these lie as those did; their addresses may be others."""
        return len(tensors) == len(self.data) and bool(self.native.lie_as(tensors, self.known, self.data))


class NativePack(Pack):
    """A pack of tensors that lie as its own memory does: their bytes are copied."""

    def __init__(self, layouts: NativeLayouts, given: Given, places: list[int], point: Tensor, slope: Tensor) -> None:
        super().__init__(given, places, point, slope)
        self.layouts, count = layouts, len(places)
        ends = accumulate((param.nbytes for param in self.params), initial=0)
        self.order = (c_int64 * count)(*places), (c_int64 * (count + 1))(*ends), count

    def _call(self, name: str, column: Column, whole: Tensor) -> None:
        """Copy or add between tensors and a piece."""
        getattr(self.layouts.native, name)(column.data, *self.order, whole.data_ptr(), torch.get_num_threads())

    def gather(self, grads: Sequence[Tensor]) -> Piece:
        self._call("gather", self.layouts.params, self.point)
        return self.from_point(grads)

    def from_point(self, grads: Sequence[Tensor]) -> Piece:
        self._call("gather", self.layouts.grads, self.slope)
        return self.point, self.slope, *self.slots

    def scatter(self) -> None:
        self._call("scatter", self.layouts.params, self.point)
        increment_version(self.params)

    def add(self) -> None:
        self._call(ADD[self.point.dtype], self.layouts.params, self.point)
        increment_version(self.params)
