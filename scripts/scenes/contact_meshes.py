"""Meshes of the 1,000 random objects that come with pybullet, and where a photo lies on them.

Flow: **contact_meshes** -> contact_render -> contact. The objects (``pybullet_data/random_urdfs``, OBJ files) are
shapes grown at random for experiments on grasping; they have no texture coordinates, so a photo is projected on each
face along the axis that the face looks at most ("box projection").
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mcl_hf.errors import InputError

SCALE_M = 0.015
"""Metres for a unit of the files, as their URDFs say: objects of about ten centimetres."""


@dataclass(frozen=True)
class Mesh:
    """A mesh whose triangles share no corners, so that each may have its own normal and texture."""

    vertices: np.ndarray
    """float64 ``(V, 3)``, m; the distinct corners."""
    corners: np.ndarray
    """float64 ``(3 T, 3)``, m; triangle by triangle."""
    normals: np.ndarray
    """float64 ``(3 T, 3)``, unit length."""
    texture: np.ndarray
    """float64 ``(3 T, 2)`` in 0..1."""


def object_folder() -> Path:
    """Where pybullet keeps its random objects.

    Raises:
        InputError: pybullet is not installed, or without them.
    """
    try:
        import pybullet  # type: ignore[import-not-found] # noqa: F401  # optional, and ships no types
        import pybullet_data  # type: ignore[import-untyped]  # the same
    except ImportError as error:
        raise InputError(f"contact scenes need the package pybullet ({error}): pip install pybullet") from error
    folder = Path(pybullet_data.getDataPath()) / "random_urdfs"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: this build of pybullet comes without its random objects.")
    return folder


def object_names(folder: Path) -> list[str]:
    """Names of the objects, ``000`` to ``999``."""
    return sorted(path.name for path in folder.iterdir() if (path / f"{path.name}.obj").is_file())


@lru_cache(maxsize=1024)
def read_mesh(path: Path, scale: float = SCALE_M) -> Mesh:
    """The mesh of an OBJ file, its lines ``v`` and ``f`` (triangles)."""
    vertices, faces = [], []
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(field) for field in fields[:3]])
        elif kind == "f":
            faces.append([int(field.split("/")[0]) - 1 for field in fields])
    points = scale * np.array(vertices)  # (V, 3)
    return textured(points, np.array(faces))


def textured(points: np.ndarray, faces: np.ndarray) -> Mesh:
    """Normals and box-projected texture coordinates of triangles.

    Args:
        points: float ``(V, 3)``.
        faces: int ``(T, 3)``.
    """
    triangles = points[faces]  # (T, 3 corners, 3)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    corners = triangles.reshape(-1, 3)  # (3 T, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    placed = (corners - low) / max(float((high - low).max()), 1e-12)  # keeps the photo's proportions
    # The two axes that the face does not look along.
    axes = np.array([[1, 2], [0, 2], [0, 1]])[np.abs(normals).argmax(axis=1)].repeat(3, axis=0)  # (3 T, 2)
    return Mesh(points, corners, normals.repeat(3, axis=0), np.take_along_axis(placed, axes, axis=1))
