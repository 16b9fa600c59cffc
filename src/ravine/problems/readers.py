"""Readers of the files that data sets come in; each gives a uint8 tensor."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ravine.errors import UserError, WorkError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """The array of an idx file of unsigned bytes, in its own shape.

    Format: two zero bytes, a type byte (8), the number of dimensions, that many big-endian 32-bit sizes, the values in
    row-major order (LeCun, Cortes and Burges, The MNIST database). Raises WorkError when the file is anything else.
    """
    raw = path.read_bytes()
    if len(raw) < 4 or raw[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise WorkError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:start]) if len(raw) >= start else ()
    if not shape or len(raw) - start != prod(shape):
        raise WorkError(f"{path} is cut short or damaged: its {len(raw)} bytes do not fit its header")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


def read_strips(path: Path, height: int, width: int) -> Tensor:
    """Colour pictures (pictures, 3, height, width) of a PNG in which every pixel row is one picture, itself row-major.

    Raises UserError without Pillow, WorkError when the file is no such picture.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UserError(f"reading {path.name} needs Pillow; run `pip install 'ravine[data]'`") from error
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise WorkError(f"{path} is not a readable PNG: {error}") from error
    if pixels.ndim != 3 or pixels.shape[1:] != (height * width, 3):
        raise WorkError(f"{path} has shape {pixels.shape}, not (pictures, {height * width}, 3)")
    return torch.from_numpy(pixels.reshape(-1, height, width, 3)).permute(0, 3, 1, 2).contiguous()
