"""`pretrain`: a whole pre-training run, as the command and as a Python call.

Where it sits: arguments -> data, model, optimizer on Accelerate -> loop (`lifecycle.py` has what every task's run goes
through) -> finished folder. Everything that can be wrong with the input is found before the first step.

    OUTPUT_DIR/
        config.json, model.safetensors, preprocessor_config.json, README.md    the finished model, slim
        pretraining/         the whole pre-training model
        checkpoints/         see state.py
        log.jsonl            see tracking.py
        pictures/            written by callbacks
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..data import ImageSource
from ..data.sources.licences import describe_sources
from ..engine.arithmetic import chosen_precision, emulation_warning, set_arithmetic
from ..engine.finish import write_finished
from ..engine.launch import launched
from ..engine.lifecycle import RunResult, continue_state, open_folder, prepare_run, run_to_end
from ..engine.optim import build_optimizer, learning_rate_warning
from ..engine.options import given_options
from ..engine.provenance import machine, recipe_record, recorded_options, start_record
from ..engine.resume import COMPARED_BY_RESULT, WITHOUT_INFLUENCE, RecipeRules, check_model
from ..engine.run import Callbacks, Run, on_main_process
from ..engine.state import TrainingState, installed_versions, read_training_state
from ..engine.tracking import check_trackers
from ..errors import InputError
from ..models import (
    MCLConfig,
    MCLForPreTraining,
    MCLForSupervisedPreTraining,
    MCLImageProcessor,
    convert_cross_rank_norm,
    recompute_activations,
)
from ..new_folder import output_folder
from ..transfer.starting_weights import (
    load_starting_weights,
    starting_backbone,
    starting_description,
    starting_statistics,
)
from .arguments import MODEL_FIELDS, PretrainArguments, load_arguments
from .collapse import HealthWatch
from .run_data import open_data, open_loader
from .step import PretrainRun, train_step

RULES = RecipeRules(
    ("objective", "optimizer"), frozenset(WITHOUT_INFLUENCE), frozenset({*MODEL_FIELDS, *COMPARED_BY_RESULT})
)
_MODELS = {"contrastive": MCLForPreTraining, "supervised": MCLForSupervisedPreTraining}


def pretrain(
    arguments: PretrainArguments | None = None,
    *,
    recipe: str | None = None,
    callbacks: Callbacks = (),
    model_class: type[MCLForPreTraining] | type[MCLForSupervisedPreTraining] | None = None,
    **options: Any,
) -> RunResult:
    """Pre-train, and write the finished model to `output_dir`.

    Args:
        arguments: all options; or leave it out and give
        recipe: name or YAML file, and
        options: fields of `PretrainArguments` on top of it.
        callbacks: objects with any of the methods of `mcl_hf.engine.run.Callback`, or what makes them of the options;
            `mcl_hf.pretrain` takes None, its default, for `mcl_hf.callbacks.default_callbacks`.
        model_class: a variant of the objective's model, for experiments; None: the model itself.

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
    arguments = given_options(arguments, load_arguments, recipe, options)
    arguments.model_config()  # fails on a wrong model before anything else
    output_dir = output_folder(arguments.output_dir, arguments.data)
    check_trackers(arguments.report_to)
    hung_in = list(callbacks(arguments) if callable(callbacks) else callbacks)
    with launched(arguments, output_dir) as accelerator:
        spare_memory = arguments.sides_in_turn or arguments.activation_checkpointing
        set_arithmetic(accelerator.device, arguments.tf32, fixed_shapes=True, spare_memory=spare_memory)
        return _pretrain(arguments, output_dir, accelerator, hung_in, model_class)


def _pretrain(
    arguments: PretrainArguments, output_dir: Path, accelerator: Accelerator, callbacks: Sequence[Any], model_class: Any
) -> RunResult:
    # --- where to start ---------------------------------------------------------------------------------------------
    checkpoint, lines = open_folder(accelerator, output_dir, arguments.resume)
    world_size = accelerator.num_processes
    batch_size, global_batch_size = arguments.batch_sizes(world_size)
    recipe = recipe_record(arguments.recipe, RULES.without_influence)
    arguments = replace(arguments, precision=chosen_precision(arguments.precision, accelerator.device))
    arguments = as_the_start(arguments, checkpoint)
    config = arguments.model_config()

    # --- data ---------------------------------------------------------------------------------------------------------
    source = open_data(arguments)
    lines.append(source.description)
    config = _fit_to_data(arguments, config, source, batch_size * world_size, lines, checkpoint)
    max_steps = arguments.total_steps(len(source), global_batch_size)
    state = TrainingState(
        world_size=world_size,
        global_batch_size=global_batch_size,
        max_steps=max_steps,
        arguments=recorded_options(arguments),
        data={
            "description": source.description,
            "fingerprint": source.fingerprint,
            "num_images": len(source),
            "sources": describe_sources(arguments.data),
        },
        versions=installed_versions(),
        recipe=recipe,
        start=start_record(arguments.init),
        machines=[machine(accelerator.device)],
    )
    lines += continue_state(checkpoint, state, RULES)
    lines += emulation_warning(accelerator.device, arguments.precision)
    loader = open_loader(
        arguments,
        config,
        source,
        batch_size,
        rank=accelerator.process_index,
        world_size=world_size,
        start_step=state.step * arguments.gradient_accumulation_steps,
        num_workers=arguments.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # --- model and optimizer ------------------------------------------------------------------------------------------
    network: Any = _build_network(arguments, config, checkpoint, lines, model_class or _MODELS[arguments.objective])
    if world_size > 1:
        network = convert_cross_rank_norm(network, accelerator.device.type, arguments.compile)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    network = network.to(device=accelerator.device, memory_format=layout).train()
    peak_lr = arguments.base_learning_rate * global_batch_size / 256
    optimizer = build_optimizer(
        network, arguments.optimizer, peak_lr, arguments.weight_decay, arguments.backbone_lr_scale
    )
    if arguments.activation_checkpointing:
        recompute_activations(network.mcl.backbone)
    if arguments.compile:
        if world_size > 1:  # keep each part one graph: DDP would have it cut where its buckets of gradients end
            torch._dynamo.config.optimize_ddp = False
        compile_parts(network)
    model, prepared = prepare_run(accelerator, arguments, network, optimizer, checkpoint, state, output_dir)

    # --- run ----------------------------------------------------------------------------------------------------------
    run = PretrainRun(
        arguments=arguments,
        accelerator=accelerator,
        state=state,
        output_dir=output_dir,
        model=model,
        network=network,
        optimizer=prepared,
        loader=loader,
        processor=MCLImageProcessor.from_config(config),
        mean=torch.tensor(config.image_mean, device=accelerator.device).mul(255).view(-1, 1, 1),
        scale=torch.tensor(config.image_std, device=accelerator.device).mul(255).view(-1, 1, 1),
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
        lines.append("warning: no probes without their callback, mcl_hf.callbacks.RunProbe; callbacks=None has it")
    last_line = f"finished: {output_dir} opens with mcl_hf.MCLModel.from_pretrained"
    return run_to_end(run, train_step, HealthWatch(run), lines, finish_pretraining, last_line)


def as_the_start(arguments: PretrainArguments, checkpoint: Path | None = None) -> PretrainArguments:
    """The options with the backbone and the pixels' mean and std of the weights that a run starts from (`init`), or of
    the `checkpoint` that it continues, where the options do not say; an InputError where these do not tell."""
    init = arguments.init or "random"
    try:
        source = starting_description(init) if checkpoint is None else MCLConfig.from_pretrained(checkpoint).to_dict()
        if arguments.backbone is None and init != "random":
            arguments = replace(arguments, **starting_backbone(source))
        config = arguments.model_config()
        found = starting_statistics(source, config.num_channels)
    except ValueError as error:
        raise InputError(f"--init {init}: {' '.join(str(error).split())}") from error
    new: dict[str, Any] = {}
    for name, value in zip(("image_mean", "image_std"), found or (), strict=False):
        if getattr(arguments, name) is None and value != getattr(config, name):  # what it has anyway needs no record
            new[name] = value
    return replace(arguments, **new)


def _fit_to_data(
    arguments: PretrainArguments,
    config: MCLConfig,
    source: ImageSource,
    keys: int,
    lines: list[str],
    checkpoint: Path | None,
) -> MCLConfig:
    """The configuration with the number of classes, and a queue no larger than the data allows, or allowed when the run
    began: a resumed run keeps it, whatever has become of the data and the batch. With the `keys`, images of one forward
    pass on all ranks, the queue must not hold an image twice; a line about it is appended to `lines`."""
    if arguments.objective == "supervised":
        if source.labels is None:
            raise InputError(
                f"objective 'supervised' needs labels, and {', '.join(arguments.data)} has none: name a --label-column"
            )
        return arguments.model_config(num_labels=source.num_labels)
    if source.groups is not None and (source.groups == source.groups[0]).all():
        tiles = arguments.tile is not None and arguments.group_column is None
        what = "tiles are of one picture" if tiles else f"images are in one group of {arguments.group_column!r}"
        raise InputError(
            f"all {len(source)} {what}: they are no negatives of each other, so there would be nothing to learn from. "
            "Give more pictures, or name another --group-column, or none"
        )
    if checkpoint is not None and read_training_state(checkpoint).arguments.get("queue_size") == arguments.queue_size:
        config.queue_size = MCLConfig.from_pretrained(checkpoint).queue_size
        return config
    room = max(0, len(source) - keys)
    if config.queue_size > room:
        lines.append(
            f"queue_size {config.queue_size} is cut to {room}: {len(source)} images less the {keys} of a batch"
        )
        config.queue_size = room
    return config


def _build_network(
    arguments: PretrainArguments, config: MCLConfig, checkpoint: Path | None, lines: list[str], model_class: Any
) -> Any:
    """The model: new, from starting weights, or from a checkpoint."""
    if checkpoint is None:
        torch.manual_seed(arguments.seed)
        network = model_class(config)
        if arguments.init not in (None, "random"):
            try:
                lines.append(str(load_starting_weights(network, arguments.init)))
            except ValueError as error:
                raise InputError(f"--init {arguments.init}: {' '.join(str(error).split())}") from error
        return network
    check_model(checkpoint, MCLConfig.from_pretrained(checkpoint), config, (*MODEL_FIELDS, "num_labels"))
    network, info = model_class.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise InputError(
            f"{checkpoint} does not fit the model: {len(info['missing_keys'])} tensors missing, "
            f"{len(info['unexpected_keys'])} unknown"
        )
    return network


def compile_parts(network: Any) -> None:
    """Compile backbone, FPN and region head of the online network and, where there is one, of the target, in place.

    They do the work, and each is one graph; montages, predictors and contrast change their shapes with the level, and
    cost little. Names and tensors stay the same, so checkpoints do too. `network` is not wrapped.
    """
    for part in (network.mcl, getattr(network, "target", None)):
        for module in (part.backbone, part.fpn, part.region_head) if part is not None else ():
            module.compile()


def finish_pretraining(run: Run) -> None:
    """Write the slim model, processor and README, and the whole model to `pretraining/`. All ranks call it."""
    what = f"A {run.network.config.backbone} backbone, feature pyramid and region head, pre-trained"
    on_main_process(run.accelerator, lambda: write_finished(run, run.network.mcl, what, {"pretraining": run.network}))
