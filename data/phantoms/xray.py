"""Draw a made-up chest X-ray as a two-dimensional map of attenuation; more attenuation is brighter.

Coordinates: u from −1 at the left of the image (the patient's right) to 1; v from −1 at the top to 1.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

# Findings that can be drawn, with NIH ChestX-ray14's names.
FINDINGS = ("Cardiomegaly", "Effusion", "Mass", "Nodule")
# Length of an image's longest side, mm.
MAX_SIDE_MM = 380.0
# mm: a nodule is below 30 mm, a mass above.
DIAMETERS = {"Nodule": (14.0, 28.0), "Mass": (34.0, 56.0)}
# Cardiothoracic ratio, normal and enlarged; the limit is 0.5.
HEART_RATIOS, LARGE_HEART_RATIOS = (0.38, 0.46), (0.56, 0.64)
PLACING_TRIES = 400


class XrayPhantom(NamedTuple):
    """An image and its ground truth.

    ``image`` is uint8 H W. ``lung`` (bool H W) is the part of the lungs not hidden by heart or fluid; ``nodule``
    (bool H W) includes masses. ``findings`` are sorted names of FINDINGS; ``heart_ratio`` is the cardiothoracic ratio.
    """

    image: np.ndarray
    lung: np.ndarray
    nodule: np.ndarray
    findings: tuple[str, ...]
    heart_ratio: float


class Outline(NamedTuple):
    """Coordinates (``u`` 1 W, ``v`` H 1, ``side`` −1 or 1) and the outlines of the chest.

    ``inside`` (H W) is above 0 within the rib cage; ``air`` (H W, 0..1) is the depth of the lungs along the ray;
    ``floor`` (1 W) is the v of the diaphragm; ``heart`` (H W, 0..1) is the depth of the heart.
    """

    u: np.ndarray
    v: np.ndarray
    side: np.ndarray
    inside: np.ndarray
    air: np.ndarray
    floor: np.ndarray
    heart: np.ndarray


def draw_xray(
    rng: np.random.Generator, *, height: int = 320, width: int = 288, findings: tuple[str, ...] = ()
) -> XrayPhantom:
    """Draw an image with the given findings, one of each.

    Args:
        rng: the source of all random draws.
        height, width: pixels, at least 32.
        findings: some of FINDINGS.

    Raises:
        ValueError: the image is too small, or a finding unknown.
    """
    if min(height, width) < 32:
        raise ValueError(f"expected an image of at least 32x32 pixels, got {height}x{width}")
    if unknown := set(findings) - set(FINDINGS):
        raise ValueError(f"expected findings among {', '.join(FINDINGS)}, got {', '.join(sorted(unknown))}")
    heart_ratio = float(rng.uniform(*(LARGE_HEART_RATIOS if "Cardiomegaly" in findings else HEART_RATIOS)))
    chest = _draw_outline(rng, height, width, heart_ratio)
    fluid = _draw_fluid(rng, chest, amount=0.3 if "Effusion" in findings else 0.0)
    air = chest.air * (1 - fluid)
    lung = (air > 0.25) & (chest.heart == 0)

    vessels = _draw_vessels(rng, height, width)
    attenuation = _body(rng, chest) - 0.62 * air * (1 - 0.5 * chest.heart)
    attenuation += 0.3 * chest.heart + _middle(rng, chest) + 0.24 * vessels * air + _bones(rng, chest)
    nodule = np.zeros_like(lung)
    for finding in sorted(set(findings) & set(DIAMETERS)):
        depth = _draw_ball(rng, lung, DIAMETERS[finding])
        attenuation += float(rng.uniform(0.2, 0.3)) * np.sqrt(depth)
        nodule |= depth > 0
    image = _expose(rng, attenuation)
    return XrayPhantom(image, lung, nodule, tuple(sorted(set(findings))), heart_ratio)


def _draw_outline(rng: np.random.Generator, height: int, width: int, heart_ratio: float) -> Outline:
    u = np.linspace(-1, 1, width, dtype=np.float32)[None] - np.float32(rng.uniform(-0.05, 0.05))
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(-0.04, 0.04))
    # Patients are slightly tilted.
    u = u + np.float32(rng.uniform(-0.04, 0.04)) * v
    side = np.where(u < 0, np.float32(-1), np.float32(1))
    half = rng.uniform(0.70, 0.80)  # of the chest's width
    top, bottom = rng.uniform(-0.80, -0.70), rng.uniform(0.82, 0.95)
    middle, tall = (top + bottom) / 2, (bottom - top) / 2
    lobe = half * rng.uniform(0.45, 0.49)  # half a lung's width; their inner edges meet the middle's shadow
    inside = 1 - (np.abs(side * u - half + lobe) / lobe) ** 2.3 - (np.abs(v - middle) / tall) ** rng.uniform(2.4, 3.0)

    lift = np.where(side < 0, np.float32(rng.uniform(0.02, 0.08)), np.float32(0))  # by the liver
    dip = ((side * u - 0.38) / 0.42) ** 2 * np.where(side * u > 0.38, rng.uniform(0.22, 0.34), 0.1)
    floor = np.float32(rng.uniform(0.34, 0.5)) - lift + dip
    edge = 1.5 / height
    air = np.sqrt(inside.clip(0, None)) / (1 + np.exp(((v - floor) / edge).clip(-30, 30)))

    radius = heart_ratio * half
    # A third of the heart lies on the patient's right; its lower edge dips into the diaphragm.
    across, down = radius / 3, rng.uniform(0.26, 0.34)
    lean = rng.uniform(0.1, 0.25)
    ball = ((u - across) / radius) ** 2 + ((v - down - lean * (u - across)) / (radius * rng.uniform(0.8, 0.95))) ** 2
    heart = np.sqrt((1 - ball).clip(0, None)) / (1 + np.exp(((v - floor - 0.1) / 0.04).clip(-30, 30)))
    return Outline(u, v, side, inside, air, floor, heart)


def _draw_fluid(rng: np.random.Generator, chest: Outline, *, amount: float) -> np.ndarray:
    """H W, 0..1: pleural effusion on one side, up to ``amount`` above the diaphragm and higher at the chest wall."""
    sides, level, rise = rng.integers(0, 2), rng.uniform(0.7, 1.3), rng.uniform(0.15, 0.35)
    if not amount:
        return np.zeros_like(chest.air)
    here = chest.side == (-1, 1)[int(sides)]
    surface = chest.floor.min() - amount * level * 0.6 - rise * (chest.side * chest.u - 0.35).clip(0, None)
    return here / (1 + np.exp(((surface - chest.v) / 0.02).clip(-30, 30)))


def _body(rng: np.random.Generator, chest: Outline) -> np.ndarray:
    """H W: attenuation of the soft tissue of neck, shoulders and trunk, thickest in the middle."""
    neck, trunk = rng.uniform(0.28, 0.38), rng.uniform(0.93, 1.1)
    down = ((chest.v + 1.02) / rng.uniform(0.3, 0.42)).clip(0, 1)
    half = neck + (trunk - neck) * down * down * (3 - 2 * down)
    thick = np.sqrt((1 - (chest.u / half) ** 2).clip(0, None)) ** rng.uniform(0.6, 1.0)
    below = 0.12 / (1 + np.exp((chest.floor - chest.v) / 0.1))
    return thick * (0.78 + below)


def _middle(rng: np.random.Generator, chest: Outline) -> np.ndarray:
    """H W: attenuation of great vessels, spine and trachea."""
    u, v = chest.u, chest.v
    spread = 0.13 + 0.05 * np.exp(-(((v + 0.25) / 0.15) ** 2)) * (chest.side > 0)  # the arch of the aorta
    shadow = rng.uniform(0.24, 0.32) / (1 + np.exp(((np.abs(u) - spread) / 0.015).clip(-30, 30)))
    pitch = rng.uniform(0.14, 0.17)
    discs = np.abs(np.mod(v + rng.uniform(0, pitch), pitch) / pitch - 0.5)
    spine = 0.07 * (np.abs(u) < 0.085) * (0.5 + discs)
    windpipe = 0.14 * np.exp(-((u / 0.035) ** 4)) / (1 + np.exp(((v + 0.22) / 0.03).clip(-30, 30)))
    return shadow + spine - windpipe


def _bones(rng: np.random.Generator, chest: Outline) -> np.ndarray:
    """H W: attenuation of posterior ribs, fainter and steeper anterior ribs, and clavicles."""
    across = chest.side * chest.u
    cage = 1 / (1 + np.exp((-(chest.inside + 0.06) / 0.04).clip(-30, 30)))
    pitch, bow = rng.uniform(0.155, 0.185), rng.uniform(0.35, 0.6)
    back = chest.v - bow * (across - 0.3) ** 2
    front = chest.v - rng.uniform(0.55, 0.8) * across
    bones = rng.uniform(0.11, 0.15) * _tubes(back, pitch, rng.uniform(0.028, 0.034), rng.uniform(0, pitch)) * cage
    faint = rng.uniform(0.04, 0.07) * cage * (across > 0.33)
    bones += faint * _tubes(front, pitch * 1.15, rng.uniform(0.03, 0.04), rng.uniform(0, pitch))
    bones *= chest.v < chest.floor + 0.25
    collar = np.abs(chest.v + rng.uniform(0.58, 0.68) + rng.uniform(0.12, 0.3) * (across - 0.1)) / 0.035
    bones += 0.13 * ((1 - collar**2).clip(0, None)) ** 0.5 * ((across > 0.07) & (across < 0.72))
    return bones


def _tubes(place: np.ndarray, pitch: float, radius: float, phase: float) -> np.ndarray:
    """Attenuation of tubes with a bright wall, 0..1, one per ``pitch``."""
    off = (np.mod(place + phase, pitch) - pitch / 2) / radius
    return (1 - off**2).clip(0, None) ** 0.35 * (0.6 + 0.4 * off**2)


def _draw_vessels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """H W, 0..1: trees that branch outwards from the two hila."""
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    side = np.repeat([-1.0, 1.0], 7)
    starts = np.stack([side * 0.16, rng.uniform(-0.08, 0.1, side.size)], axis=-1)
    # More downwards than upwards, where the lung is larger.
    angles = rng.uniform(-1.2, 1.3, side.size)
    for branching in range(5):
        length = 0.17 * 0.85**branching * rng.uniform(0.6, 1.3, side.size)
        ends = starts + np.stack([side * np.cos(angles), np.sin(angles)], axis=-1) * length[:, None]
        lines = (np.concatenate([starts, ends], axis=1) + 1) / 2 * [width, height, width, height]
        line_width = max(1, round(0.02 * 0.72**branching * width))
        for line in lines.tolist():
            pen.line(line, fill=int(250 * 0.85**branching), width=line_width)
        starts, side = np.repeat(ends, 2, axis=0), np.repeat(side, 2)
        angles = np.repeat(angles, 2) + np.tile([-1, 1], angles.size) * rng.uniform(0.1, 0.6, side.size)
    return ndimage.gaussian_filter(np.asarray(canvas, dtype=np.float32) / 255, 0.003 * (height + width) / 2)


def _draw_ball(rng: np.random.Generator, lung: np.ndarray, diameters: tuple[float, float]) -> np.ndarray:
    """Draw a ball in the lungs: H W, from 1 at its centre to 0 at its rim and outside.

    Of the positions tried, the first with most of the rim inside the lungs is used.
    """
    height, width = lung.shape
    radius = max(1.0, float(rng.uniform(*diameters)) / 2 * max(height, width) / MAX_SIDE_MM)
    positions = rng.choice(np.flatnonzero(lung), PLACING_TRIES)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    y, x = np.divmod(positions[:, None], width)
    rim_y = np.rint(y + radius * np.sin(angles)).astype(int)
    rim_x = np.rint(x + radius * np.cos(angles)).astype(int)
    within = (rim_y >= 0) & (rim_y < height) & (rim_x >= 0) & (rim_x < width)
    held = lung[rim_y.clip(0, height - 1), rim_x.clip(0, width - 1)] & within
    best = int(held.sum(1).argmax())
    distance2 = (np.arange(height)[:, None] - y[best]) ** 2 + (np.arange(width) - x[best]) ** 2
    return (1 - distance2 / radius**2).clip(0, None)


def _expose(rng: np.random.Generator, attenuation: np.ndarray) -> np.ndarray:
    """Convert attenuation to uint8 H W: blur, random window and gamma of an exposure, and noise."""
    attenuation = ndimage.gaussian_filter(attenuation.astype(np.float32), rng.uniform(0.4, 0.8))
    low, high = np.percentile(attenuation, [rng.uniform(0.5, 3), rng.uniform(97, 99.8)])
    image = ((attenuation - low) / (high - low)).clip(0, 1) ** np.float32(rng.uniform(0.8, 1.25))
    grain = rng.standard_normal(attenuation.shape, dtype=np.float32) * np.float32(rng.uniform(2, 5))
    return np.rint(image * rng.uniform(215, 250) + grain + 4).clip(0, 255).astype(np.uint8)
