"""Augmentation of single-stage systems that MMSegmentation does not have.

The draws come from numpy's global generator, which the data set seeds for every sample.
"""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image

from clip_wsss.data.vocabulary import IGNORE


@TRANSFORMS.register_module()
class RandomScaleRange(BaseTransform):
    """Resizes image and labels by one factor, drawn evenly from a range; sides are cut to integers.

    The image is resized by PIL, bilinear, which smooths what it shrinks; the labels take the
    nearest pixel.

    Args:
        low: smallest factor, above 0.
        high: largest factor.
    """

    def __init__(self, low: float = 0.5, high: float = 2.0):
        if not 0 < low <= high:
            raise ValueError(f"low must be above 0, and high at least low; got {low} and {high}")
        self.low, self.high = low, high

    def transform(self, results: dict) -> dict:
        """See the class."""
        factor = np.random.uniform(self.low, self.high)  # noqa: NPY002 - seeded by the data set
        height, width = results["img"].shape[:2]
        size = max(1, int(width * factor)), max(1, int(height * factor))
        image = Image.fromarray(results["img"]).resize(size, Image.Resampling.BILINEAR)
        results["img"] = np.array(image)
        results["gt_seg_map"] = cv2.resize(
            results["gt_seg_map"], size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class RandomPlace(BaseTransform):
    """Puts an image with a side below `size` at a random place of a black canvas.

    Args:
        size: smallest side of what comes out; the labels of the rest of the canvas are 255.
    """

    def __init__(self, size: int):
        if type(size) is not int or size < 1:
            raise ValueError(f"size must be an integer of at least 1; got {size!r}")
        self.size = size

    def transform(self, results: dict) -> dict:
        """See the class."""
        image, label = results["img"], results["gt_seg_map"]
        height, width = image.shape[:2]
        whole = max(self.size, height), max(self.size, width)
        top = np.random.randint(whole[0] - height + 1)  # noqa: NPY002 - seeded by the data set
        left = np.random.randint(whole[1] - width + 1)  # noqa: NPY002
        place = np.s_[top : top + height, left : left + width]
        results["img"] = np.zeros((*whole, 3), image.dtype)
        results["gt_seg_map"] = np.full(whole, IGNORE, label.dtype)
        results["img"][place], results["gt_seg_map"][place] = image, label
        results["img_shape"] = whole
        return results
