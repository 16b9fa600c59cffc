"""Readers of the files that data sets come in; each gives a uint8 tensor."""

from __future__ import annotations

import re
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


def read_faces(path: Path) -> Tensor:
    """The photographs (pictures, 112, 92) of binary PGM files, written one after the other.

    Some of the ORL files went through a program that writes every line feed as carriage return and line feed, bytes of
    pixels among them; here that is undone. In a picture with one pair too many, one pair was there before: that one
    whose shift leaves neighbouring rows most alike. Raises WorkError when the file is anything else.
    """
    bodies = re.split(rb"P5\r?\n92 112\r?\n255\r?\n", path.read_bytes())
    if len(bodies) < 2 or bodies[0]:
        raise WorkError(f"{path} is no row of PGM pictures of 92 x 112 pixels")
    return torch.from_numpy(np.stack([_face(path, body) for body in bodies[1:]]))


def _face(path: Path, body: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    size, parts = 112 * 92, body.split(b"\r\n")
    found = [body] if len(body) == size else [b"\n".join(parts)]
    if len(found[0]) == size - 1:
        found = [b"\n".join(parts[:k]) + b"\r\n" + b"\n".join(parts[k:]) for k in range(1, len(parts))]
    if len(found[0]) != size:
        raise WorkError(f"{path} is cut short or damaged: a picture has {len(body)} bytes in place of {size}")
    pictures = [np.frombuffer(one, np.uint8).reshape(112, 92) for one in found]
    return min(pictures, key=lambda picture: int(np.abs(np.diff(picture.astype(int), axis=0)).sum()))
