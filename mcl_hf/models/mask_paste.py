"""Masks within boxes -> masks of the whole picture, in the image processor's post-processing.

Each pixel's centre reads the mask at its place within the box, between the centres of the mask's cells, as in
detectron2's `paste_masks_in_image`; torchvision's rounds boxes, which shifts masks by up to half a pixel.
"""

import torch
import torch.nn.functional as F

_PIXELS_AT_ONCE = 2**24  # of all masks that exist in float32 at a time
_LEAST_SIDE = 1e-6  # px, of a box: what is divided by


def paste_masks(
    probabilities: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """`(d, height, width)` bool: where each mask is above the threshold. Off the CPU no value is read by the host.

    Args:
        probabilities: `(d, R, R)` float32 within each box.
        boxes: `(d, 4)` x0, y0, x1, y1 in px of the picture.
        size: (height, width) of the picture, px.
        threshold: pixels above this probability belong to the mask.
    """
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    # The CPU, which can look at the boxes for nothing, computes what is near each box alone.
    on_cpu = boxes.device.type == "cpu"
    at_once = 1 if on_cpu else max(1, _PIXELS_AT_ONCE // (height * width))
    for start in range(0, len(boxes), at_once):
        some = slice(start, start + at_once)
        rows, columns = _near(boxes[start], probabilities.shape[-1], size) if on_cpu else ((0, height), (0, width))
        grid = torch.stack(
            torch.broadcast_tensors(
                _places(boxes[some, 0], boxes[some, 2], *columns)[:, None, :],
                _places(boxes[some, 1], boxes[some, 3], *rows)[:, :, None],
            ),
            dim=-1,
        )  # (n, h, w, 2): x and y, -1 and 1 at the sides of the box
        pasted = F.grid_sample(probabilities[some, None], grid, align_corners=False)[:, 0]  # 0 outside of the mask
        masks[some, slice(*rows), slice(*columns)] = pasted > threshold
    return masks


def _places(low: torch.Tensor, high: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """`(n, end - start)`: where the centres of some pixels lie between the sides `(n,)` of boxes, -1 to 1 within."""
    centres = torch.arange(start, end, device=low.device, dtype=low.dtype) + 0.5
    places = (centres - low[:, None]) / (high - low).clamp(min=_LEAST_SIDE)[:, None] * 2 - 1
    return places.clamp(-3, 3)  # beyond 2 everything is outside of the mask; huge numbers would overflow


def _near(box: torch.Tensor, cells: int, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns (from, to) of the pixels to which a mask in the box can reach: half a cell around it."""
    x0, y0, x1, y1 = box.tolist()
    reach_x, reach_y = 1 + (x1 - x0) / (2 * cells), 1 + (y1 - y0) / (2 * cells)
    rows = max(0, int(y0 - reach_y)), min(size[0], int(y1 + reach_y) + 1)
    columns = max(0, int(x0 - reach_x)), min(size[1], int(x1 + reach_x) + 1)
    return (min(rows), max(rows)), (min(columns), max(columns))
