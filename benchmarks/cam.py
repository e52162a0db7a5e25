"""CAMs of photographs with CAA: this checkout beside an earlier one or the slow twin, in one run.

    python benchmarks/cam.py --old CHECKOUT [--images FOLDER] [--precisions float32 bfloat16]
    python benchmarks/cam.py --tables [--images FOLDER]
    python benchmarks/cam.py --twin [--images FOLDER]

Random weights of an open_clip architecture; made photographs of 500 x 375 pixels, or those of a
folder; every other image has two classes. Checkouts are processes that compute in turn, so that
other programs on the machine disturb both; of their
seconds an image the least counts. CPU seconds are of all threads, and those of threads that wait
count too, so with more than one thread look at the wall's. `--tables` compares whole tables in one
pass with a pass for every variant; `--twin` compares with the readable code of the tests, one
thread, and on Linux says how much memory the fast path took beyond the loaded model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from photographs import made

HERE = Path(__file__).resolve()
CAA = {"layers": 8, "sinkhorn": 3, "power": 2, "threshold": 0.4, "box_edge": "clamp"}
CLIP_ES = {"round": "float16"}  # position embedding of the public code
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def affinity_table():
    """config/runs/affinity.tsv: one initial map, twelve refined ones."""
    own = CAA | {"layers": 3, "box_edge": "full"}
    changes = [
        {},
        *({"layers": n} for n in (1, 2, 4)),
        *({"sinkhorn": n} for n in (0, 1)),
        *({"power": n} for n in (1, 3)),
        *({"threshold": n} for n in (0, 0.2, 0.6)),
        {"box_edge": "clamp"},
    ]
    return {"cam": ("0", "softmax", {f"caa {i}": own | c for i, c in enumerate(changes)})}


def voc_table():
    """config/runs/voc12.tsv: the maps of its runs that share a trunk, and those of the other."""
    three = {"synonyms caa": CAA | {"layers": 3, "box_edge": "full"}}
    return {
        "plain": ("0", "logit", {}),
        "softmax": ("0", "softmax", {}),
        "prompt": ("1", "softmax", {}),
        "synonyms": ("2", "softmax", three),
        "corrected": ("3", "softmax", {"corrected caa": CAA | {"box_edge": "full"}}),
    }, {"clip-es": ("3", "softmax", {"clip-es caa": CAA})}


def alone(table):
    """The passes for each variant: those of a table's initial maps and of each refined one."""
    for name, (texts, target, affinities) in table.items():
        for refined in affinities or [None]:
            own = {} if refined is None else {refined: affinities[refined]}
            yield {name: (texts, target, own)}


def photographs(folder, images):
    """The first images of the most frequent size: a list of (H, W, 3) uint8; made ones for None."""
    from PIL import Image

    if folder is None:
        return [made(seed, (375, 500)) for seed in range(images)]

    paths = sorted(folder.rglob("*.jpg"))
    sizes = Counter(Image.open(path).size for path in paths)
    ((size, _),) = sizes.most_common(1)
    chosen = [path for path in paths if Image.open(path).size == size][:images]
    return [np.asarray(Image.open(path).convert("RGB")) for path in chosen]


class Computer:
    """A model and images, and the passes of the checkout that is imported."""

    def __init__(self, architecture, precision, images, classes=(1, 2), position=None):
        import open_clip
        import torch
        from clip_cases import make_openai_state_dict, random_clip

        config = open_clip.get_model_config(architecture)
        self.config, self.state = config, make_openai_state_dict(config, 0, logit_scale=4.6)
        with tempfile.TemporaryDirectory() as folder:
            self.clip = random_clip(
                Path(folder),
                config,
                self.state,
                precision=precision,
                position_embedding=position or {},
            )
        generator = torch.Generator().manual_seed(0)
        texts = torch.randn(22, max(classes) + 25, config["embed_dim"], generator=generator)
        texts = torch.nn.functional.normalize(texts, dim=-1)
        self.photographs, self.images = images, [self.clip.preprocess(rgb) for rgb in images]
        self.counts = [classes[i % len(classes)] for i in range(len(images))]
        split = max(classes)
        self.texts = {str(i): (own[:split], own[split:]) for i, own in enumerate(texts)}

    def __call__(self, table):
        """Maps of a table of (texts, target, affinities) by image and output."""
        import torch

        try:
            from clip_wsss.cams.backward import PassImage, WantedCam, class_maps, fitting_batch
            from clip_wsss.core.methods import method
        except ImportError:  # the checkouts before one pass served several variants
            return self._before_passes(table)
        wanted = {
            name: WantedCam(
                texts,
                None,
                method("target", target).bound({}),
                {
                    own: method("affinity", "caa").bound(settings)
                    for own, settings in affinities.items()
                },
            )
            for name, (texts, target, affinities) in table.items()
        }
        texts = {name: self.texts[name] for name, _, _ in table.values()}
        members = [
            PassImage(str(i), rgb, range(count))
            for i, (rgb, count) in enumerate(zip(self.photographs, self.counts, strict=True))
        ]
        grid, found = self.clip.grid(self.images[0].shape[1:]), []
        step = fitting_batch(self.clip, grid, 16)
        for first in range(0, len(self.images), step):
            part = slice(first, first + step)
            batch = torch.stack(self.images[part])
            found += class_maps(self.clip, batch, members[part], texts, wanted)
        return found

    def _before_passes(self, table):
        import torch
        from clip_wsss.affinity import AFFINITIES
        from clip_wsss.cam import TARGETS
        from clip_wsss.gradcam import Refinement, class_maps, fitting_batch

        ((name, (texts, target, affinities)),) = table.items()
        ((own, settings),) = affinities.items()
        refinement = Refinement(AFFINITIES["caa"], settings, settings["layers"])
        grid, found = self.clip.grid(self.images[0].shape[1:]), []
        step = fitting_batch(self.clip, grid, 16, refinement.layers)
        for first in range(0, len(self.images), step):
            part = slice(first, first + step)
            foreground, background = self.texts[texts]
            maps = class_maps(
                self.clip,
                torch.stack(self.images[part]),
                [foreground[:count] for count in self.counts[part]],
                background,
                TARGETS[target],
                refinement,
            )
            found += [{name: initial, own: refined} for initial, refined in maps]
        return found


def worker(args):
    """Compute a pass whenever a line comes in; answer with its seconds an image."""
    import torch

    torch.set_num_threads(args.threads[0])
    computer = Computer(args.architecture, args.precisions[0], photographs(args.images, args.count))
    found = computer(args.table)  # warm
    flat = np.concatenate([maps[k].numpy().ravel() for maps in found for k in sorted(maps)])
    np.save(args.save, flat)
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        computer(args.table)
        spent = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps([seconds / args.count for seconds in spent]), flush=True)


def against(args):
    """Both checkouts by precision and threads: least seconds, ratios, largest difference."""
    roots = {"before": args.old.resolve(), "now": HERE.parents[1]}
    for precision in args.precisions:
        for threads in args.threads:
            with tempfile.TemporaryDirectory() as folder:
                workers = {}
                for name, root in roots.items():
                    command = [sys.executable, str(HERE), "--worker", str(root)]
                    command += ["--precisions", precision, "--threads", str(threads)]
                    command += ["--count", str(args.count)]
                    command += [] if args.images is None else ["--images", str(args.images)]
                    command += ["--architecture", args.architecture]
                    command += ["--save", f"{folder}/{name}.npy"]
                    paths = f"{root / 'src'}{os.pathsep}{root / 'tests'}"
                    workers[name] = subprocess.Popen(
                        command,
                        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    workers[name].stdout.readline()
                seconds = {name: [] for name in workers}
                for _ in range(args.repeats):
                    for name, process in workers.items():
                        print("go", file=process.stdin, flush=True)
                        seconds[name].append(json.loads(process.stdout.readline()))
                for process in workers.values():
                    process.stdin.close()
                    process.wait()
                before, now = (np.load(f"{folder}/{name}.npy") for name in roots)
            least = {name: np.min(own, axis=0) for name, own in seconds.items()}
            ratios = least["before"] / least["now"]
            print(
                f"{precision}, {threads} thread(s), CPU / wall seconds an image: "
                f"before {least['before'][0]:.3f} / {least['before'][1]:.3f}, "
                f"now {least['now'][0]:.3f} / {least['now'][1]:.3f}, "
                f"times as fast {ratios[0]:.2f} / {ratios[1]:.2f}, "
                f"largest difference {np.abs(before - now).max():.1e}",
                flush=True,
            )


def tables(args):
    """Whole tables in one pass beside a pass for every variant (float32, one thread)."""
    import torch

    torch.set_num_threads(args.threads[0])
    images = photographs(args.images, args.count)
    computer = Computer(args.architecture, "float32", images)
    rounded = Computer(args.architecture, "float32", images, position=CLIP_ES)
    own, other = voc_table()
    templates = {f"template {i}": (str(i), "softmax", {}) for i in range(22)}
    for name, parts in {
        "affinity": [(computer, affinity_table())],
        "templates": [(computer, templates)],
        "voc12": [(computer, own), (rounded, other)],
    }.items():
        singles = [(part, table) for part, whole in parts for table in alone(whole)]
        if name != "voc12":  # passes alike: one is measured
            singles, alike = singles[:1], len(singles)
        else:
            alike = 1
        together, apart = [], []
        for _ in range(args.repeats):
            for jobs, seconds in ((parts, together), (singles, apart)):
                start = time.process_time()
                for part, table in jobs:
                    part(table)
                seconds.append((time.process_time() - start) / args.count)
        one = min(apart) / (len(singles) if alike == 1 else 1)
        share = min(together) / (min(apart) * alike)
        print(
            f"{name}: {min(together):.3f} CPU seconds an image, {min(together) / one:.2f} of a "
            f"pass, {100 * share:.0f} % of {len(singles) * alike} passes",
            flush=True,
        )


def mebibytes(key):
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def twin(args):
    """The fast path beside the tests' twin: CPU seconds an image, largest difference, memory."""
    import torch
    from gradcam_twin import Twin, refined, scaled

    torch.set_num_threads(1)
    images = photographs(args.images, args.count)
    computer = Computer(args.architecture, "float32", images)
    loaded = mebibytes("VmRSS")
    if RESET.exists():
        RESET.write_text("5")  # forgets the peak of loading
    start = time.process_time()
    fast = computer(args.table)
    fast_seconds = time.process_time() - start
    taken = mebibytes("VmHWM") - loaded

    slow = Twin(
        computer.state,
        computer.clip.heads,
        computer.config.get("quick_gelu", False),
        dtype=torch.float32,
    )
    start, difference = time.process_time(), 0.0
    foreground, background = computer.texts["0"]
    for rgb, count, maps in zip(images, computer.counts, fast, strict=True):
        for position in range(count):
            image = slow.preprocess(rgb)
            raw, attention = slow.cam(image, foreground[:count], background, position, "softmax")
            cam = scaled(scaled(raw))
            refined(cam, attention, CAA["layers"], 3, CAA["threshold"], CAA["box_edge"], 2)
            difference = max(difference, float(np.abs(maps["cam"][position].numpy() - cam).max()))
    slow_seconds = time.process_time() - start
    print(
        f"CPU seconds an image: {fast_seconds / args.count:.3f}, twin "
        f"{slow_seconds / args.count:.3f}, ratio {slow_seconds / fast_seconds:.2f}; largest "
        f"difference {difference:.1e}; memory {taken:.0f} MiB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, help="an earlier checkout")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--architecture", default="ViT-B-16-quickgelu")
    parser.add_argument("--images", type=Path, help="folder of JPEGs, instead of made ones")
    parser.add_argument("--count", type=int, default=4, help="how many of them")
    parser.add_argument("--precisions", nargs="+", default=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, nargs="+", default=(1,))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.table = {"cam": ("0", "softmax", {"caa": CAA})}
    if args.worker:
        worker(args)
        return
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    args.count = len(photographs(args.images, args.count))
    for wanted, measure in (
        (args.old, against),
        (args.tables, tables),
        (args.twin, twin),
    ):
        if wanted:
            measure(args)


if __name__ == "__main__":
    main()
