"""The fast dense CRF beside pydensecrf on made photographs of VOC's sizes, or others, in one run.

    python benchmarks/crf.py [--images FOLDER] [--step 1] [--labels 2 5 21 81] [--repeats 3]
                             [--threads 1 2]

Unaries of up to 5 labels are those of smooth random scores with a background, as after CAM; those
of more are a segmentor's: the softmax of smooth random fields, four of them raised by turns. For
every number of labels and of threads the seconds an image of both (the least of the repeats, taken
in turn, so that other programs on the machine count little), their ratio, the share of pixels with
the same label and on the same side of 0.95, the largest difference of a probability, and the share
of images that fell back. With one thread the seconds are the CPU's; with more, every thread does
the image, and they are the wall time of all by their number. `--torch` adds the torch backend on
that device, in wall seconds (it may use a GPU).
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from photographs import SIZES, made

from clip_wsss.core.images import read_rgb
from clip_wsss.masks import fast_crf, torch_crf

FIELD = fast_crf.MeanField(
    iterations=10,
    gaussian_sxy=1,
    gaussian_compat=3,
    bilateral_sxy=67,
    bilateral_srgb=3,
    bilateral_compat=4,
)


def random_unary(labels, size, seed):
    """-log of [1 - max, labels - 1 smooth maps in [0, 1]], in float16 like fact 15: (C, H * W)."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.random((labels - 1, height // 16 + 2, width // 16 + 2), np.float32) ** 3
    maps = [cv2.resize(m / m.max(), (width, height), interpolation=cv2.INTER_CUBIC) for m in coarse]
    maps = np.clip(np.stack(maps), 0, 1)
    scores = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps]).astype(np.float16)
    unary = -np.log(np.clip(scores, np.float16(1e-5), np.float16(1)))
    return np.ascontiguousarray(unary.reshape(labels, -1).astype(np.float32))


def segmentor_unary(labels, size, seed):
    """-log of the softmax over all labels, four of which are present: (C, H * W) float32."""
    rng = np.random.default_rng(seed)
    height, width = size

    def smooth(count, step):
        coarse = rng.standard_normal((count, height // step + 2, width // step + 2), np.float32)
        fields = [cv2.resize(m, (width, height), interpolation=cv2.INTER_CUBIC) for m in coarse]
        return np.stack(fields)

    logits = 1.5 * smooth(labels, 16)
    present = rng.choice(labels, 4, replace=False)
    logits[present] += 8 + 4 * smooth(4, 64)
    largest = logits.max(axis=0)
    unary = largest + np.log(np.exp(logits - largest).sum(axis=0)) - logits
    return np.ascontiguousarray(unary.reshape(labels, -1))


def timed(function, clock, *arguments, **options):
    start = clock()
    found = function(*arguments, **options)
    return found, clock() - start


def together(threads, function, *arguments):
    """The result of a function that every thread calls once, and the seconds a call."""
    if threads == 1:
        return timed(function, time.process_time, *arguments)
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        calls = [pool.submit(function, *arguments) for _ in range(threads)]
        results = [call.result() for call in calls]
        return results[0], (time.perf_counter() - start) / threads


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs, instead of made ones")
    parser.add_argument("--step", type=int, default=1, help="take every such image")
    parser.add_argument("--labels", type=int, nargs="+", default=(2, 5, 21, 81))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--torch", metavar="DEVICE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.images is None:
        pictures = [made(seed, size) for seed, size in enumerate(sorted(set(SIZES)))]
    else:
        pictures = [read_rgb(path) for path in sorted(args.images.rglob("*.jpg"))[:: args.step]]
    if not pictures:
        parser.error(f"--images {args.images}: no JPEG in it")
    print(
        "labels  threads  pydensecrf s  fast s  ratio  same label %  same side %  largest diff"
        "  fell back %"
    )
    for labels, threads in product(args.labels, args.threads):
        seconds, torch_seconds, fell_back, pixels, same, side, largest = np.zeros(2), *[0] * 6
        for seed, rgb in enumerate(pictures):
            make = random_unary if labels <= 5 else segmentor_unary
            unary = make(labels, rgb.shape[:2], seed)
            best = np.full(2, np.inf)
            for _ in range(args.repeats):
                slow, s = together(threads, fast_crf.exact, unary, rgb, FIELD)
                reasons = []
                quick, q = together(threads, fast_crf.fast, unary, rgb, FIELD, reasons)
                best = np.minimum(best, (s, q))
            seconds += best
            fell_back += bool(reasons)
            pixels += slow[0].size
            same += np.sum(slow.argmax(axis=0) == quick.argmax(axis=0))
            side += np.sum((slow.max(axis=0) >= 0.95) == (quick.max(axis=0) >= 0.95))
            largest = max(largest, np.abs(slow - quick).max())
            if args.torch:
                _, t = timed(
                    torch_crf.torch_crf,
                    time.perf_counter,
                    [unary],
                    [rgb],
                    FIELD,
                    device=args.torch,
                )
                torch_seconds += t
        slow, quick = seconds / len(pictures)
        shares = 100 * np.array([same, side]) / pixels
        print(
            f"{labels:6}  {threads:7}  {slow:12.3f}  {quick:6.3f}  {slow / quick:5.2f}"
            f"  {shares[0]:12.5f}  {shares[1]:11.5f}  {largest:12.1e}"
            f"  {100 * fell_back / len(pictures):11.1f}",
            flush=True,
        )
        if args.torch:
            print(f"        torch on {args.torch}: {torch_seconds / len(pictures):.3f} s an image")


if __name__ == "__main__":
    main()
