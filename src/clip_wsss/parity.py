"""The numbers of a preset on any VOC-format folder with any weights, image by image.

`clip-wsss parity --help` says how; docs/parity.md says what the numbers mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clip_wsss.affinities.box_rule import box_mask, boxes
from clip_wsss.api import read_preset as read_row
from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.core.arguments import at_least, output
from clip_wsss.core.confidence import MU
from clip_wsss.core.errors import InputError, failed, stopped
from clip_wsss.core.files import check_own, check_replaceable, make_output
from clip_wsss.core.maps import ImageMaps, upsample_maps, write_npz
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.resources import project
from clip_wsss.data.datasets import Dataset, open_dataset
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.masks.write import labels_and_confidence
from clip_wsss.prompts.texts import text_features
from clip_wsss.score.confusion import Sparse, count_label, count_sweep, iou, mean_iou

POWERS = tuple(range(1, 11))


def shipped_preset(dataset: str, preset: str) -> dict:
    """The entries of a preset, a run of the tables of config/<dataset>.yaml.

    Args:
        dataset: voc12 or coco14.
        preset: clip-es or corrected.

    Returns:
        vocabulary (a path), size (xml or image), round_weights, and the entries texts, cam,
        affinity and masks, every setting of which is there.

    Raises:
        InputError: there is no such config or run.
    """
    with chdir(project()):  # a preset is the project's, whatever lies in the user's folder
        found = read_row(f"{dataset}:{preset}")
    config, groups = found.config, ("texts", "cam", "affinity", "masks")
    entries = {group: getattr(found.stages, group) for group in groups}
    return {
        "vocabulary": str(project() / config.dataset.vocabulary),
        "size": config.dataset.size,
        "round_weights": config.models[entries["cam"].model].round_weights,
        **{group: entry.model_dump() for group, entry in entries.items()},
    }


def run(
    dataset: Dataset,
    split: str,
    model: dict,
    preset: dict,
    out: Path,
    *,
    skip_bad: bool = False,
    device: str = "cpu",
    batch: int = 8,
    workers: int = 1,
    overwrite: bool = True,
) -> dict:
    """Write <id>.npz of every image of a split, text.npz, and summary.json.

    Args:
        dataset: images, labels and, where there are any, masks.
        split: the images.
        model: architecture and weights, see `clip_wsss.models.clip.load_clip`.
        preset: from `shipped_preset`.
        out: the folder.
        skip_bad: leave bad images out and list them in the summary, instead of stopping.
        device: cpu, cuda or auto.
        batch: images of equal grid in one pass.
        workers: processes of the CRF.
        overwrite: replace files of other programs there.

    Returns:
        What summary.json holds: ids, mIoU of every stage, and the images that were left out
        (skipped) or could not be scored (unscored), each with its reason.

    Raises:
        InputError: bad images, one a line; or a folder that cannot be written into, or holds files
            of another program in the place of these.
    """
    from clip_wsss.models.clip import load_for

    out = Path(out)
    make_output(out)
    for name in ("text.npz", "summary.json"):
        check_replaceable(out / name)
    ids = dataset.ids(split)
    skipped = dataset.problems(split, workers=workers)
    if skipped and not skip_bad:
        raise InputError("\n".join(skipped.values()))
    ids = [name for name in ids if name not in skipped]
    if not ids:
        raise InputError(f"split {split}: no image is left")
    clip = load_for(preset["cam"], {**model, "round_weights": preset["round_weights"]}, device)
    if not overwrite:  # text.npz, an archive, is written first
        files = (out / name for name in ("summary.json", *(f"{id_}.npz" for id_ in ids)))
        check_own(out, "text.npz", "PK", files)
    entry, words = preset["texts"], dataset.vocabulary
    names = list(words.texts(entry["names"]).values())
    texts = text_features(clip, [entry["template"]], names, words.background(entry["background"]))
    arrays = {"fg": texts[0].numpy(), "bg": texts[1].numpy(), "logit_scale": clip.logit_scale}
    write_npz(out / "text.npz", arrays, compressed=True)

    cams = {"initial": CamVariant("own", preset["cam"], {"caa": preset["affinity"]})}
    maps = compute_pass(dataset, ids, clip, {"own": texts}, cams, batch)
    found = dict(tqdm(maps, total=len(ids), desc="maps", unit="image", disable=None))
    classes = 1 + len(dataset.vocabulary.classes)
    confusion: dict[str, np.ndarray] = {}
    unscored = {}
    work = partial(_finish_image, dataset, preset, out)
    with parallel_map(min(workers, len(ids))) as mapped:
        finished = mapped(work, [found[name] for name in ids])
        for name, (counts, problem) in zip(
            ids,
            tqdm(finished, total=len(ids), desc="masks", unit="image", disable=None),
            strict=True,
        ):
            if problem:
                unscored[name] = problem
            for stage, (truth, prediction, pixels) in counts.items():
                total = confusion.setdefault(stage, np.zeros((classes, classes), np.int64))
                total[truth, prediction] += pixels
    summary = {
        "ids": ids,
        "mIoU": {stage: mean_iou(iou(total)) for stage, total in confusion.items()},
        "skipped": skipped,
        "unscored": unscored,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _finish_image(
    dataset: Dataset, preset: dict, out: Path, maps: dict[str, ImageMaps]
) -> tuple[dict[str, Sparse], str]:
    """Write one image's npz; its counts of every stage, or why it cannot be scored."""
    initial, caa, settings = maps["initial"], maps["caa"], preset["affinity"]
    rules = settings["threshold"], settings["box_edge"]
    found = [boxes(cam, *rules) for cam in initial.maps]
    label, confidence = labels_and_confidence(
        caa.maps, initial.keys, dataset.image(initial.id), preset["masks"]
    )
    arrays = {
        "keys": initial.keys,
        "size": np.array(initial.size, dtype=np.int64),
        "grid": np.array(initial.maps.shape[1:], dtype=np.int64),
        "cam_grid": initial.maps,
        "caa_grid": caa.maps,
        "aff_mask": np.stack([box_mask(cam, *rules) for cam in initial.maps]),
        "boxes": np.concatenate([np.insert(rows, 0, k, axis=1) for k, rows in enumerate(found)]),
        "crf_label": label,
        "crf_conf": confidence.astype(np.float16),
        "pseudo_mask": np.where(confidence < MU, np.uint8(IGNORE), label),
    }
    write_npz(out / f"{initial.id}.npz", arrays, compressed=True)
    try:
        truth = dataset.mask(initial.id)
    except InputError as error:
        return {}, str(error)
    if truth is None:
        return {}, "the data set has no masks"
    classes = 1 + len(dataset.vocabulary.classes)
    counts: dict[str, Any] = {}
    for stage, image in maps.items():
        full = upsample_maps(image.maps, image.size)
        sweep = count_sweep(truth, full, image.keys.tolist(), POWERS, classes)
        counts |= {f"{stage}_pow{p}": c for p, c in zip(POWERS, sweep, strict=True)}
    counts["crf"] = count_label(truth, label, classes)
    return counts, ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 after bad input, with one line for each bad file."""
    parser = argparse.ArgumentParser(prog="clip-wsss parity", description=__doc__)
    add = parser.add_argument
    add("--root", required=True, help="VOC-format folder: JPEGImages, Annotations, ImageSets")
    add("--split", required=True, help="name of a list in ImageSets/Segmentation, or a .txt file")
    add("--weights", required=True, help="an open_clip tag, an OpenAI .pt, or safetensors")
    add("--architecture", help="open_clip name or model config; default: inferred from the .pt")
    add("--masks", help="folder of ground truth; default: SegmentationClassAug, else ...Class")
    add("--labels", default="xml", help="xml, or a CSV with the columns image and labels")
    add("--preset", default="clip-es", choices=("clip-es", "corrected"))
    add("--dataset", default="voc12", choices=("voc12", "coco14"), help="classes and settings")
    add("--skip-bad", action="store_true", help="list bad images instead of stopping")
    add("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    add("--batch", type=at_least(1), default=8, help="images of equal grid in one pass")
    add("--workers", type=at_least(1), default=1, help="processes of the CRF")
    add("--threads", type=at_least(1), default=1, help="of torch; the last bits depend on it")
    add("--out", type=output, required=True, help="gets <id>.npz, text.npz and summary.json")
    add("--overwrite", action="store_true", help="replace files of others there")
    args = parser.parse_args(arguments)
    try:
        import torch

        torch.set_num_threads(args.threads)
        preset = shipped_preset(args.dataset, args.preset)
        dataset = open_dataset(
            {
                "name": args.dataset,
                "source": "folder",
                "root": args.root,
                "vocabulary": preset["vocabulary"],
                "labels": args.labels,
                "size": preset["size"],
                "orientation": "stored",  # as the public code reads images
                "masks": args.masks or _masks_folder(Path(args.root)),
            }
        )
        model = {"architecture": args.architecture, "weights": args.weights}
        options = {"device": args.device, "batch": args.batch, "workers": args.workers}
        options["overwrite"] = args.overwrite
        summary = run(
            dataset, args.split, model, preset, args.out, skip_bad=args.skip_bad, **options
        )
    except InputError as error:
        return failed(error)
    except OSError as error:
        return stopped(error, args.out)
    for kind in ("skipped", "unscored"):
        for name, reason in summary[kind].items():
            print(f"{kind} {name}: {reason}", file=sys.stderr)
    print(f"{len(summary['ids'])} images in {args.out}; mIoU:")
    for stage, value in summary["mIoU"].items():
        print(f"  {stage:14} {value:.4f}")
    return 0


def _masks_folder(root: Path) -> str | None:
    for name in ("SegmentationClassAug", "SegmentationClass"):
        if (root / name).is_dir():
            return name
    return None


if __name__ == "__main__":
    sys.exit(main())
