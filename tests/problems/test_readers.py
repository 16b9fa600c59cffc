import struct
import sys
from pathlib import Path

import pytest
import torch

from ravine.errors import UserError, WorkError
from ravine.problems.readers import read_idx, read_strips

IMAGES = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
IDX = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 3, 4) + IMAGES.numpy().tobytes()


def test_idx_files_give_their_array(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(IDX)
    assert torch.equal(read_idx(path), IMAGES)
    path.write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes((9, 8, 7, 6, 255)))
    assert read_idx(path).tolist() == [9, 8, 7, 6, 255]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "not an idx file"),
        (b"\x1f\x8b\x08\x00rest", "not an idx file"),
        (IDX[:2] + b"\x0d" + IDX[3:], "not an idx file"),
        (IDX[:-1], "cut short or damaged"),
        (IDX + b"0", "cut short or damaged"),
        (IDX[:9], "cut short or damaged"),
        (bytes((0, 0, 8, 0)), "cut short or damaged"),
    ],
)
def test_anything_else_is_no_idx_file(tmp_path: Path, raw: bytes, sentence: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(raw)
    with pytest.raises(WorkError, match=sentence):
        read_idx(path)


def test_a_row_of_a_strip_is_one_picture_in_row_major_order(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = torch.randint(256, (5, 3, 2, 4), dtype=torch.uint8)  # pictures, channels, height, width
    strip = pictures.permute(0, 2, 3, 1).reshape(5, 8, 3)
    image.fromarray(strip.numpy()).save(tmp_path / "strip.png")
    assert torch.equal(read_strips(tmp_path / "strip.png", 2, 4), pictures)


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "strip.png"
    image.new("RGB", (9, 5)).save(path)
    with pytest.raises(WorkError, match=r"has shape \(5, 9, 3\), not \(pictures, 8, 3\)"):
        read_strips(path, 2, 4)
    image.new("L", (8, 5)).save(path)
    with pytest.raises(WorkError, match=r"has shape \(5, 8\)"):
        read_strips(path, 2, 4)
    image.effect_noise((8, 500), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WorkError, match="not a readable PNG"):
        read_strips(path, 2, 4)
    path.write_bytes(b"text")
    with pytest.raises(WorkError, match="not a readable PNG"):
        read_strips(path, 2, 4)


def test_without_pillow_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"needs Pillow; run `pip install 'ravine\[data\]'`"):
        read_strips(tmp_path / "strip.png", 2, 4)
