"""The built-in problems `faces` and `faces-small`: turned and scaled patches of photographs of 40 people."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ravine.problems.autoencoders import autoencoder
from ravine.problems.data import files_of
from ravine.problems.problem import Problem
from ravine.problems.readers import read_faces

PEOPLE, PHOTOGRAPHS = 40, 10  # photographs of each
TRAINED, VALIDATED = 25, 30  # people 1 to 25 train, 26 to 30 validate, 31 to 40 test
SIDE = 25  # pixels of a patch
FRAME = 64  # pixels of the square photographs that patches are cut from
SCALES = (1.4, 1.8)  # pixels of the photograph to one of a patch: turned by any angle, the patch lies inside
LEVELS = 2**10  # of a unit of the standard deviation, so that rounding in the last place changes no picture
_KEY = 0


def faces() -> Problem:
    """Faces, turned and scaled patches of 25x25 pixels, to a 30-d code and back by a net of 8 layers. Fetched once.

    The net of the paper, 625-2000-1000-500-30 and its mirror image, logistic with linear outputs and squared error, on
    103,500 patches of people 1 to 25, 20,700 of people 26 to 30 to validate and 41,400 of people 31 to 40 to test: no
    face is in two of them. The paper's 750,000 updates. See `face_patches` for the pictures, `autoencoder` for net,
    loss and reported error. Raises UserError when the data are not fetched.
    """
    return _faces("faces", (625, 2000, 1000, 500, 30), patches=4140, steps=750_000)


def faces_small() -> Problem:
    """Faces, small: 625-128-64-30 and back on 5,000 patches of the same people; trains in minutes. Fetched once."""
    return _faces("faces-small", (625, 128, 64, 30), patches=200, steps=5_000)


def _faces(name: str, widths: tuple[int, ...], *, patches: int, steps: int) -> Problem:
    made = face_patches(read_faces(files_of("faces") / "faces.pgm"), patches, _KEY)
    train, validation, test = made.tensor_split([patches * TRAINED, patches * VALIDATED])
    return autoencoder(name, widths, train, test, output="linear", steps=steps, validation=validation)


def face_patches(photographs: Tensor, patches: int, seed: int) -> Tensor:
    """(40 * patches, 625) float32 patches, `patches` of each person in turn, from photographs (400, 112, 92) of bytes.

    The middle 92x92 of a photograph is reduced to 64x64 pixels (the Olivetti form of these photographs). A patch is
    25x25 points of one of the person's ten, bilinear, around the middle, turned by an angle from U(-90, 90) degrees,
    1.4 to 1.8 pixels apart (uniform). Then the mean of each pixel over all patches is taken away and everything is
    divided by one number, so that the variance of a pixel is 1 on average: the mean picture's error is about 625.

    The ranges are those that are reported of Hinton and Salakhutdinov's set of 165,600 (2006, supporting material),
    which is not to be had; how they sampled inside them was not published. That with them a turned patch just stays
    within the 64x64 pixels (25 * 1.8 * sqrt(2) / 2 = 31.8) speaks for this reading. Errors are comparable to
    published ones only relatively.
    """
    middle = photographs[:, 10:102].double().unsqueeze(1)
    frames = interpolate(middle, (FRAME, FRAME), mode="bilinear", antialias=True)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(PEOPLE, patches, 3, dtype=torch.float64, generator=generator)
    made = torch.stack([_patches(frames[PHOTOGRAPHS * k : PHOTOGRAPHS * (k + 1)], draws[k]) for k in range(PEOPLE)])
    pictures = made.flatten(0, 1)
    pictures -= pictures.mean(0)
    pictures /= pictures.square().mean().sqrt()
    return ((pictures * LEVELS).round() / LEVELS).float()


def _patches(frames: Tensor, draws: Tensor) -> Tensor:
    """(patches, 625) of one person's frames (10, 1, 64, 64); `draws` (patches, 3) choose frame, angle and scale."""
    chosen = frames[(draws[:, 0] * len(frames)).long()]
    angle = (draws[:, 1] - 0.5) * math.pi
    spacing = (SCALES[0] + (SCALES[1] - SCALES[0]) * draws[:, 2]) * 2 / FRAME  # in units of half a frame
    along = torch.arange(SIDE, dtype=draws.dtype) - (SIDE - 1) / 2
    x, y = along.expand(SIDE, SIDE), along.unsqueeze(1).expand(SIDE, SIDE)
    cosine, sine = ((f(angle) * spacing).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    points = torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)
    return grid_sample(chosen, points, mode="bilinear", align_corners=False).flatten(1)
