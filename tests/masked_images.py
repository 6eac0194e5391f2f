"""A folder of images and masks, small enough to segment in a test."""

import csv

import numpy as np
from PIL import Image


def make_masked_images(root):
    """Ten images of five patients, masks of 0, 1 and 2; returns the folder."""
    rows = [("name", "patient")]
    for part in ("images", "masks"):
        (root / part).mkdir()
    for i in range(10):
        rng = np.random.default_rng(i)
        mask = np.zeros((70, 90), np.uint8)
        mask[10:40, 20 : 50 + i] = 1
        mask[45:60, 30:60] = 2
        image = (mask * 90 + rng.integers(0, 40, mask.shape)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"x{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"x{i}.png")
        rows.append((f"x{i}.png", f"p{i // 2}"))
    with open(root / "patients.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root
