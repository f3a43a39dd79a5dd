"""Drop objects into a box and photograph them: real contact, real occlusion, exact masks.

Flow: contact_meshes -> **contact_render** -> contact. Physics by Bullet (a rigid body's collision shape is its convex
hull), picture and masks by its TinyRenderer on the CPU, at twice the asked size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .contact_meshes import Mesh, read_mesh

OBJECTS = (5, 14)
"""Least and largest number of objects of a scene."""
OBJECT_SCALE = (0.5, 1.4)
BOX_HALF_SIDE_M, WALL_HEIGHT_M, WALL_HALF_WIDTH_M = 0.14, 0.06, 0.006
STEPS_PER_SECOND, MAX_SECONDS = 240, 4.0
AT_REST_M_PER_S = 0.01
OVERSAMPLING = 2
FLOOR_TILES = 3
"""On each side of the box, so that the camera sees no end of the floor."""
_SILHOUETTE_OVERSAMPLING = 8
_NEAR_M, _FAR_M, _FIELD_OF_VIEW_DEGREES = 0.05, 3.0, 40.0


@dataclass
class Drop:
    """A rendered scene of n objects."""

    pixels: np.ndarray
    """float32 ``(S, S, 3)`` in 0..255."""
    owner: np.ndarray
    """int64 ``(S, S)``: the number of the object that is seen, -1 where none is."""
    whole_px: list[int]
    """Pixels that each object would cover if nothing covered it."""
    touching: list[list[int]]
    """For each object, the numbers of the objects that it touches."""


def drop_objects(
    objects: Sequence[Path], textures: Sequence[Path], walls: Sequence[Path], size: int, rng: np.random.Generator
) -> Drop:
    """Let objects fall into a box, wait until they lie, and render them.

    Args:
        objects: OBJ files.
        textures: a photo (JPEG or PNG file) for each.
        walls: a photo for the floor, and one for the walls.
        size: side of the picture, px.
        rng: source of all choices.
    """
    import pybullet  # type: ignore[import-not-found]  # optional, and ships no types

    client = pybullet.connect(pybullet.DIRECT)
    try:
        pybullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=client)
        pybullet.setGravity(0, 0, -9.81, physicsClientId=client)
        _add_box(pybullet, client, walls)
        bodies, meshes = [], []
        for number, (path, texture) in enumerate(zip(objects, textures, strict=True)):
            mesh = _scaled(read_mesh(path), float(rng.uniform(*OBJECT_SCALE)))
            height = 0.08 + 0.09 * number  # one above the other, lest they start inside each other
            place = [*rng.uniform(-0.5, 0.5, size=2) * BOX_HALF_SIDE_M, height]
            turn = rng.normal(size=4)
            bodies.append(_add_object(pybullet, client, mesh, texture, place, turn / np.linalg.norm(turn)))
            meshes.append(mesh)
        _settle(pybullet, client, bodies)
        return _photograph(pybullet, client, bodies, meshes, size, rng)
    finally:
        pybullet.disconnect(physicsClientId=client)


def majority(owner: np.ndarray, factor: int, count: int) -> np.ndarray:
    """Which of ``count`` objects, or -1 for none, owns most of each block of ``factor`` x ``factor`` pixels.

    Args:
        owner: int ``(S factor, S factor)``; -1 is nobody. A draw goes to nobody first, then to the lower number.
        factor: side of a block.
        count: number of objects.
    """
    size = owner.shape[0] // factor
    blocks = owner.reshape(size, factor, size, factor)
    shares = np.stack([(blocks == number).sum(axis=(1, 3)) for number in range(-1, count)])  # (count + 1, S, S)
    return shares.argmax(axis=0) - 1


def silhouette_px(points: np.ndarray, view: np.ndarray, projection: np.ndarray, size: int) -> int:
    """Pixels inside the picture that triangles cover, whatever stands in front of them.

    Args:
        points: float ``(3 T, 3)`` in the world, m, triangle by triangle.
        view, projection: float ``(4, 4)``, OpenGL's matrices.
        size: side of the picture, px.
    """
    clip = np.c_[points, np.ones(len(points))] @ view.T @ projection.T  # (3 T, 4)
    flat = clip[:, :2] / clip[:, 3:]  # (3 T, 2) in -1..1, y up
    fine = _SILHOUETTE_OVERSAMPLING * size  # a polygon is drawn with its edge, which would count for much at `size`
    pixels = np.c_[(flat[:, 0] + 1) / 2, (1 - flat[:, 1]) / 2] * fine - 0.5
    picture = Image.new("1", (fine, fine))
    draw = ImageDraw.Draw(picture)
    for triangle in pixels.reshape(-1, 6):
        draw.polygon(triangle.tolist(), fill=1)
    return round(np.asarray(picture).sum() / _SILHOUETTE_OVERSAMPLING**2)


def _scaled(mesh: Mesh, factor: float) -> Mesh:
    return Mesh(mesh.vertices * factor, mesh.corners * factor, mesh.normals, mesh.texture)


def _add_object(pybullet: Any, client: int, mesh: Mesh, texture: Path, place: Sequence[float], turn: np.ndarray) -> int:
    shape = pybullet.createVisualShape(
        pybullet.GEOM_MESH,
        vertices=mesh.corners.tolist(),
        indices=list(range(len(mesh.corners))),
        uvs=mesh.texture.tolist(),
        normals=mesh.normals.tolist(),
        physicsClientId=client,
    )
    solid = pybullet.createCollisionShape(pybullet.GEOM_MESH, vertices=mesh.vertices.tolist(), physicsClientId=client)
    body = pybullet.createMultiBody(0.1, solid, shape, list(place), turn.tolist(), physicsClientId=client)
    pybullet.changeDynamics(
        body, -1, lateralFriction=0.8, rollingFriction=0.002, spinningFriction=0.002, physicsClientId=client
    )
    _cover(pybullet, client, body, pybullet.loadTexture(str(texture), physicsClientId=client))
    return body


def _add_box(pybullet: Any, client: int, walls: Sequence[Path]) -> None:
    """A floor of tiles, each a whole photo as large as the box, and four walls."""
    side, half, thick = BOX_HALF_SIDE_M, WALL_HEIGHT_M / 2, WALL_HALF_WIDTH_M
    extents = (side, side, 0.05)
    tile = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=extents, physicsClientId=client)
    ground = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=extents, physicsClientId=client)
    floor, border = (pybullet.loadTexture(str(path), physicsClientId=client) for path in walls)
    for x in range(-FLOOR_TILES, FLOOR_TILES + 1):
        for y in range(-FLOOR_TILES, FLOOR_TILES + 1):
            place = [2 * side * x, 2 * side * y, -0.05]
            _cover(pybullet, client, pybullet.createMultiBody(0, ground, tile, place, physicsClientId=client), floor)
    for along in (-1, 1):
        for extents, place in (
            ((side, thick, half), [0.0, along * side, half]),
            ((thick, side, half), [along * side, 0.0, half]),
        ):
            shape = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=extents, physicsClientId=client)
            solid = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=extents, physicsClientId=client)
            body = pybullet.createMultiBody(0, solid, shape, place, physicsClientId=client)
            _cover(pybullet, client, body, border)


def _settle(pybullet: Any, client: int, bodies: list[int]) -> None:
    """Let time pass until nothing moves; at most `MAX_SECONDS`, since a round object may roll for long."""
    pause = STEPS_PER_SECOND // 4
    for _ in range(int(4 * MAX_SECONDS)):
        for _ in range(pause):
            pybullet.stepSimulation(physicsClientId=client)
        speeds = [pybullet.getBaseVelocity(body, physicsClientId=client)[0] for body in bodies]
        if np.linalg.norm(speeds, axis=1).max() < AT_REST_M_PER_S:
            return


def _cover(pybullet: Any, client: int, body: int, texture: int) -> None:
    pybullet.changeVisualShape(
        body, -1, textureUniqueId=texture, rgbaColor=[1, 1, 1, 1], specularColor=[0.1, 0.1, 0.1], physicsClientId=client
    )


def _photograph(
    pybullet: Any, client: int, bodies: list[int], meshes: list[Mesh], size: int, rng: np.random.Generator
) -> Drop:
    """A picture from above at a random angle, under a random light."""
    around, down = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(45, 80))
    distance = rng.uniform(0.35, 0.6)
    eye = distance * np.array([np.cos(around) * np.cos(down), np.sin(around) * np.cos(down), np.sin(down)])
    target = [*rng.uniform(-0.03, 0.03, size=2), 0.02]
    view = pybullet.computeViewMatrix(eye.tolist(), target, [0, 0, 1])
    projection = pybullet.computeProjectionMatrixFOV(_FIELD_OF_VIEW_DEGREES, 1.0, _NEAR_M, _FAR_M)
    large = OVERSAMPLING * size
    light = rng.uniform(0, 2 * np.pi)
    _, _, rgba, _, seen = pybullet.getCameraImage(
        large,
        large,
        view,
        projection,
        lightDirection=[np.cos(light), np.sin(light), rng.uniform(0.8, 2.5)],
        lightColor=(1 - 0.15 * rng.random(3)).tolist(),
        lightDistance=2.0,
        lightAmbientCoeff=rng.uniform(0.4, 0.6),
        lightDiffuseCoeff=rng.uniform(0.35, 0.6),
        lightSpecularCoeff=0.05,
        shadow=1,
        renderer=pybullet.ER_TINY_RENDERER,
        physicsClientId=client,
    )
    picture = Image.fromarray(np.asarray(rgba, dtype=np.uint8).reshape(large, large, 4)[..., :3])
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BOX)).astype(np.float32)  # (S, S, 3)
    number_of = {body: number for number, body in enumerate(bodies)}
    seen = np.asarray(seen).reshape(large, large)
    owner = np.full(seen.shape, -1)
    for body, number in number_of.items():
        owner[seen == body] = number
    world_to_eye, eye_to_clip = (np.array(matrix).reshape(4, 4).T for matrix in (view, projection))  # column-major
    whole, touching = [], []
    for body, mesh in zip(bodies, meshes, strict=True):
        place, turn = pybullet.getBasePositionAndOrientation(body, physicsClientId=client)
        rotation = np.array(pybullet.getMatrixFromQuaternion(turn)).reshape(3, 3)
        whole.append(silhouette_px(mesh.corners @ rotation.T + np.array(place), world_to_eye, eye_to_clip, size))
        points = pybullet.getContactPoints(bodyA=body, physicsClientId=client)
        touching.append(sorted({number_of[point[2]] for point in points if point[2] in number_of}))
    return Drop(pixels, majority(owner, OVERSAMPLING, len(bodies)), whole, touching)
