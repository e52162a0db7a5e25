"""What a GPU makes of the pseudo masks' stages, and how long VOC's train_aug would take on it.

    PYTHONPATH=src python benchmarks/gpu.py --out FOLDER [--device cuda] [--budget 300] [--quick]

A ViT-B/16 CLIP with random weights, random text features and made photographs of VOC's usual sizes
(or those of `--images FOLDER`), so nothing is downloaded. Each part calls the code that a run
calls, gets its share of the budget, and fails alone:

    decode      a JPEG read and resized: one core, all cores as threads, all cores as processes
    cam         CAM + CAA by precision and batch, peak GPU memory; what of it takes how long
    crf         the CRF in torch by batch, labels and precision of the sums; the compiled one beside
    equality    maps and labels of the device beside those of the CPU in float32
    profile     the kernels of CAM + CAA and of the CRF
    pipeline    the jobs of a run that write maps and masks, one to four at once on the GPU, and
                what that makes for the 10,582 images
    weclip      an update of a WeCLIP training, and its first loss on the device and on the CPU
    tests       the tests of this repository that need CUDA

FOLDER gets gpu.json and gpu.md, written again after every figure.
"""

import argparse
import cProfile
import importlib.util
import json
import multiprocessing
import os
import platform
import pstats
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from clip_cases import make_openai_state_dict, write_model
from photographs import SIZES, photograph

from clip_wsss.cams.backward import PassImage, WantedCam, class_maps
from clip_wsss.cams.passes import CamVariant, write_pass
from clip_wsss.core.images import image_size, read_rgb
from clip_wsss.core.maps import background_scores, upsample_maps
from clip_wsss.core.methods import method
from clip_wsss.core.processes import parallel_map
from clip_wsss.masks import fast_crf, torch_crf
from clip_wsss.masks.refinements.crf import CrfSettings, decided_crfs, unary
from clip_wsss.masks.write import mask_context, write_shard
from clip_wsss.models.clip import load_clip

ROOT = Path(__file__).resolve().parents[1]
TRAIN_AUG = 10582  # images of VOC
COUNTS = (1, 1, 2, 1, 1, 2, 1, 1, 3, 1)  # classes an image, 1.4 on average
FOREGROUND, BACKGROUND = 20, 25
CAA = {"layers": 8, "sinkhorn": 3, "power": 2, "threshold": 0.4, "box_edge": "clamp"}
CRF = fast_crf.MeanField(
    iterations=10,
    gaussian_sxy=1,
    gaussian_compat=3,
    bilateral_sxy=67,
    bilateral_srgb=3,
    bilateral_compat=4,
)
MASKS = {
    "refinement": "crf",
    "background_power": 1.0,
    "crf": {"backend": "fast", "image": "rgb", **asdict(CRF)},
}


# What is measured ---------------------------------------------------------------------------------


def model_entry(folder, quick):
    """A `models` entry: OpenAI's ViT-B/16 (quick: two blocks of it) with random weights."""
    config = {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 224,
            "layers": 2 if quick else 12,
            "width": 768,
            "patch_size": 16,
        },
        # Texts are random features, so the text tower is small.
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64,
            "heads": 1,
            "layers": 1,
        },
    }
    return write_model(folder, config, make_openai_state_dict(config, 0, logit_scale=4.6))


@cache
def text_features():
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(FOREGROUND + BACKGROUND, 512, generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=-1)
    return texts[:FOREGROUND], texts[FOREGROUND:]


def keys_of(number):
    """The classes of image `number`, 0-based."""
    return [(7 * number + place) % FOREGROUND for place in range(COUNTS[number % len(COUNTS)])]


def wanted(caa=True):
    affinities = {"caa": method("affinity", "caa").bound(CAA)} if caa else {}
    return {"cam": WantedCam("own", None, method("target", "softmax").function, affinities)}


def maps_of(clip, batch, keys, caa=True):
    """Maps of a batch by the project's own pass."""
    unseen = np.zeros((1, 1, 3), np.uint8)  # nothing wanted here looks at the photograph
    images = [PassImage(str(number), unseen, own) for number, own in enumerate(keys)]
    return class_maps(clip, batch, images, {"own": text_features()}, wanted(caa))


def unary_of(maps, size):
    """Maps (K, gh, gw) to energies (K + 1, H * W)."""
    full = upsample_maps(maps, size)
    scores = np.concatenate([background_scores(full, MASKS["background_power"])[None], full])
    return unary(scores)


# Measuring ----------------------------------------------------------------------------------------


class Report:
    """Rows by part, written down after each."""

    def __init__(self, folder):
        self.folder, self.parts = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, table, **row):
        """Add a row to a table."""
        self.parts.setdefault(table, []).append(row)
        print(table, json.dumps(row), flush=True)
        (self.folder / "gpu.json").write_text(json.dumps(self.parts, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.markdown())

    def markdown(self):
        """The tables."""
        lines = ["# benchmarks/gpu.py", ""]
        for part, rows in self.parts.items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            lines += [f"## {part}", "", "| " + " | ".join(columns) + " |"]
            lines.append("|" + " --- |" * len(columns))
            for row in rows:
                cells = (str(row.get(column, "")).replace("|", "/") for column in columns)
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        return "\n".join(lines)


class Clock:
    """The time of a part; after it, no new measurement of the part starts."""

    def __init__(self, seconds, least):
        self.end, self.least = time.perf_counter() + seconds, least

    def over(self):
        """Whether the part has used its share."""
        return time.perf_counter() > self.end

    def rate(self, run, images, device="cpu"):
        """Images a second of `run`, which does `images` of them, after one run to warm up."""
        run()
        wait(device)
        start, done = time.perf_counter(), 0
        while True:
            run()
            wait(device)
            done += images
            if (passed := time.perf_counter() - start) >= self.least:
                return done / passed


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device, row):
    """Fill in `peak MiB`: what was allocated beyond what had been, at most."""
    if torch.device(device).type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    row["peak MiB"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)


def rounded(value, digits=3):
    return float(f"{value:.{digits}g}")


# The parts ----------------------------------------------------------------------------------------

_reader = None  # the CLIP of `read`, which forked processes inherit


def read(path):
    """What a reader of a job does: (rgb, what the model takes)."""
    rgb = read_rgb(path)
    return rgb, _reader.preprocess(rgb)


def read_only(path):
    read(path)


def decode(report, clock, case):
    paths, cores = case.paths[: 8 if case.quick else None], case.cores
    one = clock.rate(lambda: [read(path) for path in paths[:32]], len(paths[:32]))
    report.add("decode", workers="1 core", images_a_second=rounded(one))
    with ThreadPoolExecutor(cores) as pool:
        many = clock.rate(lambda: list(pool.map(read_only, paths)), len(paths))
    report.add("decode", workers=f"{cores} threads", images_a_second=rounded(many))
    with parallel_map(cores) as mapped:  # forked before CUDA is touched
        many = clock.rate(lambda: list(mapped(read_only, paths)), len(paths))
    report.add("decode", workers=f"{cores} processes", images_a_second=rounded(many))


def machine(report, clock, case):
    row = {"python": platform.python_version(), "torch": torch.__version__, "cores": case.cores}
    if case.device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        row |= {"device": properties.name, "GiB": round(properties.total_memory / 2**30, 1)}
    report.add("machine", **row, images=len(case.paths))


def cam(report, clock, case):
    device, count = case.device, 2 if case.quick else 64
    sizes = [read_rgb(path).shape[:2] for path in case.paths]
    usual = Counter(sizes).most_common(1)[0][0]  # a batch has images of one grid
    numbers = [n for n, size in enumerate(sizes) if size == usual]
    numbers = [numbers[n % len(numbers)] for n in range(count)]
    images = torch.stack([read(case.paths[n])[1] for n in numbers]).to(device)
    keys = [keys_of(n) for n in numbers]

    def by_batch(clip, size, call):
        for first in range(0, len(images), size):
            call(clip, images[first : first + size], keys[first : first + size])

    stages = {
        "trunk without maps": lambda clip, batch, keys: clip.trunk(batch, 0),
        "trunk": lambda clip, batch, keys: clip.trunk(batch, CAA["layers"], CAA["layers"]),
        "trunk + CAM": partial(maps_of, caa=False),
    }
    sizes = (1, 2) if case.quick else (1, 4, 8, 16, 32, 64)
    for precision in case.precisions:
        clip = case.clip(precision)
        for size in sizes:
            if clock.over():
                report.add("cam", precision=precision, batch=size, note="no time left")
                continue
            row = {"precision": precision, "batch": size}
            try:
                with peak_memory(device, row):
                    found = clock.rate(partial(by_batch, clip, size, maps_of), len(images), device)
                row["images_a_second"] = rounded(found)
            except torch.OutOfMemoryError:
                row["note"] = "out of memory"
            report.add("cam", **row)
        for name, call in stages.items():
            size = sizes[-2]
            found = clock.rate(partial(by_batch, clip, size, call), len(images), device)
            row = {"precision": precision, "batch": size, "what": name}
            report.add("cam: where it goes", **row, ms_an_image=rounded(1000 / found))


def crf(report, clock, case):
    device, rng = case.device, np.random.default_rng(0)
    images = [read_rgb(path) for path in case.paths[: 2 if case.quick else 32]]

    def unaries(classes):
        return [
            unary_of(rng.random((classes, 24, 32), np.float32) ** 3, rgb.shape[:2])
            for rgb in images
        ]

    own = unaries(2)
    built = importlib.util.find_spec("clip_wsss.masks._fast_crf") is not None
    if built:
        calls = list(zip(own, images, strict=True))

        def compiled(pair):
            return fast_crf.fast(*pair, CRF)

        row = {"backend": "fast", "labels": 3}
        found = clock.rate(lambda: [compiled(pair) for pair in calls[:8]], len(calls[:8]))
        report.add("crf", **row, workers="1 core", images_a_second=rounded(found))
        with ThreadPoolExecutor(case.cores) as pool:
            found = clock.rate(lambda: list(pool.map(compiled, calls)), len(calls))
        report.add("crf", **row, workers=f"{case.cores} threads", images_a_second=rounded(found))
        beside = [compiled(pair) for pair in calls[:8]]
    else:
        report.add("crf", backend="fast", note=fast_crf.NOT_BUILT)
        beside = torch_crf.torch_crf(own[:2], images[:2], CRF, "cpu")

    def by_batch(given, size, iterations):
        field = replace(CRF, iterations=iterations)
        for first in range(0, len(given), size):
            part = slice(first, first + size)
            torch_crf.torch_crf(given[part], images[part], field, device)

    ours = torch_crf.torch_crf(own[: len(beside)], images[: len(beside)], CRF, device)
    same, side, largest = agreement(ours, beside)
    report.add(
        "crf: torch beside " + ("fast" if built else "torch on the CPU"),
        same_label=same,
        same_side_of_095=side,
        largest_difference=largest,
    )
    cases = [(2, size) for size in ((1,) if case.quick else (1, 4, 8, 16, 32))]
    for classes, size in cases + [(20, 4)] * (not case.quick):
        row = {"backend": "torch", "workers": device, "labels": classes + 1, "batch": size}
        if clock.over():
            report.add("crf", **row, note="no time left")
            continue
        given = own if classes == 2 else unaries(classes)[:8]
        with peak_memory(device, row):
            whole = clock.rate(lambda g=given, s=size: by_batch(g, s, 10), len(given), device)
        lattice = clock.rate(lambda g=given, s=size: by_batch(g, s, 0), len(given), device)
        row |= {"images_a_second": rounded(whole), "ms_an_image": rounded(1000 / whole)}
        report.add("crf", **row, ms_without_iterations=rounded(1000 / lattice))


def agreement(ours, theirs):
    """Share of pixels with the same label, on the same side of 0.95, and the largest difference."""
    pixels = sum(one[0].size for one in theirs)
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(int(np.sum(a.argmax(0) == b.argmax(0))) for a, b in pairs)
    side = sum(int(np.sum((a.max(0) >= 0.95) == (b.max(0) >= 0.95))) for a, b in pairs)
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    return round(same / pixels, 6), round(side / pixels, 6), rounded(largest)


def equality(report, clock, case):
    numbers = range(2 if case.quick else 8)
    read_images = [read(case.paths[n]) for n in numbers]

    def all_maps(clip):
        """Image by image, so that the CPU and the device get the same batches."""
        return [
            {name: own.cpu().numpy() for name, own in maps.items()}
            for n, (_, image) in zip(numbers, read_images, strict=True)
            for maps in maps_of(clip, image[None], [keys_of(n)])
        ]

    reference = all_maps(load_clip(case.entry))
    for precision in case.precisions:
        found = all_maps(case.clip(precision))
        difference = {
            name: max(
                float(np.abs(a[name] - b[name]).max())
                for a, b in zip(found, reference, strict=True)
            )
            for name in ("cam", "caa")
        }
        equal = [
            np.mean(scores(a, rgb).argmax(0) == scores(b, rgb).argmax(0))
            for a, b, (rgb, _) in zip(found, reference, read_images, strict=True)
        ]
        report.add(
            "equality",
            device=case.device,
            precision=precision,
            images=len(numbers),
            largest_difference_cam=rounded(difference["cam"]),
            largest_difference_caa=rounded(difference["caa"]),
            same_labels=round(float(np.mean(equal)), 6),
            goal="1e-4 and 0.999" if precision == "float32" else "stated",
        )


def scores(maps, rgb):
    full = upsample_maps(maps["caa"], rgb.shape[:2])
    return np.concatenate([background_scores(full, 1.0)[None], full])


# The jobs of a run --------------------------------------------------------------------------------


class Photographs:
    """What the jobs ask of a data set."""

    def __init__(self, paths):
        self.paths, self.settings = paths, {"on_bad_image": "stop"}

    def path(self, id_):
        """Of an image: they are used again and again."""
        return self.paths[int(id_) % len(self.paths)]

    def size(self, id_):
        """(H, W)."""
        return image_size(self.path(id_))

    def image(self, id_):
        """(H, W, 3) uint8."""
        return read_rgb(self.path(id_))

    def labels(self, id_):
        """The classes."""
        return keys_of(int(id_))


def make_shards(clip, folder, paths, shards, options):
    """Maps and masks of some shards, as the jobs of a run make and write them.

    Args:
        clip: the model, on the device.
        folder: gets the files.
        paths: of the photographs.
        shards: the ids of each.
        options: batch, masks (the entry), threads, device.

    Returns:
        Seconds by job.
    """
    data, spent = Photographs(paths), Counter()
    cam = CamVariant("own", {"method": "gradcam"}, {"caa": {"method": "caa", **CAA}})
    for number, ids in enumerate(shards):
        maps, masks = folder / f"{number}.npz", folder / f"{number}.zip"
        start = time.perf_counter()
        texts, cams, outputs = {"own": text_features()}, {"cam": cam}, {"caa": maps}
        write_pass(
            data, ids, clip, texts, cams, outputs, options["batch"], readers=options["threads"]
        )
        middle = time.perf_counter()
        spent["maps"] += middle - start
        write_shard(data, maps, options["masks"], masks, options["threads"], ids, options["device"])
        spent["masks"] += time.perf_counter() - middle
    return dict(spent)


def serve(connection, entry, device):
    """A process of the pipeline: loads a model when told to, does jobs when told to."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    clip = None
    while (task := connection.recv()) is not None:
        try:
            if "precision" in task:
                clip = load_clip(entry, precision=task["precision"], device=device)
                connection.send("ready")
            else:
                on_cuda = torch.device(device).type == "cuda"
                if on_cuda:
                    torch.cuda.reset_peak_memory_stats()
                with tempfile.TemporaryDirectory() as folder:
                    profile = cProfile.Profile()
                    with profile if task["profile"] else nullcontext():
                        found = make_shards(clip, Path(folder), *task["work"])
                if task["profile"]:
                    found["calls"] = slowest_calls(profile)
                if on_cuda:
                    found["peak MiB"] = torch.cuda.max_memory_allocated() / 2**20
                connection.send(found)
        except Exception:
            connection.send(traceback.format_exc(limit=-3))


def slowest_calls(profile, count=16):
    """(function, seconds in it, calls) of the thread that was profiled."""
    rows = pstats.Stats(profile).stats.items()
    rows = sorted(((own, calls, where) for where, (_, calls, own, *_) in rows), reverse=True)
    return [
        ({"function": f"{Path(file).name}:{line} {name}", "calls": calls}, own)
        for own, calls, (file, line, name) in rows[:count]
    ]


class Workers:
    """Processes that share the device, as jobs of one run do."""

    def __init__(self, count, entry, device):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, entry, device))
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def ask(self, tasks, seconds):
        """Answers of the first len(tasks) processes."""
        end = time.perf_counter() + seconds
        for pipe, task in zip(self.pipes, tasks, strict=False):
            pipe.send(task)
        answers = []
        for pipe, _ in zip(self.pipes, tasks, strict=False):
            if not pipe.poll(max(0, end - time.perf_counter())):
                raise TimeoutError("a process of the pipeline has not answered in time")
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, str) and answer != "ready":
                raise RuntimeError(answer)
        return answers

    def stop(self):
        """End them, whatever they do."""
        for process in self.processes:
            process.kill()
            process.join()


def pipeline(report, clock, case):
    fast = importlib.util.find_spec("clip_wsss.masks._fast_crf") is not None
    precise = [p for p in ("bfloat16", "float32") if p in case.precisions]
    # The most telling ones first, should the time run out. One process: a run with gpu=1.
    plans = [(precise[0], 1, "torch"), (precise[0], 2, "torch"), (precise[0], 3, "torch")]
    plans += [(precise[0], 4, "torch"), (precise[-1], 2, "torch")]
    plans += [(precise[0], 4, "fast")] * fast
    if case.quick:
        plans = [("float32", 1, "torch"), ("float32", 2, "torch")] + [("float32", 2, "fast")] * fast
    start, most = time.perf_counter(), max(count for _, count, _ in plans)
    workers = Workers(most, case.entry, case.device)
    loaded, best = None, None
    try:
        for precision, count, kind in plans:
            row = {"precision": precision, "jobs at once": count, "crf": kind}
            if clock.over():
                report.add("pipeline", **row, note="no time left")
                continue
            number = 4 * count if case.quick else max(512, 384 * count) // (1 + (kind == "fast"))
            options = {
                "batch": 2 if case.quick else 32,
                "masks": {**MASKS, "crf": {**MASKS["crf"], "backend": kind}},
                "threads": max(1, case.cores // count),
                "device": case.device,
            }

            def ask(number, profile=False, count=count, options=options):
                """Two shards a process."""
                ids = [str(n) for n in range(number)]
                tasks = [
                    {"work": (case.paths, [ids[i :: 2 * count], ids[i + count :: 2 * count]],
                     options), "profile": profile} for i in range(count)
                ]  # fmt: skip
                return workers.ask(tasks, 90)

            try:
                if precision != loaded:
                    workers.ask([{"precision": precision}] * most, 120)
                    loaded = precision
                    if case.device != "cpu":
                        report.add(
                            "pipeline: start",
                            precision=precision,
                            seconds_until_models_are_loaded=rounded(time.perf_counter() - start),
                        )
                if case.device != "cpu":
                    ask(48 * count)  # kernels load, allocators grow
                began = time.perf_counter()
                answers = ask(number)
                wall = time.perf_counter() - began
            except Exception as error:
                report.add("pipeline", **row, note=str(error).strip().splitlines()[-1])
                if isinstance(error, TimeoutError):
                    raise
                continue
            row |= {
                "images": number,
                "images_a_second": rounded(number / wall),
                "train_aug_seconds": round(TRAIN_AUG * wall / number),
            }
            if "peak MiB" in answers[0]:
                row["peak MiB, all processes"] = round(sum(a.pop("peak MiB") for a in answers))
            for job in ("maps", "masks"):
                spent = sum(answer[job] for answer in answers)
                row[f"{job}: ms an image in a job"] = rounded(1000 * spent / number)
            report.add("pipeline", **row)
            if count == 1:
                (answer,) = ask(number // 4, profile=True)
                for call, seconds in answer["calls"]:
                    taken = rounded(1000 * seconds / (number // 4))
                    report.add("pipeline: main thread of one job", **call, ms_an_image=taken)
            if best is None or wall / number < best[0]:
                best = wall / number, row
    finally:
        workers.stop()
    if best is not None:
        seconds, row = best
        report.add(
            "train_aug",
            images=TRAIN_AUG,
            seconds=round(TRAIN_AUG * seconds),
            goal=120,
            how=f"{row['precision']}, {row['jobs at once']} jobs at once, crf {row['crf']}",
            measured_on=f"{row['images']} images, models loaded",
        )


# What the device does -----------------------------------------------------------------------------


def profile(report, clock, case):
    if case.device == "cpu":
        return
    numbers = [n for n in range(len(case.paths)) if SIZES[n % len(SIZES)] == SIZES[0]][:16]
    seen = [read(case.paths[n]) for n in numbers]
    batch, keys = torch.stack([image for _, image in seen]), [keys_of(n) for n in numbers]
    clip, images = case.clip("bfloat16"), [rgb for rgb, _ in seen]
    found = [maps["caa"].cpu().numpy() for maps in maps_of(clip, batch, keys)]
    contexts = [
        mask_context(maps, np.array(own), rgb, MASKS, "", case.device)
        for maps, own, rgb in zip(found, keys, images, strict=True)
    ]
    settings = CrfSettings(backend="torch")
    calls = {
        "CAM + CAA": partial(maps_of, clip, batch, keys),
        "CAM": partial(maps_of, clip, batch, keys, caa=False),
        "CRF": partial(decided_crfs, contexts, settings),
    }
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    for what, call in calls.items():
        call()
        wait(case.device)
        start = time.perf_counter()
        call()
        wait(case.device)
        wall = time.perf_counter() - start
        with torch.profiler.profile(activities=kinds) as profiled:
            call()
            wait(case.device)
        rows = [row for row in profiled.key_averages() if row.self_device_time_total > 0
                and str(row.device_type).endswith("CUDA")]  # fmt: skip
        rows.sort(key=lambda row: -row.self_device_time_total)
        total, n = sum(row.self_device_time_total for row in rows), len(numbers)
        report.add(
            "profile",
            what=what,
            ms_an_image=rounded(1000 * wall / n),
            kernels_ms_an_image=rounded(total / 1000 / n),
            kernels_an_image=rounded(sum(row.count for row in rows) / n),
        )
        for row in rows[:14]:
            report.add(
                "profile: kernels",
                what=what,
                kernel=row.key[:110],
                launches=row.count,
                ms_an_image=rounded(row.self_device_time_total / 1000 / n),
            )


# WeCLIP, tests ------------------------------------------------------------------------------------


def weclip_update(entry, folder, device, quick):
    """First loss, and seconds an update, of a WeCLIP training on one batch; printed as JSON."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    import clip_wsss.segmentation  # noqa: F401 - registers what the model is built from
    from clip_wsss.segmentation.weclip.segmentor import WeCLIP

    size, count = (96, 1) if quick else (320, 4)
    torch.manual_seed(0)
    foreground, background = (features.numpy() for features in text_features())
    np.savez(folder / f"{device}.npz", foreground=foreground, background=background)
    model = WeCLIP(
        backbone=entry,
        decode_head={"type": "WeCLIPHead", "num_classes": FOREGROUND + 1},
        data_preprocessor={"type": "SegDataPreProcessor", "bgr_to_rgb": True, "size": (size, size)},
        labels={},
        texts=folder / f"{device}.npz",
    )
    model = model.to(device).train()
    coarse = torch.randn(count, 3, size // 16, size // 16)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").to(device)
    samples = []
    for number in range(count):
        sample = SegDataSample(metainfo={"class_keys": keys_of(number)})
        padding = torch.zeros(1, size, size, dtype=torch.long, device=device)
        sample.gt_sem_seg = PixelData(data=padding)
        samples.append(sample)
    optimizer = torch.optim.AdamW(model.decode_head.parameters(), lr=1e-4)
    losses, seconds = [], []
    for _ in range(2 if device == "cpu" else 8):
        start = time.perf_counter()
        found = model(images, samples, mode="loss")
        loss = sum(found.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append({name: float(value) for name, value in found.items()})
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"losses": losses[0], "seconds": min(seconds[1:]), "batch": count}))


def weclip(report, clock, case):
    found = {}
    for device in dict.fromkeys((case.device, "cpu")):
        environment = dict(os.environ)
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # MMEngine takes a GPU where it sees one
        command = [sys.executable, __file__, "--weclip", device, "--out", str(case.folder)]
        done = subprocess.run(
            command + ["--quick"] * case.quick,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            report.add("weclip", device=device, note=f"skipped: {why}")
            continue
        found[device] = json.loads(done.stdout.strip().splitlines()[-1])
        losses = {name: rounded(value, 7) for name, value in found[device]["losses"].items()}
        seconds = rounded(found[device]["seconds"])
        report.add(
            "weclip",
            device=device,
            batch=found[device]["batch"],
            seconds_an_update=seconds,
            **losses,
        )
    if len(found) == 2:
        ours, theirs = (found[device]["losses"] for device in (case.device, "cpu"))
        relative = {name: rounded(abs(ours[name] / theirs[name] - 1)) for name in theirs}
        report.add("weclip", device="relative difference", **relative)


def tests(report, clock, case):
    files = [path for path in (ROOT / "tests/unit").rglob("test_*.py") if "needs CUDA" in
             path.read_text() and "cuda.is_available" in path.read_text()]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "cuda"]
    done = subprocess.run(
        command + list(map(str, files)), cwd=ROOT, capture_output=True, text=True, timeout=150
    )
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-1000:], flush=True)
    report.add("tests", files=len(files), exit=done.returncode, last_line=lines[-1])


# The whole ----------------------------------------------------------------------------------------


PARTS = {  # with their shares of the budget
    decode: 0.06,
    machine: 0.0,  # after the processes are forked
    cam: 0.14,
    crf: 0.12,
    equality: 0.08,
    profile: 0.05,
    pipeline: 0.4,
    weclip: 0.1,
    tests: 0.05,
}


class Case:
    """What the parts share."""

    def __init__(self, folder, args):
        self.device, self.quick, self.cores = args.device, args.quick, args.cores
        self.folder = folder
        self.precisions = ["float32", "bfloat16"] + ["float16"] * (args.device != "cpu")
        self.entry = model_entry(folder, args.quick)
        self.paths = self._photographs(folder, args.images)

    def _photographs(self, folder, given):
        if given is not None:
            return sorted(str(path) for path in given.iterdir() if path.suffix == ".jpg")
        count = 8 if self.quick else 256
        sizes = [SIZES[n % len(SIZES)] for n in range(count)]
        if self.quick:
            sizes = [(height // 3, width // 3) for height, width in sizes]
        with parallel_map(self.cores) as mapped:
            for number, data in enumerate(mapped(photograph, range(count), sizes)):
                (folder / f"{number:04}.jpg").write_bytes(data)
        return [str(folder / f"{number:04}.jpg") for number in range(count)]

    def clip(self, precision):
        """The model on the device."""
        return load_clip(self.entry, precision=precision, device=self.device)


def main():
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=300, help="seconds, in all")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=Path, help="folder of photographs, instead of made ones")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="parts")
    parser.add_argument("--quick", action="store_true", help="a few images, two blocks: a trial")
    parser.add_argument("--weclip", metavar="DEVICE", help=argparse.SUPPRESS)  # a process of itself
    args = parser.parse_args()
    if args.weclip:
        entry = {name: str(args.out / f"model{end}") for name, end in
                 (("architecture", ".json"), ("weights", ".pt"))}  # fmt: skip
        weclip_update(entry, args.out, args.weclip, args.quick)
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has none; use --device cpu --quick for a trial")

    global _reader
    cv2.setNumThreads(0)
    start = time.perf_counter()
    report, failed = Report(args.out), False
    with tempfile.TemporaryDirectory() as name:
        case = Case(Path(name), args)
        _reader = load_clip(case.entry)
        for part, share in PARTS.items():
            if part.__name__ not in args.only:
                continue
            began = time.perf_counter()
            left = args.budget - (began - start)
            try:
                clock = Clock(min(left, share * args.budget), 0 if args.quick else 0.7)
                part(report, clock, case)
            except Exception as error:
                failed = True
                traceback.print_exc()
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                report.add("failed", part=part.__name__, why=why)
            if args.device != "cpu" and torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            report.add("seconds", part=part.__name__, seconds=rounded(time.perf_counter() - began))
        report.add("seconds", part="all", seconds=rounded(time.perf_counter() - start))
    print((args.out / "gpu.md").read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
