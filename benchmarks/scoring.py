"""The one-pass sweep over background powers against the argmax of every power.

python benchmarks/scoring.py [images]
"""

import sys
import time

import numpy as np

from clip_wsss.core.maps import background_scores, upsample_maps
from clip_wsss.score.bootstrap import nan_mean, resampled_iou
from clip_wsss.score.confusion import count_label, count_sweep

POWERS = tuple(float(power) for power in range(1, 11))
SIZE, GRID, CLASSES = (375, 500), (24, 32), 21  # a VOC image


def argmax_of_every_power(truth, maps, keys):
    names = np.array([0, *(key + 1 for key in keys)], np.uint8)
    counts = []
    for power in POWERS:
        scores = np.concatenate([background_scores(maps, power)[None], maps])
        counts.append(count_label(truth, names[scores.argmax(axis=0)], CLASSES))
    return counts


def seconds(function, *arguments):
    start = time.perf_counter()
    found = function(*arguments)
    return found, time.perf_counter() - start


def main(images: int) -> None:
    rng = np.random.default_rng(0)
    count_sweep(np.zeros((1, 1), np.uint8), np.zeros((1, 1, 1), np.float16), [0], POWERS, CLASSES)
    print("classes  upsampling ms  one pass ms  every power ms  ratio")
    for slots in (1, 2, 4):
        total = np.zeros(3)
        for _ in range(images):
            truth = rng.integers(0, CLASSES, GRID).astype(np.uint8)
            truth = truth.repeat(16, axis=0).repeat(16, axis=1)[: SIZE[0], : SIZE[1]]
            keys = list(range(slots))
            maps, total_up = seconds(upsample_maps, rng.random((slots, *GRID), np.float32), SIZE)
            fast, one = seconds(count_sweep, truth, maps, keys, POWERS, CLASSES)
            slow, every = seconds(argmax_of_every_power, truth, maps, keys)
            assert all((a == b).all() for f, s in zip(fast, slow, strict=True)
                       for a, b in zip(f, s, strict=True))  # fmt: skip
            total += (total_up, one, every)
        up, one, every = 1000 * total / images
        print(f"{slots:7}  {up:13.1f}  {one:11.1f}  {every:14.1f}  {every / one:5.0f}")
    print("\nbootstrap, 1000 resamples")
    for number, classes in ((1464, 21), (10582, 21), (40137, 81)):
        sums = rng.integers(0, 1000, (number, classes, 3)).astype(np.float64)
        _, took = seconds(lambda sums=sums: nan_mean(resampled_iou(sums, 1000, 0)))
        print(f"{number:6} images, {classes} classes: {took:5.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
