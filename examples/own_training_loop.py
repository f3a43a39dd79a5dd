"""Pre-train in a loop of your own: views from the library, everything else plain torch and Accelerate.

    python examples/own_training_loop.py my-images my-model
    torchrun --standalone --nproc-per-node 2 examples/own_training_loop.py my-images my-model     # several processes

For those who want another optimizer, schedule or logger than `mcl-hf pretrain` has. What that command adds and this
loop lacks: exact resume, checkpoints, checks for collapse, a log, pictures.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from mcl_hf import MCLConfig, MCLForPreTraining, MCLImageProcessor
from mcl_hf.data import ViewLoader, open_source
from mcl_hf.models import convert_cross_rank_norm

MOMENTUM = 0.99  # of the target network


def normalise(views: list[torch.Tensor], processor: MCLImageProcessor, device: torch.device) -> list[torch.Tensor]:
    """uint8 `(N, 3, s, s)` of each level -> what the network takes, by the processor's mean and standard deviation."""
    mean = torch.tensor(processor.image_mean, device=device).view(3, 1, 1)
    std = torch.tensor(processor.image_std, device=device).view(3, 1, 1)
    return [(view.to(device) / 255 - mean) / std for view in views]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of images, parquet files, a data set on the Hub, or 'photos'")
    parser.add_argument("output", help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps (1000)")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a process in a step (64)")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare views (0: this one)")
    arguments = parser.parse_args()

    accelerator = Accelerator(
        # Left to itself, Accelerate makes strangers of the processes that torchrun starts where there is no GPU.
        cpu=not torch.accelerator.is_available(),
        # Norms over all processes, and the queue of keys, are equal everywhere already.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    torch.manual_seed(0)

    # --- a small network: ResNet-18, 64 px views; its tiles of 64, 32 and 16 px are read from P5, P4 and P3 -----------
    config = MCLConfig(
        backbone="resnet18",
        fpn_channels=64,
        hidden_dim=256,
        embedding_dim=64,
        region_size=2,  # cells of the map that a tile covers: image_size = 32 x 2 px
        montage_ratios=[1, 2, 4],
        montage_fractions=[1, 1 / 4, 1 / 16],
        level_weights=[1 / 2, 1 / 4, 1 / 4],
    )
    network = MCLForPreTraining(config)
    if accelerator.num_processes > 1:
        network = convert_cross_rank_norm(network, accelerator.device.type)  # batch norm over all processes
    processor = MCLImageProcessor.from_config(config)

    # --- views: which images step s sees follows from the seed and s alone, with any number of workers ----------------
    views = ViewLoader(
        open_source(arguments.data),
        view_size=config.image_size,
        ratios=config.montage_ratios,
        batch_size=arguments.batch_size,
        seed=0,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=arguments.workers,
    )
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    model, optimizer = accelerator.prepare(network, optimizer)

    # --- steps --------------------------------------------------------------------------------------------------------
    for step, batch in zip(range(arguments.steps), views, strict=False):
        views_a, views_b = (normalise(side, processor, accelerator.device) for side in (batch.views_a, batch.views_b))
        output = model(views_a, views_b, group_ids=batch.group_ids)
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        network.update_target(MOMENTUM)  # after the optimizer, with the new weights
        if step % 10 == 0 or step == arguments.steps - 1:
            cosines = output.positive_similarity.mean(dim=1).tolist()  # (levels, sides) -> (levels,)
            levels = ", ".join(f"{cosine:.2f}" for cosine in cosines)
            accelerator.print(f"step {step + 1}: loss {output.loss.item():.3f}, cosine to own key by level {levels}")

    # --- backbone, FPN and region head: what every other command and class opens --------------------------------------
    if accelerator.is_main_process:
        network.mcl.save_pretrained(arguments.output)
        processor.save_pretrained(arguments.output)
        print(f"written: {arguments.output}; open it with MCLModel.from_pretrained({arguments.output!r})")


if __name__ == "__main__":
    main()
