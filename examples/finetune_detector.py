"""Fine-tune a Mask R-CNN in a loop of your own, measure its AP, and draw what it finds.

    python examples/finetune_detector.py my-run my-coco my-detector

`my-run` is a pre-training run (or `timm:resnet50`, or `random`, to compare), `my-coco` anything with boxes and masks
that `open_detection_data` reads: COCO, Cityscapes, tables, with a `train` and a `val` split. `mcl-hf finetune` does the
same and adds several processes, exact resume, schedules, logs and a card; this shows the parts.
"""

import argparse
from pathlib import Path

import torch

from mcl_hf import MCLForInstanceSegmentation, MCLImageProcessor
from mcl_hf.detection import evaluate_detections, open_detection_data, predict_data, to_results
from mcl_hf.evaluation.evaluation_files import drawn_images
from mcl_hf.finetuning.train_loader import DetectionBatch, DetectionLoader
from mcl_hf.finetuning.train_transform import TrainTransform
from mcl_hf.viz.detections import detections_picture


def normalise(batch: DetectionBatch, processor: MCLImageProcessor) -> torch.Tensor:
    """uint8 `(N, 3, H, W)` -> what the detector takes; the padding around smaller images stays 0."""
    pixels = torch.zeros(batch.pixels.shape)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    for filled, image, (height, width) in zip(pixels, batch.pixels, batch.image_sizes, strict=True):
        filled[:, :height, :width] = (image[:, :height, :width] / 255 - mean) / std
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", help="a pre-training run, timm:NAME or random")
    parser.add_argument("data", help="annotated images")
    parser.add_argument("output", type=Path, help="folder of the finished detector")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps (1000)")
    parser.add_argument("--batch-size", type=int, default=4, help="images in a step (4)")
    parser.add_argument("--side", type=int, default=320, help="shorter side of an image, px (320)")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="at the start (0.01)")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)

    # --- data: checked as a whole before anything is trained ----------------------------------------------------------
    train_data = open_detection_data(arguments.data, split="train")
    val_data = open_detection_data(arguments.data, split="val")
    transform = TrainTransform((arguments.side,), 2 * arguments.side, flip=0.5, masks=True, seed=0)
    batches = DetectionLoader(train_data, transform, batch_size=arguments.batch_size, seed=0)

    # --- the detector: backbone, FPN and box head start from the run; what was loaded is printed ----------------------
    detector = MCLForInstanceSegmentation.from_pretraining(
        arguments.start, id2label=train_data.id2label, min_size=arguments.side, max_size=2 * arguments.side
    ).to(device)
    processor = MCLImageProcessor.from_config(detector.config)
    weights = [weight for weight in detector.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=arguments.learning_rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)

    # --- steps --------------------------------------------------------------------------------------------------------
    detector.train()
    for step, batch in zip(range(arguments.steps), batches, strict=False):
        labels = [{name: tensor.to(device) for name, tensor in label.items()} for label in batch.labels]
        output = detector(normalise(batch, processor).to(device), labels=labels, image_sizes=batch.image_sizes)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)  # a new head's first steps are the wildest
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0 or step == arguments.steps - 1:
            losses = ", ".join(f"{name} {loss.item():.3f}" for name, loss in output.loss_dict.items())
            print(f"step {step + 1}: {losses}")

    # --- COCO's figures on the other split ----------------------------------------------------------------------------
    found = predict_data(detector.eval(), processor, val_data)
    results = to_results(found.detections, val_data)
    metrics = evaluate_detections(val_data, results, masks=True)
    print("\n".join(metrics.lines()))

    # --- a folder for from_pretrained and transformers' pipelines, and a picture --------------------------------------
    detector.save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)
    picture = detections_picture(
        drawn_images(val_data, results, count=6, score=0.3), f"detections of {arguments.output}"
    )
    picture.save(arguments.output / "detections.png")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
