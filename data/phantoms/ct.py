"""Draw a made-up chest CT: body, bones, lungs, heart, airways, branching vessels and, optionally, nodules.

Body coordinates are in mm from the centre of the scan: x to the patient's left, y to the back, z to the head. Large
organs scale with the width of the scan, so that small scans for tests have the same anatomy.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.phantoms.grid import Grid, blend, clouds, draw_balls, is_within, walk

# The width of the scan, mm. Crops of 112 mm keep 70 mm from the borders in x and y, so no side may be below 252 mm.
WIDTH = 332.0
MIN_WIDTH = 150
# HU.
AIR, LUNG, FAT, MUSCLE, LIVER, HEART, VESSEL = -1000.0, -850.0, -95.0, 45.0, 65.0, 50.0, 30.0
CORTEX, MARROW, DISC = 650.0, 250.0, 90.0
# Of nodules, mm. The smallest contains a voxel centre at any spacing drawn here.
DIAMETERS = (6.0, 20.0)
PLACING_TRIES = 5000
BRANCHINGS = 6
NEGATIVES = 8


class Nodule(NamedTuple):
    """A ball: centre in world coordinates and diameter, mm."""

    x: float
    y: float
    z: float
    diameter: float


class CtPhantom(NamedTuple):
    """A scan and its ground truth.

    ``hu`` is int16 Z Y X, ``lung`` and ``nodule`` bool Z Y X. For x, y, z: ``spacing`` in mm, ``origin`` the world
    coordinates of voxel 0 in mm, ``direction`` ±1, so that world = origin + direction · spacing · index. ``lung``
    includes vessels and nodules in it. ``negatives`` are world points (x, y, z) in a lung, away from nodules.
    """

    hu: np.ndarray
    lung: np.ndarray
    nodule: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[int, int, int]
    nodules: list[Nodule]
    negatives: list[tuple[float, float, float]]


class Chest(NamedTuple):
    """Geometry that several organs use.

    ``gauge`` (1 Y X) is a normalised distance from the axis, 1 on the chest wall where it is widest; ``taper`` (Z 1 1)
    is the gauge of the wall at each height; ``dome`` (1 Y X) is the height of the diaphragm in mm; ``body`` and
    ``cavity`` are half sides in mm; ``back`` is the y of the spine in mm; ``scale`` is the size relative to WIDTH.
    """

    gauge: np.ndarray
    taper: np.ndarray
    dome: np.ndarray
    body: tuple[float, float]
    cavity: tuple[float, float]
    back: float
    scale: float


def draw_ct(rng: np.random.Generator, *, with_nodules: bool, width: float = WIDTH) -> CtPhantom:
    """Draw a scan about ``width`` mm wide, 0.86 of that deep and 0.6 high, at 1.6 to 3 mm, different on each axis.

    Args:
        rng: the source of all random draws.
        with_nodules: whether there are 1 to 4 nodules of 6 to 20 mm, or none.
        width: mm, at least MIN_WIDTH.

    Raises:
        ValueError: ``width`` is too small for nodules to fit into the lungs.
    """
    if width < MIN_WIDTH:
        raise ValueError(f"expected a scan at least {MIN_WIDTH} mm wide, got {width:g}")
    grid = _draw_grid(rng, width)
    chest = _draw_chest(rng, grid, width / WIDTH)
    hu = _torso(rng, grid, chest)
    heart = _heart(rng, grid, chest)
    lung = _lungs(rng, grid, chest) & ~heart
    hu[heart] = HEART
    hu[lung] = (LUNG + 25 * grid.y / chest.cavity[1] + clouds(rng, grid.shape, 25.0))[lung]

    hila = np.array([[side * 32.0, -4.0, rng.uniform(-12, 0)] for side in (-1, 1)]) * chest.scale
    blend(hu, _airways(grid, hila, chest), AIR + 20)
    vessels, on_vessels = _draw_vessels(rng, grid, hila, chest.scale)
    blend(hu, vessels * lung, VESSEL)
    nodules = _place_nodules(rng, grid, lung, int(rng.integers(1, 5))) if with_nodules else []
    nodule = np.zeros(grid.shape, dtype=bool)
    for centre, diameter in nodules:
        ball = np.zeros(grid.shape, dtype=np.float32)
        draw_balls(ball, grid, centre[None], diameter / 2)
        blend(hu, ball, float(rng.uniform(-40, 40)))
        nodule |= grid.distance2(centre) <= (diameter / 2) ** 2
    negatives = _place_negatives(rng, grid, lung, on_vessels, nodules)
    hu += rng.standard_normal(grid.shape, dtype=np.float32) * np.float32(rng.uniform(40, 80))
    hu = ndimage.gaussian_filter(hu, 0.55)  # the blur of a scanner, which the noise shares
    hu = np.rint(hu.clip(-1024, 3071)).astype(np.int16)
    return _into_world(rng, grid, (hu, lung, nodule), nodules, negatives)


def _draw_grid(rng: np.random.Generator, width: float) -> Grid:
    spacing = np.round(rng.uniform([1.6, 1.95, 2.3], [1.9, 2.2, 3.0]), 4)
    extent = width * rng.uniform([0.97, 0.84, 0.58], [1.03, 0.88, 0.64])
    axes = [np.arange(n) - (n - 1) / 2 for n in np.ceil(extent / spacing).astype(int)]
    x, y, z = (axis.astype(np.float32) * np.float32(step) for axis, step in zip(axes, spacing, strict=True))
    return Grid(x[None, None], y[None, :, None], z[:, None, None], spacing)


def _draw_chest(rng: np.random.Generator, grid: Grid, scale: float) -> Chest:
    half = -grid.first
    body = half[:2] * rng.uniform([0.90, 0.82], [0.96, 0.90])
    cavity = body * rng.uniform([0.75, 0.74], [0.81, 0.79])
    angle = np.arctan2(grid.y / cavity[1], grid.x / cavity[0])
    ripple = 1 + sum(rng.uniform(-0.03, 0.03) * np.cos(k * angle + rng.uniform(0, 7)) for k in (2, 3, 5))
    gauge = ((np.abs(grid.x) / cavity[0]) ** 2.4 + (np.abs(grid.y) / cavity[1]) ** 2.4) ** (1 / 2.4) * ripple
    apex = half[2] * rng.uniform(0.86, 0.95)
    taper = np.sqrt(1 - (grid.z / apex).clip(0, 1) ** rng.uniform(2.4, 3.2))
    base, height = -half[2] * rng.uniform(0.88, 0.96), half[2] * rng.uniform(0.4, 0.55)
    middle = np.where(grid.x < 0, -0.5, 0.5) * cavity[0]
    slope = ((grid.x - middle) / (0.75 * cavity[0])) ** 2 + ((grid.y + 0.15 * cavity[1]) / (1.1 * cavity[1])) ** 2
    # The liver lifts the right half of the diaphragm.
    dome = base + height * (1 - slope) + np.where(grid.x < 0, rng.uniform(4, 14) * scale, 0)
    back = cavity[1] * rng.uniform(0.82, 0.88)
    return Chest(gauge, taper, dome, (body[0], body[1]), (cavity[0], cavity[1]), back, scale)


def _torso(rng: np.random.Generator, grid: Grid, chest: Chest) -> np.ndarray:
    """Draw everything outside the chest cavity: float32 Z Y X, HU."""
    outline = (np.abs(grid.x) / chest.body[0]) ** 2.5 + (np.abs(grid.y) / chest.body[1]) ** 2.5
    plane = np.where(outline < 1, np.float32(FAT), np.float32(AIR))
    plane[outline < rng.uniform(0.78, 0.86)] = MUSCLE
    hu = np.repeat(plane, grid.z.size, axis=0).astype(np.float32)
    hu[(chest.gauge < chest.taper) & (grid.z < chest.dome)] = LIVER
    hu += clouds(rng, grid.shape, 10.0) * (outline < 1)

    pitch = rng.uniform(22, 27) * chest.scale
    wall = (chest.gauge - 1.07 * chest.taper) * chest.cavity[0] / (4.5 * chest.scale)
    # Ribs fall from the back to the front.
    along = np.mod(grid.z - rng.uniform(0.3, 0.45) * grid.y + rng.uniform(0, pitch), pitch) - pitch / 2
    ribs = wall**2 + (along / (6 * chest.scale)) ** 2
    ribs[np.broadcast_to((np.abs(grid.x) < 26 * chest.scale) & (grid.y < 0), ribs.shape)] = 9
    _bone(hu, ribs)
    _bone(hu, (grid.x / 15) ** 2 + ((grid.y + 1.08 * chest.cavity[1]) / 5.5) ** 2 + 0 * grid.z, chest.scale)
    _spine(rng, hu, grid, chest)
    return hu


def _bone(hu: np.ndarray, inside: np.ndarray, scale: float = 1.0) -> None:
    """Draw a bone into ``hu``: cortex where ``inside`` / ``scale``² is below 1, marrow where it is below 0.5."""
    inside = np.broadcast_to(inside / scale**2, hu.shape)
    hu[inside < 1] = CORTEX
    hu[inside < 0.5] = MARROW


def _spine(rng: np.random.Generator, hu: np.ndarray, grid: Grid, chest: Chest) -> None:
    """Draw vertebrae with discs between, the spinal canal and spinous processes into ``hu``."""
    x, y = grid.x / chest.scale, (grid.y - chest.back) / chest.scale
    body = (x / 17) ** 2 + (y / 14) ** 2 + 0 * grid.z
    pitch = rng.uniform(22, 26)
    disc = np.mod(grid.z / chest.scale + rng.uniform(0, pitch), pitch) < 5
    _bone(hu, (x / 4) ** 2 + ((y - 27) / 12) ** 2 + 100.0 * disc)
    _bone(hu, body)
    hu[(body < 1) & disc] = DISC
    canal = np.broadcast_to((x / 9) ** 2 + ((y - 20) / 7) ** 2, hu.shape)
    hu[canal < 1.6] = CORTEX
    hu[canal < 1] = MUSCLE


def _lungs(rng: np.random.Generator, grid: Grid, chest: Chest) -> np.ndarray:
    """bool Z Y X: the chest cavity above the diaphragm without the mediastinum."""
    bend = 5 * chest.scale * np.sin(grid.z / (60 * chest.scale) + rng.uniform(0, 7))
    spine = np.exp(-(((grid.y - chest.back) / (24 * chest.scale)) ** 2))
    front = ((-grid.y / chest.cavity[1]).clip(0, 1)) ** 2
    middle = (rng.uniform(18, 23) + 12 * spine - 11 * front) * chest.scale
    return (chest.gauge < chest.taper) & (grid.z > chest.dome) & (np.abs(grid.x - bend * (1 - spine)) > middle)


def _heart(rng: np.random.Generator, grid: Grid, chest: Chest) -> np.ndarray:
    """bool Z Y X: a tilted ellipsoid, left of the middle, cut off at the diaphragm."""
    centre = rng.uniform([14, -34, -40], [26, -22, -26]) * chest.scale
    half = rng.uniform([48, 38, 42], [60, 46, 54]) * chest.scale
    lean = grid.x - centre[0] + 0.3 * (grid.z - centre[2])
    ball = (lean / half[0]) ** 2 + ((grid.y - centre[1]) / half[1]) ** 2 + ((grid.z - centre[2]) / half[2]) ** 2
    return (ball < 1) & (chest.gauge < 0.97 * chest.taper) & (grid.z > chest.dome)


def _airways(grid: Grid, hila: np.ndarray, chest: Chest) -> np.ndarray:
    """float32 Z Y X, 0..1: trachea and main bronchi."""
    coverage = np.zeros(grid.shape, dtype=np.float32)
    top, fork = np.array([0, -6 * chest.scale, -grid.first[2] + 5]), np.array([0, 2.0, 24.0]) * chest.scale
    draw_balls(coverage, grid, walk(top, fork, 2.0), 8 * chest.scale)
    for hilum in hila:
        draw_balls(coverage, grid, walk(fork, hilum, 2.0), 6 * chest.scale)
    return coverage


def _draw_vessels(
    rng: np.random.Generator, grid: Grid, hila: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw trees that branch outwards from the hila: (coverage float32 Z Y X, points N 3 on the thinner branches)."""
    coverage = np.zeros(grid.shape, dtype=np.float32)
    starts = np.repeat(hila, 8, axis=0)
    directions = rng.standard_normal((len(starts), 3)) * [0.5, 1.0, 1.0] + np.sign(starts[:, :1]) * [1, 0, 0]
    thin = []
    for branching in range(BRANCHINGS):
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        ends = starts + directions * (34 * 0.86**branching * scale * rng.uniform(0.7, 1.3, (len(starts), 1)))
        points = np.concatenate([walk(a, b, 1.2) for a, b in zip(starts, ends, strict=True)])
        draw_balls(coverage, grid, points, 4.5 * 0.72**branching * scale)
        if branching >= 2:
            thin.append(points)
        bend = rng.standard_normal(directions.shape) * 0.5
        starts = np.repeat(ends, 2, axis=0)
        directions = np.stack([directions + bend, directions - bend], axis=1).reshape(-1, 3)
    return coverage, np.concatenate(thin)


def _place_nodules(
    rng: np.random.Generator, grid: Grid, lung: np.ndarray, count: int
) -> list[tuple[np.ndarray, float]]:
    """Place ``count`` balls (centre in body coordinates, diameter in mm) inside the lung and apart from each other."""
    inside = np.flatnonzero(lung)
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(PLACING_TRIES):
        centre = grid.points(rng.choice(inside)) + rng.uniform(-0.5, 0.5, 3) * grid.spacing
        diameter = float(np.round(rng.uniform(*DIAMETERS), 2))
        apart = all(np.linalg.norm(centre - other) > (diameter + width) / 2 + 4 for other, width in placed)
        if apart and is_within(grid, lung, centre, diameter / 2 + 1.5):
            placed.append((centre, diameter))
        if len(placed) == count:
            return placed
    raise ValueError("nodules do not fit into the lungs; draw a wider scan")


def _place_negatives(
    rng: np.random.Generator,
    grid: Grid,
    lung: np.ndarray,
    on_vessels: np.ndarray,
    nodules: list[tuple[np.ndarray, float]],
) -> np.ndarray:
    """Choose points N 3 in body coordinates: half on vessels, which resemble nodules most, half anywhere in lungs."""
    anywhere = grid.points(rng.choice(np.flatnonzero(lung), 20 * NEGATIVES))
    bright = rng.permutation(on_vessels)[: 60 * NEGATIVES]
    voxels = np.rint((bright - grid.first) / grid.spacing).astype(int)
    bright = bright[((voxels >= 0) & (voxels < lung.shape[::-1])).all(-1)]
    z, y, x = np.rint((bright - grid.first) / grid.spacing).astype(int).T[::-1]
    bright = bright[lung[z, y, x]]
    chosen = []
    for points in (bright, anywhere):
        for centre, diameter in nodules:
            points = points[np.linalg.norm(points - centre, axis=1) > diameter / 2 + 8]
        chosen.append(points[: NEGATIVES // 2])
    return np.concatenate(chosen)


def _into_world(
    rng: np.random.Generator,
    grid: Grid,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    nodules: list[tuple[np.ndarray, float]],
    negatives: np.ndarray,
) -> CtPhantom:
    """Draw the world coordinates; a quarter of the scans is stored rotated by 180° about z, as some of LUNA16 are."""
    first = np.round(rng.uniform([-190, -170, -340], [-130, -110, -60]), 3)
    world = first - grid.first
    rotated = bool(rng.random() < 0.25)
    direction = (-1, -1, 1) if rotated else (1, 1, 1)
    last = first + grid.spacing * (np.array(grid.shape[::-1]) - 1)
    origin = np.round(np.where(np.array(direction) < 0, last, first), 4)
    hu, lung, nodule = (np.ascontiguousarray(a[:, ::-1, ::-1] if rotated else a) for a in arrays)
    centres = [np.round(centre + world, 4).tolist() for centre, _ in nodules]
    balls = [Nodule(x, y, z, diameter) for (x, y, z), (_, diameter) in zip(centres, nodules, strict=True)]
    points = [(x, y, z) for x, y, z in np.round(negatives + world, 4).tolist()]
    sx, sy, sz = grid.spacing.tolist()
    return CtPhantom(hu, lung, nodule, (sx, sy, sz), tuple(origin.tolist()), direction, balls, points)
