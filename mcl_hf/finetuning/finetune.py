"""`finetune`: a whole fine-tuning run, as the command and as a Python call.

Where it sits: arguments -> checks -> annotated data, detector, optimizer on Accelerate -> `engine/loop.py` ->
evaluation -> finished folder. Everything that can be wrong with the input is found before the first step.

    OUTPUT_DIR/
        config.json, model.safetensors, preprocessor_config.json, README.md    the finished detector
        best/            the detector with the best AP so far, where AP is measured on the way
        evaluation/      figures, results and pictures of the newest evaluation
        checkpoints/     as in pre-training
        log.jsonl        as in pre-training, with losses by name and figures as eval/box/AP
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..annotations.detection_data import DetectionData
from ..detectors.float32_boxes import keep_boxes_in_float32
from ..detectors.freezing import backbone_of, freeze, parameter_groups
from ..detectors.start_detector import start_side
from ..detectors.transformers_detectors import pixel_statistics
from ..engine.arithmetic import chosen_precision, copy_to_device, emulation_warning, set_arithmetic
from ..engine.finish import duration
from ..engine.launch import launched
from ..engine.lifecycle import RunResult, continue_state, open_folder, prepare_run, run_to_end
from ..engine.optim import sgd
from ..engine.options import given_options
from ..engine.provenance import machine, recipe_record, recorded_options, start_record
from ..engine.resume import RecipeRules
from ..engine.run import Callbacks
from ..engine.state import TrainingState, installed_versions, read_training_state
from ..engine.tracking import check_trackers
from ..errors import InputError
from ..evaluation.coco_metrics import import_backend
from ..models import MCLImageProcessor, convert_cross_rank_norm
from ..models.recompute import recompute_activations
from ..new_folder import output_folder
from ..transfer.starting_weights import check_start
from .arguments import FinetuneArguments, load_finetune_arguments
from .auto_rules import freezing_line
from .data import data_record, training_data, validation_data
from .detector import build_detector
from .evaluation_watch import EvaluationWatch, statistics_restored, without_best
from .finish import finish
from .step import FinetuneRun, finetune_step, forward
from .train_loader import DetectionLoader
from .train_transform import TrainTransform

TASK = "fine-tuning"
RULES = RecipeRules(
    refused=("detector", "optimizer", "freeze_at", "frozen_bn", "layer_decay"),
    without_influence=frozenset(
        {
            "output_dir", "resume", "num_workers", "max_broken", "save_every_steps", "keep_last", "keep_every",
            "log_every_steps", "report_to", "log_images", "eval_batch_size", "eval_backend", "val_data", "val_split",
            "val_images", "allow_outside_paths",
        }
    ),
    # by the data's fingerprint, the steps and their images
    compared_elsewhere=frozenset(
        {
            "data", "images", "split", "data_fraction", "val_fraction", "group_column", "auto", "epochs", "max_steps",
            "global_batch_size", "batch_size",
        }
    ),
)  # fmt: skip


def finetune(
    arguments: FinetuneArguments | None = None,
    *,
    recipe: str | None = None,
    callbacks: Callbacks = (),
    train_on: DetectionData | None = None,
    measure_on: DetectionData | None = None,
    **options: Any,
) -> RunResult:
    """Fine-tune a detector on annotated images, measure its AP, and write it to `output_dir`.

    Args:
        arguments: all options; or leave it out and give
        recipe: name or YAML file, and
        options: fields of `FinetuneArguments` on top of it.
        callbacks: objects with any of the methods of `mcl_hf.engine.run.Callback`, or what makes them of the options;
            `mcl_hf.finetune` takes None, its default, for `mcl_hf.callbacks.default_callbacks`.
        train_on: images of `data` that are opened already, such as a part of them; None opens `data`.
        measure_on: likewise for `val_data`.

    Raises:
        InputError: something given cannot be used; nothing was trained, or the last whole checkpoint stays.
        NonFiniteLossError: the loss became infinite or NaN.

    Example:
        >>> import mcl_hf
        >>> result = mcl_hf.finetune(
        ...     recipe="auto", init="my-run", data="my-annotated-images", output_dir="my-detector"
        ... )  # doctest: +SKIP
        >>> result.metrics["eval/box/AP"]  # doctest: +SKIP
        0.312
    """
    arguments = given_options(arguments, load_finetune_arguments, recipe, options)
    arguments.check_given()
    assert arguments.data is not None
    output_dir = output_folder(arguments.output_dir, [arguments.data])
    check_trackers(arguments.report_to)
    hung_in = list(callbacks(arguments) if callable(callbacks) else callbacks)
    import_backend(arguments.eval_backend)  # before hours of training
    with launched(arguments, output_dir) as accelerator:
        spare_memory = arguments.activation_checkpointing
        set_arithmetic(accelerator.device, arguments.tf32, fixed_shapes=False, spare_memory=spare_memory)
        return _finetune(arguments, output_dir, accelerator, hung_in, train_on, measure_on)


def _finetune(
    arguments: FinetuneArguments,
    output_dir: Path,
    accelerator: Accelerator,
    callbacks: Sequence[Any],
    train_on: DetectionData | None,
    measure_on: DetectionData | None,
) -> RunResult:
    # --- where to start ---------------------------------------------------------------------------------------------
    checkpoint, lines = open_folder(accelerator, output_dir, arguments.resume)
    world_size = accelerator.num_processes
    recipe = recipe_record(arguments.recipe, RULES.without_influence - {"val_data", "val_split"})

    arguments = replace(arguments, precision=chosen_precision(arguments.precision, accelerator.device))
    if checkpoint is not None:
        arguments = _as_started(checkpoint, arguments, lines)
    else:
        check_start(arguments.init or "random")

    # --- data ---------------------------------------------------------------------------------------------------------
    data = training_data(arguments) if train_on is None else train_on
    val_data = validation_data(arguments, data, lines) if measure_on is None else measure_on
    lines.append(data.description)
    given = arguments
    side = start_side(arguments.init or "random") if arguments.auto and checkpoint is None else None
    arguments = arguments.resolved(data.widths, data.heights, data.has_masks, side)
    if arguments.masks and not data.has_masks:
        raise InputError(
            f"{arguments.detector} learns from masks, and {data.source} has none: use --detector faster_rcnn"
        )
    kind = arguments.of_transformers
    batch_size, global_batch_size = arguments.batch_sizes(world_size)
    max_steps = arguments.total_steps(len(data), global_batch_size)
    arguments = replace(arguments, warmup_steps=min(arguments.warmup_steps or 0, max_steps // 10))
    if arguments.auto:
        filled = asdict(arguments).items()
        chosen = {name: value for name, value in filled if getattr(given, name) is None and value is not None}
        lines.append("auto: " + ", ".join(f"{name} {value}" for name, value in chosen.items()))
        recipe["auto"] = {"chosen": chosen, "freezing": ""}
        if kind is None and {"freeze_at", "frozen_bn"} <= set(chosen):  # the rules freeze nothing of the others
            recipe["auto"]["freezing"] = freezing_line(len(data), arguments.init == "random", side)
            lines += filter(None, [recipe["auto"]["freezing"]])
    measures = None
    if val_data is not None:
        given_for_it = str(arguments.val_data or arguments.data)
        measures = data_record(given_for_it, arguments.val_split or "validation", val_data)
    state = TrainingState(
        world_size=world_size,
        global_batch_size=global_batch_size,
        max_steps=max_steps,
        arguments=recorded_options(arguments),
        data={
            "description": data.description,
            **data_record(str(arguments.data), arguments.split, data),
            "validation": measures,
        },
        versions=installed_versions(),
        task=TASK,
        recipe=recipe,
        start=start_record(arguments.init),
        machines=[machine(accelerator.device)],
    )
    lines += continue_state(checkpoint, state, RULES)
    measured = None if checkpoint is None else read_training_state(checkpoint).data.get("validation")
    other = measured and measures and measured.get("fingerprint") not in (None, measures["fingerprint"])
    if other and state.step < max_steps:
        lines.append("warning: AP is measured on other images or annotations than before: the best is searched anew")
        state.best = without_best(state.best)
    lines += emulation_warning(accelerator.device, arguments.precision)
    transform = TrainTransform.of(arguments, batch_size * world_size, max_steps * global_batch_size)

    loader = partial(
        DetectionLoader,
        data,
        transform,
        batch_size=batch_size,
        seed=arguments.seed,
        rank=accelerator.process_index,
        world_size=world_size,
        max_broken=arguments.max_broken,
        pin_memory=accelerator.device.type == "cuda",
    )

    # --- detector and optimizer ---------------------------------------------------------------------------------------
    network: Any = build_detector(arguments, data, checkpoint, lines)
    config: Any = network.config
    network = convert_cross_rank_norm(network, accelerator.device.type) if world_size > 1 else network
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    network = network.to(device=accelerator.device, memory_format=layout).train()
    lines += freeze(network, arguments.freeze_at or 0, bool(arguments.frozen_bn))
    if arguments.freeze_at and arguments.init == "random":
        lines.append("warning: what is frozen of a random start keeps its random weights: give --freeze-at 0")
    if arguments.activation_checkpointing:
        try:
            recompute_activations(backbone_of(network)[1])
        except ValueError as error:
            raise InputError(f"activation_checkpointing: {error}") from error
    if kind is None:
        mean, std, processor = config.image_mean, config.image_std, MCLImageProcessor.from_config(config)
    else:
        keep_boxes_in_float32(network)
        mean, std = pixel_statistics(config)
        processor = kind.image_processor(mean, std, arguments.min_size_test or 0, arguments.max_size_test or 0)
    peak_lr = (arguments.base_learning_rate or 0.0) * global_batch_size / 16
    optimizer = build_optimizer(arguments, network, peak_lr)
    model, prepared = prepare_run(accelerator, arguments, network, optimizer, checkpoint, state, output_dir)

    # --- run ----------------------------------------------------------------------------------------------------------
    run = FinetuneRun(
        arguments=arguments,
        accelerator=accelerator,
        state=state,
        output_dir=output_dir,
        model=model,
        network=network,
        optimizer=prepared,
        loader=loader(num_workers=arguments.num_workers, start_step=state.step * arguments.gradient_accumulation_steps),
        processor=processor,
        mean=torch.tensor(mean, device=accelerator.device).mul(255).view(-1, 1, 1),
        scale=torch.tensor(std, device=accelerator.device).mul(255).view(-1, 1, 1),
        peak_lr=peak_lr,
        warmup_steps=arguments.warmup_steps or 0,
        milestones=arguments.milestones(max_steps),
        callbacks=callbacks,
    )
    lines.append(
        f"{max_steps} steps of {global_batch_size} images ({world_size} process(es) x {batch_size} x "
        f"{arguments.gradient_accumulation_steps} accumulation steps) on {accelerator.device}, {arguments.precision}; "
        f"{arguments.optimizer}, learning rate up to {peak_lr:.4g}"
        + (f", a tenth from steps {', '.join(map(str, run.milestones))} on" if run.milestones else "")
    )
    if arguments.auto and checkpoint is None:
        lines.append(_planned(run, loader()))
    watch = EvaluationWatch(run, val_data, loader(num_workers=arguments.num_workers))
    last_line = f"finished: {output_dir} opens with mcl_hf.{type(network).__name__}.from_pretrained"
    return run_to_end(run, finetune_step, watch, lines, partial(finish, watch=watch), last_line)


def _planned(run: FinetuneRun, loader: DetectionLoader) -> str:
    """How long the run will take, from three passes that leave no trace in it. All ranks."""
    seconds = []
    with statistics_restored(run.network):
        for batch in itertools.islice(loader, 3):
            on_device = batch.map(partial(copy_to_device, device=run.accelerator.device))
            started = time.perf_counter()
            with run.accelerator.autocast():
                loss = forward(run, run.network, on_device, batch.step).loss
            loss.backward()
            float(loss.detach())  # waits for the device
            seconds.append(time.perf_counter() - started)
    run.network.zero_grad(set_to_none=True)
    step = min(seconds) * run.arguments.gradient_accumulation_steps
    stops = ", or less where AP stops rising," if run.arguments.early_stopping_patience else ""
    return (
        f"auto: about {duration(step * run.state.max_steps)}{stops} for {run.state.max_steps} steps of {step:.2g} s, "
        "evaluations not counted; mcl-hf doctor --plan auto measures memory and data, too"
    )


def _as_started(checkpoint: Path, arguments: FinetuneArguments, lines: list[str]) -> FinetuneArguments:
    """Options with the start of a checkpoint's run, a line where `init` says another, and, where they are not given,
    with what the rules of `auto` chose for that start: it need not be there any more."""
    recorded = read_training_state(checkpoint).arguments
    started = recorded.get("init", arguments.init)
    if started != arguments.init:
        lines.append(
            f"warning: --init {arguments.init} has no effect: {checkpoint} continues a run that started from {started}"
        )
    names = [name for name in ("detector", "freeze_at", "frozen_bn") if getattr(arguments, name) is None]
    kept = {name: recorded[name] for name in names if arguments.auto and name in recorded}
    return replace(arguments, init=started, **kept)


def build_optimizer(arguments: FinetuneArguments, network: Any, lr: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW, both able to skip an update on the device (`found_inf`)."""
    kind = arguments.of_transformers
    of_backbone = 1.0 if arguments.backbone_lr_scale is None else arguments.backbone_lr_scale
    decays = (arguments.weight_decay or 0.0, arguments.layer_decay)
    groups = parameter_groups(network, lr, *decays, of_backbone, "" if kind is None else kind.slow)
    if arguments.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return sgd(groups, lr)
