"""Without labels: is an image found again in another view, and at every scale?

Flow: images -> two crops of each, at every size -> one crop is looked for among the others -> top-1.

Each of N images gives two crops. Both are rendered at the size of every level and tiled into montages as in
pre-training, so that each is an object among others in a larger scene, read from the level that a detector would look
at. First crops are the bank, second crops the queries; a query is right when its own image's crop is the nearest of the
N, and chance is 1 / N. Images that show the same thing count as different.

Across levels this asks for the same content at another size, which is harder than what pre-training asks for: there
every level has a predictor of its own, which is no part of the finished model.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..data import BrokenImage, ImageSource
from ..data.decode import as_picture
from ..data.sources.image_source import TableSource
from ..data.streams.tiles import TiledSource
from ..errors import InputError
from ..models import MCLConfig, MCLModel, assemble_montage
from .classify import nearest, share, summarise_levels
from .region_features import FEATURES, features_of_boxes, read_levels, to_tensor, undisturbed

LEAST_CROP = 0.6
"""Side of the smallest crop, as a share of the image's shorter side."""


class ViewProbe:
    """Crops of N images, made once, to be looked for with any network of this input size and number of channels.

    Args:
        source: of images.
        config: of the network: size of regions, levels, channels.
        num_images: N; fewer where the source has fewer.
        seed: of the crops.

    Raises:
        InputError: fewer than two images that can be read, or a network of other than 1 or 3 channels.
    """

    def __init__(self, source: ImageSource, config: MCLConfig, num_images: int = 128, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image_size, levels = config.image_size, read_levels(config)
        tiles: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {level: ([], []) for level in levels}
        for index in chosen_images(source, num_images):
            try:
                sample = source.sample(index).open(config.num_channels)
                picture = as_picture(sample.decode(config.num_channels))
            except BrokenImage:
                continue
            for side in range(2):
                crop = _crop(picture, self.image_size, generator)
                for level, tile_side in levels.items():
                    tile = crop.resize((tile_side, tile_side), Image.Resampling.BILINEAR)  # a copy at its own size
                    tiles[level][side].append(to_tensor(tile, config))
        self._count = len(next(iter(tiles.values()))[0])
        if self._count < 2:
            raise InputError(f"a probe needs two images that can be read, the data has {self._count}")
        self.scenes = {
            level: [self._montages(torch.stack(crops), generator) for crops in sides] for level, sides in tiles.items()
        }  # level -> bank, queries

    def __len__(self) -> int:
        return self._count

    @property
    def images(self) -> torch.Tensor:
        """uint8 `(B, C, S, S)`: the scenes of all levels and both sides."""
        return torch.cat([scenes for sides in self.scenes.values() for scenes, _, _ in sides])

    def _montages(
        self, tiles: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Tiles `(N, C, s, s)` -> scenes `(B, C, S, S)`, boxes of their cells, and which cell holds each image."""
        side = tiles.shape[-1]
        ratio = self.image_size // side
        cells = -(-len(tiles) // ratio**2) * ratio**2
        order = torch.randperm(len(tiles), generator=generator)
        images = order.repeat(-(-cells // len(tiles)))[:cells]  # the first N cells hold every image once
        rows, columns = torch.meshgrid(torch.arange(ratio), torch.arange(ratio), indexing="ij")
        corners = torch.stack([columns, rows], dim=-1).view(-1, 2) * float(side)  # (r^2, 2): x0, y0
        boxes = torch.cat([corners, corners + side], dim=1)  # (r^2, 4)
        return assemble_montage(tiles, images, ratio), [boxes] * (cells // ratio**2), order.argsort()

    def measure(self, model: MCLModel, names: Sequence[str] = FEATURES) -> dict[str, Any]:
        """Top-1 accuracy for each feature.

        Returns:
            `images`, `chance`, `levels`, and `features`: name -> {"across": rows of queries by columns of banks, in the
            order of `levels`; "same_level" and "other_level": means of its diagonal and of the rest}.
        """
        if model.config.image_size != self.image_size:
            raise ValueError(f"the crops are of {self.image_size} px, the model reads {model.config.image_size}")
        vectors: dict[str, list[dict[str, torch.Tensor]]] = defaultdict(list)  # level -> bank, queries: name -> (N, D)
        with undisturbed(model):
            for level, sides in self.scenes.items():
                for scenes, boxes, cell_of in sides:
                    found = features_of_boxes(model, scenes, boxes, names)
                    vectors[level].append({name: found[name][cell_of] for name in names})  # in the order of the images
        rows = torch.arange(len(self))
        features = {}
        for name in names:
            table = [
                [share(nearest(queries[name], bank[name]) == rows) for bank, _ in vectors.values()]
                for _, queries in vectors.values()
            ]
            features[name] = summarise_levels(table)
        return {"images": len(self), "chance": 1 / len(self), "levels": list(self.scenes), "features": features}


def chosen_images(source: ImageSource, num_images: int) -> list[int]:
    """Indices spread evenly over a table; of a stream, where far jumps cost, the first ones."""
    count = min(num_images, len(source))
    if isinstance(source, TableSource | TiledSource):
        return [position * len(source) // count for position in range(count)]
    return list(range(count))


def _crop(picture: Image.Image, side: int, generator: torch.Generator) -> Image.Image:
    """A square crop at a random place, of a random share of the shorter side, flipped every other time."""
    share, x, y, flip = torch.rand(4, generator=generator).tolist()
    length = min(picture.size) * (LEAST_CROP + (1 - LEAST_CROP) * share)
    left, top = x * (picture.width - length), y * (picture.height - length)
    crop = picture.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + length, top + length))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip < 0.5 else crop
