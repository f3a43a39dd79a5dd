"""Open what a pre-training run left behind, through every door, and look at what it learned.

    mcl-hf pretrain --recipe demo --output-dir demo-run
    python examples/open_checkpoint.py demo-run

The folder holds one set of weights. Which class opens it decides how much of it is used: the backbone alone, the whole
model with feature pyramid and region head, or the pre-training model to continue from.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from mcl_hf import MCLBackbone, MCLModel  # importing mcl_hf makes the Auto classes know the model
from mcl_hf.data import decode_image, open_source
from mcl_hf.viz import draw_similarity

# Three windmills, one of them in the box: a region that occurs again in the same picture.
PHOTO, BOX = "windmill3_01.jpg", (76, 74, 148, 146)


def embedded_photo(file_name: str) -> Image.Image:
    """One of the photos that come with the package."""
    photos = open_source("photos")
    index = next(index for index in range(len(photos)) if file_name in photos.name(index))
    return Image.fromarray(decode_image(photos.sample(index).bytes_))


def shapes(maps: tuple[torch.Tensor, ...]) -> str:
    return "  ".join("x".join(map(str, level.shape[1:])) for level in maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--image", type=Path, help="picture to look at (default: an embedded photo)")
    parser.add_argument("--box", nargs=4, type=float, help="region to look for, px (default with --image: the middle)")
    arguments = parser.parse_args()
    if not (arguments.run / "config.json").exists():
        parser.error(f"{arguments.run} holds no finished model: continue its run with --resume auto")
    image = Image.open(arguments.image).convert("RGB") if arguments.image else embedded_photo(PHOTO)
    box = arguments.box or (None if arguments.image else BOX)

    # --- the image processor: pixels as the model was trained on them ---------------------------------------------
    processor = AutoImageProcessor.from_pretrained(arguments.run)
    pixel_values = processor(image, return_tensors="pt").pixel_values
    print(f"AutoImageProcessor  {type(processor).__name__}: pixel_values {tuple(pixel_values.shape)}")

    # --- the backbone, for any detector of transformers -----------------------------------------------------------
    backbone = MCLBackbone.from_pretrained(arguments.run)
    with torch.no_grad():
        print(f"MCLBackbone         C2..C5  {shapes(backbone(pixel_values).feature_maps)}")

    # --- backbone, feature pyramid and region head ----------------------------------------------------------------
    model = MCLModel.from_pretrained(arguments.run)
    with torch.no_grad():
        print(f"MCLModel            P2..P5  {shapes(model(pixel_values).feature_maps)}")
        side = float(pixel_values.shape[-1])
        boxes = torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, side / 2, side / 2]])
        embeddings = model.embed_regions(pixel_values, [boxes])
        print(f"  embed_regions     {len(boxes)} boxes -> {tuple(embeddings.shape)}")

    # --- the same through transformers' Auto classes --------------------------------------------------------------
    auto = AutoModel.from_pretrained(arguments.run)
    same = all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in auto.state_dict().items())
    print(f"AutoModel           {type(auto).__name__}, {'the same weights' if same else 'OTHER weights'}")
    if (arguments.run / "pretraining").exists():
        whole = AutoModelForPreTraining.from_pretrained(arguments.run / "pretraining")
        parameters = sum(parameter.numel() for parameter in whole.parameters())
        print(
            f"pretraining/        {type(whole).__name__}, {parameters / 1e6:.1f} M parameters with target, to continue"
        )

    # --- what the region head finds similar -----------------------------------------------------------------------
    pictures = arguments.run / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_similarity(model, image, box).save(pictures / "similar_regions.png")
    print("pictures:", *sorted(str(path) for path in pictures.glob("*.png")), sep="\n  ")


if __name__ == "__main__":
    main()
