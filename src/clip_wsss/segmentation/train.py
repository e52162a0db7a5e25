"""Training of a segmentor on pseudo masks, or on labels that it makes itself.

A training is a function of its settings: on the CPU the same settings give the same checkpoint,
byte for byte, also if the training was killed and started again in between. What must survive a
kill lies in a work folder; the finished checkpoint and log are moved to their places at the end.
"""

import copy
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from traceback import format_exception
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmseg.registry import TRANSFORMS
from torch import Tensor, nn

from clip_wsss.core.confidence import EDGES
from clip_wsss.core.devices import take_free_gpus
from clip_wsss.core.errors import MEMORY, InputError, kind_and_words, of_machine, one_line
from clip_wsss.core.files import sha256, write_bytes
from clip_wsss.core.memory import fitting, out_of_memory
from clip_wsss.core.processes import end_with_parent
from clip_wsss.core.progress import log_resumed
from clip_wsss.core.ranks import have_whole_batches
from clip_wsss.core.resources import find, is_file
from clip_wsss.core.spelling import unknown
from clip_wsss.data.datasets import open_dataset
from clip_wsss.data.unseen import unseen_keys
from clip_wsss.models.clip import load_for
from clip_wsss.segmentation.data import read_masks, seed_transforms, transformed
from clip_wsss.segmentation.dropout import share_dropout
from clip_wsss.segmentation.hooks import SMALLER_BATCH, LogHook, check_rates, latest_checkpoint
from clip_wsss.segmentation.losses import loss_config, pack
from clip_wsss.segmentation.segmentor import (
    build_model,
    config_digest,
    online_module,
    read_segmentor,
    text_head_module,
    use_device,
)
from clip_wsss.segmentation.weights import fetch_initial, load_initial, locate_initial

log_ = logging.getLogger(__name__)

CHECKPOINT, LOG, SETTINGS, ERROR = "checkpoint.pth", "log.csv", "settings.json", "error.txt"
TEXTS = "texts.npz"
_TRACEBACK = "\nTraceback (most recent call last):\n"  # after the line in the file ERROR


def train(
    entry: dict,
    dataset_settings: dict,
    archives: list[str],
    seed: int,
    work_dir: str | Path,
    checkpoint: str | Path,
    log: str | Path,
    threads: int = 1,
    device: str = "auto",
    gpus: int = 1,
    texts: str | Path | None = None,
) -> None:
    """Train a segmentor on the pseudo masks of a data set, or on its images and their classes.

    Args:
        entry: of the config's group `segmentation`: segmentor, loss, mu, iterations (updates of
            the weights), precision, init, and the `clip` of a backbone that names one; of a
            `text_head` its settings with what `clip_wsss.runs.graph` adds: clip and texts; with
            `labels: online` its `online` is what `clip_wsss.runs.graph` has made of all cells of
            the row: clip, texts, split, settings, labels.
        dataset_settings: the config's `dataset`.
        archives: paths of the pseudo masks (`core.archives`); none for labels made online.
        seed: decides the initial weights, the order and the augmentation.
        work_dir: keeps checkpoints of an unfinished training; what it holds of other settings is
            set aside as <work_dir>.old; it is gone after the training.
        checkpoint: the trained weights, for `predict`: torch's format, `state_dict` (float32,
            without those of a frozen backbone) and `meta` (JSON text: classes, entry, seed, how
            many updates had no pixel that counts, and with `ignored` classes how many images were
            dropped).
        log: CSV with iteration, loss, lr, pixels that counted and all (`of`), a row an update.
        threads: of torch; they decide the last bits.
        device: auto, cpu or cuda.
        gpus: processes that share each update's samples, by MMEngine's launcher; on the CPU too.
            They train as one does, within float noise (`clip_wsss.core.ranks`).
        texts: of labels made online, or of a text head: npz of ranked texts; None: those of the
            entry are encoded.

    Raises:
        InputError: settings, masks or initial weights that cannot be used; a loss that is not
            finite; no pixel that counts, in an update after all images were seen or at the end.
    """
    device = use_device(device)
    segmentor = read_segmentor(entry["segmentor"], entry)
    loss_config(entry["loss"], entry["mu"])
    if entry["precision"] == "amp" and device != "cuda":
        raise InputError("segmentation.precision: amp needs CUDA; set it to float32 on the CPU")
    if device == "cuda" and gpus > torch.cuda.device_count():
        raise InputError(
            f"compute.gpus: {gpus} are asked for, but {torch.cuda.device_count()} can be seen"
        )
    online = entry.get("labels") == "online"
    needs_texts = entry["online"] if online else entry.get("text_head")
    if not online:
        read_masks(archives)
    init = fetch_initial(entry["init"] or segmentor.get("init"))
    settings = {
        "entry": entry,
        "dataset": dataset_settings,
        "archives": [str(path) for path in archives],
        "seed": seed,
        "threads": threads,
        "device": device,
        "init": None if init is None else str(init),
        **({} if needs_texts is None else {"texts": None if texts is None else str(texts)}),
        **_split(segmentor, gpus, online or entry.get("teacher") is not None),
    }
    files: list[str | Path] = [
        *archives,
        *(one for one in (init, texts) if one),
        *_clip_files(entry),
    ]
    contents = [config_digest(segmentor), *map(sha256, files)]
    work_dir = _prepare(Path(work_dir), {**settings, "contents": contents})
    if needs_texts is not None and texts is None:
        online_module("data").write_fixed_texts(needs_texts, device, work_dir / TEXTS)

    if resume := latest_checkpoint(work_dir):
        log_resumed("training", resume.stem)
    if gpus == 1:
        try:
            _fit(settings, work_dir, resume)
        except InputError as error:
            if error.__cause__ is not None:  # for the log; the line says too little to a developer
                log_.error("the training failed", exc_info=error.__cause__)
            raise
    else:
        _spawn(work_dir, resume, gpus, device)
    # Copied, so that a call that is killed here can do the same again.
    for made, wanted in ((CHECKPOINT, checkpoint), (LOG, log)):
        Path(wanted).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work_dir / made, wanted)
    (work_dir / SETTINGS).unlink()  # what is left of the folder then belongs to no training
    shutil.rmtree(work_dir)


def _split(segmentor, gpus: int, shared: bool) -> dict:
    """Share an update's samples between processes: those of each batch, or else whole batches.

    What must be `shared` cannot have whole batches: it knows of the batches before.
    """
    batch = segmentor.train_dataloader.batch_size
    accumulate = segmentor.optim_wrapper.get("accumulative_counts", 1)
    whole = batch % gpus != 0
    if whole and (accumulate % gpus or shared):
        also = "" if shared else f", or of accumulative_counts, {accumulate}"
        raise InputError(
            f"compute.gpus: {gpus} processes cannot share an update of this segmentor evenly; "
            f"choose a divisor of batch_size, {batch}{also}"
        )
    if whole:
        accumulate //= gpus
    else:
        batch //= gpus
    return {"gpus": gpus, "batch": batch, "accumulate": accumulate, "whole_batches": whole}


def _clip_files(entry: dict) -> list[Path]:
    """The local files of the CLIP that the backbone is, or of what labels are made with."""
    online = entry["online"] if entry.get("labels") == "online" else {}
    models = [(online or entry).get("clip") or {}, *online.get("towers", {}).values()]
    models.append((entry.get("text_head") or {}).get("clip") or {})
    names = (one.get(key) for one in models for key in ("architecture", "weights"))
    files = [find(name) for name in names if name is not None]
    return [file for file in files if file.is_file()]


def _samples(settings: dict) -> dict:
    """The data set of a training, without its pipeline."""
    own = {"settings": settings["dataset"], "seed": settings["seed"]}
    if settings["entry"].get("labels") == "online":
        split = settings["entry"]["online"]["split"]
        return {"type": "ImageLabelDataset", "split": split, **own}
    unseen = _unseen(settings)
    ignored = [key + 1 for key in unseen]
    if (settings["entry"].get("text_head") or {}).get("background") == "none":
        ignored.append(0)
    own |= {"ignored": ignored} if ignored else {}
    return {"type": "PseudoMaskDataset", "archives": settings["archives"], **own}


def _unseen(settings: dict) -> list[int]:
    """The 0-based classes that a training must not see."""
    if not settings["entry"].get("seen_only"):
        return []
    dataset = settings["dataset"]
    return unseen_keys(dataset, open_dataset(dataset).vocabulary.classes)


def _prepare(work_dir: Path, settings: dict) -> Path:
    """The work folder for these settings; another training's is set aside."""
    text = json.dumps(settings, indent=1, sort_keys=True)
    if work_dir.exists():
        kept = work_dir / SETTINGS
        if kept.is_file() and kept.read_bytes() == text.encode():
            for place in work_dir.iterdir():  # none is needed; one may be where a file must be
                if place.is_dir():
                    shutil.rmtree(place)
            return work_dir
        aside = work_dir.with_name(f"{work_dir.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        work_dir.rename(aside)
        log_.info("%s was made with other settings; moved to %s", work_dir, aside)
    work_dir.mkdir(parents=True)
    (work_dir / SETTINGS).write_text(text, encoding="utf-8")
    return work_dir


def _spawn(work_dir: Path, resume: Path | None, gpus: int, device: str) -> None:
    """Run `_fit` in several processes with torchrun, and pass its InputError on."""
    (work_dir / ERROR).unlink(missing_ok=True)
    command = [sys.executable, "-m", "clip_wsss.core.processes", str(os.getpid())]
    command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    command += ["-m", "clip_wsss.segmentation.train", str(work_dir), str(resume or "")]
    cuda = {} if device == "cpu" else {"CUDA_VISIBLE_DEVICES": take_free_gpus(gpus)}
    done = subprocess.run(command, check=False, env=os.environ | cuda)
    if (work_dir / ERROR).exists():
        said, traceback, rest = (work_dir / ERROR).read_text(encoding="utf-8").partition(_TRACEBACK)
        if traceback:
            log_.error("the training failed%s%s", traceback, rest)
        raise InputError(said)
    if done.returncode:
        raise InputError(
            f"{work_dir}: one of the {gpus} processes of this training ended early, as said above; "
            f"if it was killed: {MEMORY}; the training goes on from its last checkpoint"
        )


def _fit(settings: dict, work_dir: Path, resume: Path | None) -> None:
    """Train in this process, from a checkpoint if there is one."""
    entry, seed, accumulate = settings["entry"], settings["seed"], settings["accumulate"]
    cpu = use_device(settings["device"]) == "cpu"
    distributed = settings["gpus"] > 1
    torch.set_num_threads(settings["threads"])
    segmentor = read_segmentor(entry["segmentor"], entry)
    classes = ["background", *open_dataset(settings["dataset"]).vocabulary.classes]
    torch.manual_seed(seed)
    texts = settings.get("texts") or work_dir / TEXTS
    if entry.get("text_head") is not None:
        texts = text_head_module().texts_of_training(texts, entry["text_head"], seed)
    unseen = _unseen(settings)
    model = build_model(
        segmentor, entry, len(classes), entry["segmentor"], texts, unseen, taught=True
    )
    _initialise(model, entry["segmentor"])
    if settings["init"] is not None:
        load_initial(model, Path(settings["init"]))
    whole = settings["whole_batches"]
    have_whole_batches(whole)
    if distributed and not whole:
        share_dropout(model)

    iterations = entry["iterations"] * accumulate
    amp = {"type": "AmpOptimWrapper"} if entry["precision"] == "amp" else {}
    optim_wrapper = {**segmentor.optim_wrapper, **amp, "accumulative_counts": accumulate}
    schedulers = _schedulers(segmentor, iterations, accumulate, whole, entry["segmentor"])
    _try_parts(model, segmentor.train_pipeline, optim_wrapper, schedulers, entry["segmentor"])
    workers = 0 if cpu else segmentor.train_dataloader.get("num_workers", 0)
    interval = segmentor.checkpoint_interval * accumulate
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader={
            "dataset": {
                **_samples(settings),
                "pipeline": [*segmentor.train_pipeline, {"type": "PackSegInputs"}],
            },
            "sampler": {"type": "CountingSampler", "whole": settings["batch"] if whole else 0},
            "batch_size": settings["batch"],
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": not cpu,
        },
        train_cfg={"type": "ResumableLoop", "max_iters": iterations},
        optim_wrapper=optim_wrapper,
        param_scheduler=schedulers,
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": interval,
                "max_keep_ckpts": 2,  # while the newest is written, the one before is whole
            },
            **dict.fromkeys(("timer", "logger", "sampler_seed", "runtime_info")),
        },
        custom_hooks=[
            {"type": "SeedHook", "seed": seed},
            {"type": "PlainCheckpointHook"},
            {"type": "LogHook", "path": str(work_dir / LOG), "accumulate": accumulate},
            *getattr(model, "hooks", []),
        ],
        launcher="pytorch" if distributed else "none",
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        randomness={"seed": seed, "deterministic": cpu},
        env_cfg={"dist_cfg": {"backend": "nccl"}},
        log_level="ERROR",
        default_scope="mmseg",
        experiment_name=uuid.uuid4().hex,  # MMEngine shares state between runs of one name
        cfg={
            "sync_bn": None if cpu or whole else "torch",
            "model_wrapper_cfg": {"device_ids": None} if cpu and distributed else None,
        },
    )
    with (
        fitting(f"{entry['segmentor']}: its training", SMALLER_BATCH),
        warnings.catch_warnings(),  # an update of several iterations ends with the last
    ):
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
        try:
            runner.train()
        except InputError as error:
            raise InputError(_last_line(error)) from None
        except Exception as error:  # of any part that the segmentor's file names
            if out_of_memory(error) or of_machine(error, work_dir) or _of_other_process(error):
                raise
            said = _last_line(error) if _of_worker(error) else kind_and_words(error)
            raise InputError(
                f"{entry['segmentor']}: its training failed ({one_line(said)}); correct the file"
            ) from error
    if is_main_process():
        _save(runner, classes, settings, work_dir / CHECKPOINT)


def _schedulers(segmentor, iterations: int, accumulate: int, whole: bool, path: str) -> list[dict]:
    """The schedulers of a segmentor, each to the end of the run where it says no other end."""
    found = []
    for place, scheduler in enumerate(segmentor.param_scheduler):
        where, kind = f"{path}: param_scheduler.{place}", PARAM_SCHEDULERS.get(scheduler.type)
        if kind is None:
            known = PARAM_SCHEDULERS.module_dict
            raise InputError(f"{where}: {unknown('scheduler', scheduler.type, known)}")
        if "accumulate" in signature(kind).parameters:
            own = {"accumulate": accumulate}
        elif whole:
            raise InputError(
                f"{where}: {scheduler.type} counts batches, which the processes of compute.gpus "
                "divide; set gpus to 1 or to a divisor of batch_size, or use SteppedPolyLR"
            )
        else:
            own = {"by_epoch": False}
        found.append({"end": iterations, **own, **scheduler})
    return found


def _initialise(model: Any, path: str) -> None:
    """Draw the initial weights, as the `init_cfg` of the parts say."""
    try:
        model.init_weights()
    except InputError:
        raise
    except Exception as error:  # of MMEngine's initialisers
        if out_of_memory(error):
            raise
        raise InputError(
            f"{path}: its weights cannot be initialised ({kind_and_words(error)}); correct the "
            "init_cfg of its parts"
        ) from None


def _try_parts(
    model, pipeline: list, optim_wrapper: dict, schedulers: list, path: str
) -> tuple[OptimWrapper, list]:
    """Build what the runner builds later, so that a wrong part is one line that names it.

    Returns:
        The optimizer, and its schedulers.
    """

    def made(where: str, build: Callable, *args, **kwargs):
        try:
            return build(*args, **kwargs)
        except Exception as error:  # MMEngine's registries pass on whatever a class raises
            reason = one_line(error)
            raise InputError(
                f"{path}: {where}: cannot be built ({reason}); look for a setting that is wrong or "
                "missing"
            ) from None

    for place, step in enumerate(pipeline):
        made(f"train_pipeline.{place}", TRANSFORMS.build, step)
    if OPTIMIZERS.get(name := optim_wrapper["optimizer"]["type"]) is None:
        message = unknown("optimizer", name, OPTIMIZERS.module_dict)
        raise InputError(f"{path}: optim_wrapper.optimizer: {message}")
    optimizer = made("optim_wrapper", build_optim_wrapper, model, copy.deepcopy(optim_wrapper))
    given = {"optimizer": optimizer}
    return optimizer, [
        made(f"param_scheduler.{place}", PARAM_SCHEDULERS.build, one, default_args=given)
        for place, one in enumerate(schedulers)
    ]


def check_trainings(
    entries: Mapping[str, dict], classes: int, sizes: Sequence[Sequence[int]] = ()
) -> list[str]:
    """Build what trainings build, and make an update on noise, before the first map is made.

    Weights that would be downloaded are not; what is made of them is not built. What makes its
    labels itself, or is taught, wants more than images and masks, and is not updated.

    Args:
        entries: of the config's group `segmentation`, as `train` takes them, by where they are.
        classes: foreground classes and background.
        sizes: height and width of images of the data set, of which any may be in one batch.

    Returns:
        A line for each that cannot be built or updated.
    """
    problems = []
    for where, entry in entries.items():
        try:
            _try_training(entry, classes, sizes)
        except InputError as error:
            problems.append(f"{where}: {error}")
    return problems


def _try_training(entry: dict, classes: int, sizes: Sequence[Sequence[int]]) -> None:
    use_device("cpu")
    path, segmentor = entry["segmentor"], read_segmentor(entry["segmentor"], entry)
    online = entry["online"] if entry.get("labels") == "online" else {}
    clip = (online or entry).get("clip")
    there = clip is None or is_file(clip["weights"])
    init = locate_initial(entry["init"] or segmentor.get("init"))
    model: nn.Module = nn.Linear(1, 1)
    with fitting(f"{path}: its model", SMALLER_BATCH):
        if there:
            texts, taught = _any_texts(entry, classes)
            model = build_model(segmentor, entry, classes, path, texts, taught=taught)
            _initialise(model, path)
            if isinstance(init, Path):
                load_initial(model, init)
            # Those of the zoo serve several models, and makers of labels may bring parameters.
            if Path(path).suffix != ".py" and entry.get("labels") != "online":
                _check_custom_keys(model, segmentor.optim_wrapper, path)
        accumulate = segmentor.optim_wrapper.get("accumulative_counts", 1)
        iterations = entry["iterations"] * accumulate
        schedulers = _schedulers(segmentor, iterations, accumulate, False, path)
        optimizer, steps = _try_parts(
            model, segmentor.train_pipeline, segmentor.optim_wrapper, schedulers, path
        )
        if there:
            alone = entry.get("labels") != "online" and entry.get("teacher") is None
            _try_batch(model, segmentor, classes, sizes, path, optimizer if alone else None)
        _try_rates(model, optimizer, steps, iterations, accumulate, path)


def _check_custom_keys(model: nn.Module, optim_wrapper: dict, path: str) -> None:
    """Refuse rates for parameters that do not exist."""
    names = [name for name, _ in model.named_parameters()]
    paramwise = optim_wrapper.get("paramwise_cfg") or {}
    for key in paramwise.get("custom_keys") or {}:
        if not any(key in name for name in names):
            raise InputError(
                f"{path}: optim_wrapper.paramwise_cfg.custom_keys: {key} is in no parameter's "
                "name; correct or remove it"
            )


def _try_batch(
    model: Any,
    segmentor: Config,
    classes: int,
    sizes: Sequence[Sequence[int]],
    path: str,
    optimizer: OptimWrapper | None,
) -> None:
    """Put noise through the transforms, which draw, and make an update with it if wanted."""
    pipeline = Compose([*segmentor.train_pipeline, {"type": "PackSegInputs"}])
    rng = np.random.default_rng(0)

    def sample(draw: int, size: Sequence[int]) -> dict:
        height, width = size
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        label, codes = (rng.integers(0, ends, size, np.uint8) for ends in (classes, len(EDGES)))
        seed_transforms(0, draw)
        name = f"{path}: an image of {width} x {height}"
        return transformed(pipeline, name, image, pack(label, codes), classes)

    samples = [sample(draw, [(120, 160), (160, 120)][draw % 2]) for draw in range(8)]

    def batch(part: list) -> dict:
        # Copied, since a padding of labels is written into the sample.
        return {key: [copy.deepcopy(one[key]) for one in part] for key in samples[0]}

    # A data set may have one size, so those of each are a batch. Of one sample some normalisations
    # have no statistics, and sizes need not agree.
    single = segmentor.train_dataloader["batch_size"] == 1
    channels = sorted({len(one["inputs"]) for one in samples})
    if len(channels) > 1 and not single:
        raise InputError(
            f"{path}: train_pipeline makes images of {channels[0]} and of {channels[-1]} channels; "
            "let its transforms keep them (as RandomGrayscale does with keep_channels: true)"
        )
    try:
        for part in [[one] for one in samples] if single else [samples[::2], samples[1::2]]:
            model.data_preprocessor(batch(part), training=True)
        if not single and sizes:
            own = [sample(draw, size) for draw, size in enumerate(sizes)]
            model.data_preprocessor(batch(own), training=True)
        if optimizer is not None:
            given = model.data_preprocessor(batch(samples[: 1 if single else 3 : 2]), training=True)
            with torch.no_grad():
                model.parse_losses(model.train()(**given, mode="loss"))
    except Exception as error:  # of any of MMSegmentation's parts
        if out_of_memory(error):
            raise  # which `fitting` says
        raise InputError(
            f"{path}: no batch goes through its model ({one_line(error)}); correct train_pipeline "
            "(which must make one size of all), data_preprocessor (whose size pads what is "
            "smaller), or the channels of its parts"
        ) from None
    if optimizer is None:
        return
    for one in model.parameters():  # a backward pass would take the memory of a training
        one.grad = torch.zeros_like(one) if one.requires_grad else None
    try:
        optimizer.step()
    except Exception as error:  # of any optimizer, or of the clipping before it
        if out_of_memory(error):
            raise
        raise InputError(
            f"{path}: optim_wrapper: no update can be made ({kind_and_words(error)}); correct it, "
            "or choose another optimizer"
        ) from None


def _try_rates(
    model: nn.Module,
    optimizer: OptimWrapper,
    schedulers: list,
    iterations: int,
    accumulate: int,
    path: str,
) -> None:
    """Take the schedulers through the first iterations of a training."""
    heads = {
        id(one)
        for name, one in model.named_parameters()
        if "head" in name.partition(".")[0] and one.requires_grad
    }
    moves = not heads  # of a model that is not here
    with warnings.catch_warnings():  # where no update was made
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
        for iteration in range(looked := min(iterations, 500)):
            update = iteration // accumulate + 1
            check_rates(optimizer, path, update)
            moves = moves or any(
                group["lr"] > 0 and not heads.isdisjoint(map(id, group["params"]))
                for group in optimizer.param_groups
            )
            for place, one in enumerate(schedulers):
                try:
                    one.step()
                except Exception as error:  # of arithmetic with what the file says
                    raise InputError(
                        f"{path}: param_scheduler.{place}: fails in update {update} "
                        f"({kind_and_words(error)}); correct it"
                    ) from None
    if not moves:
        raise InputError(
            f"{path}: the learning rate of every head is 0 in {looked // accumulate} updates, so "
            "that nothing would be learnt; correct param_scheduler, or the lr_mult of "
            "optim_wrapper.paramwise_cfg"
        )


def _any_texts(entry: dict, classes: int) -> tuple[tuple[Tensor, Tensor] | None, bool]:
    """Texts that a text head can be built with, whose own are not there yet; and with a teacher?

    A teacher is left out where its weights would have to be downloaded.
    """
    head = entry.get("text_head")
    if head is None:
        return None, False
    taught = entry.get("teacher") is not None and is_file(head["clip"]["weights"])
    width = load_for(head["clip"], head["clip"]).embedding if taught else classes
    return (torch.eye(classes, width)[1:], torch.eye(classes, width)), taught


def _of_worker(error: Exception) -> bool:
    """Whether a worker of torch's loader met it, whose traceback then is in the message."""
    return str(error).startswith("Caught ") and "\nOriginal Traceback" in str(error)


def _of_other_process(error: Exception) -> bool:
    """Whether it only says that another process of the training has ended."""
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)


def _last_line(error: Exception) -> str:
    """The message; a worker of torch's loader puts its traceback before it."""
    name = f"{InputError.__module__}.{InputError.__name__}: "
    return str(error).rstrip().rpartition("\n")[2].removeprefix(name)


def _save(runner: Runner, classes: list[str], settings: dict, path: Path) -> None:
    """Write the final checkpoint; the same weights and settings give the same bytes."""
    model = getattr(runner.model, "module", runner.model)
    log = next(hook for hook in runner.hooks if isinstance(hook, LogHook))
    meta = {"classes": classes, "entry": settings["entry"], "seed": settings["seed"]}
    meta["updates_without_pixels"] = log.empty
    data = runner.train_dataloader.dataset
    if getattr(data, "ignored", ()):
        meta["images_dropped"] = data.dropped
        log_.info("%d images without a pixel of a class that is seen were dropped", data.dropped)
    content = {
        "state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
        "meta": json.dumps(meta, sort_keys=True),
    }
    file = io.BytesIO()  # a file's own name would enter the archive
    torch.save(content, file)
    write_bytes(path, file.getvalue())


def _main(work_dir: Path, resume: Path | None) -> None:
    """One process of several (torchrun)."""
    end_with_parent(os.getppid())
    settings = json.loads((work_dir / SETTINGS).read_text(encoding="utf-8"))
    if settings["device"] == "cpu":
        torch.distributed.init_process_group("gloo")  # MMEngine's launcher wants CUDA
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        _fit(settings, work_dir, resume)
    except InputError as error:
        cause = error.__cause__
        traceback = "" if cause is None else "\n" + "".join(format_exception(cause))
        (work_dir / ERROR).write_text(f"{error}{traceback}", encoding="utf-8")
        raise SystemExit(1) from None


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
