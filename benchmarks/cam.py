"""CAMs of real-sized images: the package's path beside its slow twin, in one run.

    python benchmarks/cam.py [--size 375 500] [--classes 2] [--images 4] [--threads 1]

Random weights of an open_clip architecture; both paths in float32, on the same images. Prints the
CPU seconds an image of each (so that other programs on the machine count little), their ratio, the
largest difference, and on Linux how much memory the fast path took beyond the loaded model.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clip_cases import make_openai_state_dict, random_clip
from gradcam_twin import Twin, refined, scaled

from clip_wsss.affinities.caa import AFFINITIES
from clip_wsss.cams.gradcam import WantedCam, class_maps, fitting_batch
from clip_wsss.cams.passes import TARGETS

CAA = {"layers": 8, "sinkhorn": 3, "power": 2, "threshold": 0.4, "box_edge": "clamp"}


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def mebibytes(key):
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-16-quickgelu")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), help="height, width")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    config = open_clip.get_model_config(args.architecture)
    state = make_openai_state_dict(config, 0, logit_scale=4.6)
    with tempfile.TemporaryDirectory() as folder:
        clip = random_clip(Path(folder), config, state)
    generator = torch.Generator().manual_seed(0)
    shape = (args.images, *args.size, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
    texts = torch.randn(args.classes + 25, config["embed_dim"], generator=generator)
    texts = torch.nn.functional.normalize(texts, dim=-1)
    foreground, background = texts[: args.classes], texts[args.classes :]

    loaded = mebibytes("VmRSS")
    if RESET.exists():
        RESET.write_text("5")  # forgets the peak of loading
    step = fitting_batch(clip, clip.grid(args.size), args.batch)
    wanted = {"cam": WantedCam("own", TARGETS["softmax"], {"caa": (AFFINITIES["caa"], CAA)})}
    start, fast = time.process_time(), []
    for first in range(0, args.images, step):
        batch = torch.stack([clip.preprocess(rgb) for rgb in images[first : first + step]])
        present = [foreground] * len(batch)
        fast += class_maps(clip, batch, {"own": present}, {"own": background}, wanted)
    fast_seconds = time.process_time() - start
    taken = mebibytes("VmHWM") - loaded

    twin = Twin(state, clip.heads, config.get("quick_gelu", False), dtype=torch.float32)
    start, difference = time.process_time(), 0.0
    for rgb, maps in zip(images, fast, strict=True):
        for position in range(args.classes):
            image = twin.preprocess(rgb)
            raw, attention = twin.cam(image, foreground, background, position, "softmax")
            cam = scaled(scaled(raw))
            refined(cam, attention, CAA["layers"], 3, CAA["threshold"], CAA["box_edge"], 2)
            difference = max(difference, float(np.abs(maps["cam"][position].numpy() - cam).max()))
    slow_seconds = time.process_time() - start

    result = {
        "architecture": args.architecture,
        "size": list(args.size),
        "grid": list(clip.grid(args.size)),
        "classes": args.classes,
        "batch": step,
        "threads": args.threads,
        "fast_cpu_seconds_an_image": round(fast_seconds / args.images, 3),
        "slow_cpu_seconds_an_image": round(slow_seconds / args.images, 3),
        "ratio": round(slow_seconds / fast_seconds, 2),
        "largest_difference": difference,
        "fast_path_mebibytes": round(taken),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
