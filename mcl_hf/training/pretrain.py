"""`pretrain`: a whole pre-training run, as the command and as a Python call.

Where it sits: arguments -> checks -> data, model, optimizer on Accelerate -> loop -> finished folder. Everything that
can be wrong with the input is found before the first step.

    OUTPUT_DIR/
        config.json, model.safetensors, preprocessor_config.json, README.md    the finished model, slim
        pretraining/         the whole pre-training model
        checkpoints/         see state.py
        log.jsonl            see tracking.py
        pictures/            written by callbacks
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..data import ImageSource
from ..errors import InputError
from ..models import (
    MCLConfig,
    MCLForPreTraining,
    MCLForSupervisedPreTraining,
    MCLImageProcessor,
    convert_cross_rank_norm,
    load_starting_weights,
    recompute_activations,
)
from .arguments import PretrainArguments, load_arguments
from .arithmetic import set_arithmetic
from .checkpoint_writer import CheckpointWriter
from .finish import write_finished_model
from .health import FiniteGuard
from .launch import launched
from .loop import train
from .optim import build_optimizer, learning_rate_warning
from .resume import check_model, check_recipe, continue_from, find_start, output_folder
from .run import Run, on_main_process
from .run_data import open_data, open_loader
from .signals import StopRequest
from .state import (
    TrainingState,
    check_free_space,
    installed_versions,
    load_optimizer,
    read_training_state,
    remove_leftovers,
    should_save,
)
from .tracking import Tracking, check_trackers, read_log

_MODELS = {"contrastive": MCLForPreTraining, "supervised": MCLForSupervisedPreTraining}


@dataclass
class PretrainResult:
    """What came of a run.

    Attributes:
        output_dir: its folder.
        steps: optimizer steps done.
        metrics: the last record of log.jsonl.
        stopped_by: "SIGTERM" or "SIGINT" where a signal ended the run early (a checkpoint was written), else None.
    """

    output_dir: Path
    steps: int
    metrics: dict[str, Any]
    stopped_by: str | None = None


def pretrain(
    arguments: PretrainArguments | None = None,
    *,
    recipe: str | None = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> PretrainResult:
    """Pre-train, and write the finished model to `output_dir`.

    Args:
        arguments: all options; or leave it out and give
        recipe: name or YAML file, and
        options: fields of `PretrainArguments` on top of it.
        callbacks: objects with any of the methods of `mcl_hf.training.run.Callback`.

    Raises:
        InputError: something given cannot be used; nothing was trained, or the last whole checkpoint stays.
        NonFiniteLossError: the loss became infinite or NaN.

    Example:
        >>> import mcl_hf
        >>> result = mcl_hf.pretrain(recipe="demo", output_dir="demo-run", max_steps=2)  # doctest: +SKIP
        >>> result.steps  # doctest: +SKIP
        2

    Denormal numbers are flushed to zero on the CPU from here on in this process: they slow a step down several times.
    """
    if arguments is None:
        arguments = load_arguments(recipe, **options)
    elif recipe is not None or options:
        raise InputError("give either arguments, or a recipe and options, not both")
    config = arguments.model_config()  # fails on a wrong model before anything else
    output_dir = output_folder(arguments)
    check_trackers(arguments.report_to)
    with launched(arguments, output_dir) as accelerator:
        set_arithmetic(accelerator.device, arguments.tf32)
        return _pretrain(arguments, config, output_dir, accelerator, callbacks)


def _pretrain(
    arguments: PretrainArguments,
    config: MCLConfig,
    output_dir: Path,
    accelerator: Accelerator,
    callbacks: Sequence[Any],
) -> PretrainResult:
    # --- where to start ---------------------------------------------------------------------------------------------
    def prepare_folder() -> tuple[Path | None, list[str]]:
        found = find_start(output_dir, arguments.resume)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(output_dir)
        except OSError as error:
            raise InputError(f"output_dir {output_dir} cannot be written: {error.strerror}") from error
        return found

    checkpoint, lines = on_main_process(accelerator, prepare_folder)
    world_size, rank = accelerator.num_processes, accelerator.process_index
    batch_size, global_batch_size = arguments.batch_sizes(world_size)

    # --- data ---------------------------------------------------------------------------------------------------------
    source = open_data(arguments)
    lines.append(source.description)
    config = _fit_to_data(arguments, config, source, batch_size * world_size, lines)
    max_steps = arguments.total_steps(len(source), global_batch_size)
    state = TrainingState(
        world_size=world_size,
        global_batch_size=global_batch_size,
        max_steps=max_steps,
        arguments=asdict(arguments),
        data={"description": source.description, "fingerprint": source.fingerprint, "num_images": len(source)},
        versions=installed_versions(),
    )
    if checkpoint is not None:
        saved = read_training_state(checkpoint)
        lines += check_recipe(checkpoint, saved, state)
        continue_from(state, saved)
        lines.append(f"resuming after step {state.step} from {checkpoint}")
    loader = open_loader(
        arguments,
        config,
        source,
        batch_size,
        rank=rank,
        world_size=world_size,
        start_step=state.step * arguments.gradient_accumulation_steps,
        num_workers=arguments.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # --- model and optimizer ------------------------------------------------------------------------------------------
    network: Any = _build_network(arguments, config, checkpoint, lines)
    network = convert_cross_rank_norm(network, accelerator.device.type) if world_size > 1 else network
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    network = network.to(device=accelerator.device, memory_format=layout).train()
    if checkpoint is None:
        steps = [step for step in range(1, max_steps + 1) if should_save(step, arguments.save_every_steps, max_steps)]
        kept = (arguments.keep_last, arguments.keep_every)
        on_main_process(accelerator, lambda: check_free_space(output_dir, network, arguments.optimizer, steps, *kept))
    peak_lr = arguments.base_learning_rate * global_batch_size / 256
    optimizer = build_optimizer(network, arguments.optimizer, peak_lr, arguments.weight_decay)
    if checkpoint is not None:
        load_optimizer(checkpoint, network, optimizer)
    if arguments.activation_checkpointing:
        recompute_activations(network.mcl.backbone)
    if arguments.compile:
        for part in (network.mcl, getattr(network, "target", None)):
            for module in (part.backbone, part.fpn, part.region_head) if part is not None else ():
                module.compile()
    model, prepared = accelerator.prepare(network, optimizer)
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)

    # --- run ----------------------------------------------------------------------------------------------------------
    run = Run(
        arguments=arguments,
        accelerator=accelerator,
        model=model,
        network=network,
        optimizer=prepared,
        loader=loader,
        processor=MCLImageProcessor.from_config(config),
        mean=torch.tensor(config.image_mean, device=accelerator.device).mul(255).view(-1, 1, 1),
        scale=torch.tensor(config.image_std, device=accelerator.device).mul(255).view(-1, 1, 1),
        state=state,
        guard=FiniteGuard(
            accelerator.device,
            scaled=accelerator.scaler is not None,
            keep=arguments.gradient_accumulation_steps * arguments.log_every_steps,
        ),
        tracking=Tracking(output_dir, accelerator.is_main_process, max_steps, state.step),
        writer=CheckpointWriter(output_dir, arguments.keep_last, arguments.keep_every),
        stop=StopRequest(),
        output_dir=output_dir,
        peak_lr=peak_lr,
        warmup_steps=max_steps // 10 if arguments.warmup_steps is None else arguments.warmup_steps,
        callbacks=callbacks,
    )
    lines.append(
        f"{max_steps} steps of {global_batch_size} images ({world_size} process(es) x {batch_size} x "
        f"{arguments.gradient_accumulation_steps} accumulation steps) on {accelerator.device}, {arguments.precision}; "
        f"{arguments.optimizer}, learning rate up to {peak_lr:.4g}"
    )
    lines += learning_rate_warning(arguments.optimizer, global_batch_size)
    if run.warmup_steps > max_steps:
        lines.append(
            f"warning: warmup_steps {run.warmup_steps} is longer than the run's {max_steps} steps: the learning rate "
            f"never gets to {peak_lr:.4g}"
        )
    if arguments.probe_data is not None and not any(hasattr(callback, "on_record") for callback in callbacks):
        lines.append("warning: no probes without their callback, mcl_hf.cli.probing.RunProbe; mcl-hf pretrain has it")
    for line in lines:
        run.tracking.print(line)
    try:
        run.tracking.start_trackers(accelerator, state.arguments, state.tracker_ids)
        if accelerator.is_main_process and state.step:
            run.metrics = (read_log(output_dir / "log.jsonl") or [{}])[-1]
        with run.stop.listening():
            train(run)
        if run.state.step < max_steps:
            run.tracking.print(f"stopped by {run.stop.name} after step {state.step}: continue with --resume auto")
            return PretrainResult(output_dir, state.step, run.metrics, run.stop.name)
        on_main_process(accelerator, lambda: write_finished_model(run))
        run.notify("on_end")
        run.tracking.print(f"finished: {output_dir} opens with mcl_hf.MCLModel.from_pretrained")
        return PretrainResult(output_dir, state.step, run.metrics)
    finally:
        run.tracking.close()


def _fit_to_data(
    arguments: PretrainArguments, config: MCLConfig, source: ImageSource, keys: int, lines: list[str]
) -> MCLConfig:
    """The configuration with the number of classes, and a queue no larger than the data allows.

    Args:
        arguments: of the run.
        config: to be adapted.
        source: the data.
        keys: images of one forward pass on all ranks; with them, the queue must not hold an image twice.
        lines: a line about the queue is appended.

    Raises:
        InputError: the supervised objective without labels.
    """
    if arguments.objective == "supervised":
        if source.labels is None:
            raise InputError(
                f"objective 'supervised' needs labels, and {', '.join(arguments.data)} has none: name a --label-column"
            )
        return arguments.model_config(num_labels=source.num_labels)
    room = max(0, len(source) - keys)
    if config.queue_size > room:
        lines.append(
            f"queue_size {config.queue_size} is cut to {room}: {len(source)} images less the {keys} of a batch"
        )
        config.queue_size = room
    return config


def _build_network(arguments: PretrainArguments, config: MCLConfig, checkpoint: Path | None, lines: list[str]) -> Any:
    """The model: new, from starting weights, or from a checkpoint."""
    model_class: Any = _MODELS[arguments.objective]
    if checkpoint is None:
        torch.manual_seed(arguments.seed)
        network = model_class(config)
        if arguments.init is not None:
            try:
                lines.append(str(load_starting_weights(network, arguments.init)))
            except ValueError as error:
                raise InputError(f"--init {arguments.init}: {' '.join(str(error).split())}") from error
        return network
    check_model(checkpoint, MCLConfig.from_pretrained(checkpoint), config)
    network, info = model_class.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise InputError(
            f"{checkpoint} does not fit the model: {len(info['missing_keys'])} tensors missing, "
            f"{len(info['unexpected_keys'])} unknown"
        )
    return network
