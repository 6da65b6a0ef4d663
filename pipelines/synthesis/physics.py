"""Where every subject is at any time, and when it hits something: closed forms, no time step.

Free ("bouncing") subjects fly on parabolas under one gravity, so the next wall or mutual contact is the root of a
quadratic: the simulation jumps from contact to contact and its times are exact to rounding.
"""

import bisect
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipelines.synthesis.film import Motion, Scene

SQUASH_SECONDS = 0.07  # how fast the dent and the flash of an impact fade
REBOUND_SECONDS = (0.3, 0.85)  # flight times after a hit on the floor, drawn per bounce


class Impact(NamedTuple):
    """Subject `subject` hits `other` (a subject's index, or a wall's name) at `time`, at x, along the unit normal."""

    time: float
    subject: int
    other: int | str
    x: float
    strength: float
    normal: tuple[float, float]


class Arc(NamedTuple):
    """Free flight from `time` on."""

    time: float
    position: tuple[float, float]
    velocity: tuple[float, float]


@dataclass
class World:
    """The solved motion of one scene. `arcs[i]` is empty for subjects that follow a fixed path."""

    scene: Scene
    aspect: float
    arcs: list[list[Arc]]
    impacts: list[Impact] = field(default_factory=list)

    def position(self, subject: int, time: float) -> tuple[float, float]:
        """(x, y) of a subject's centre in frame heights."""
        arcs = self.arcs[subject]
        if not arcs:
            return _fixed_path(self.scene.subjects[subject].motion, time)
        arc = arcs[max(0, bisect.bisect_right(arcs, time, key=lambda a: a.time) - 1)]
        return _fly(arc, time - arc.time, self.scene.gravity)

    def last_impact(self, subject: int, time: float) -> Impact | None:
        hits = (hit for hit in reversed(self.impacts) if hit.time <= time and subject in (hit.subject, hit.other))
        return next(hits, None)


def solve(scene: Scene, aspect: float, seconds: float) -> World:
    """Follow the scene for `seconds` and list its impacts in order of time."""
    free = [i for i, subject in enumerate(scene.subjects) if subject.motion.kind == "bouncing"]
    arcs: list[list[Arc]] = [[] for _ in scene.subjects]
    for i in free:
        motion = scene.subjects[i].motion
        arcs[i].append(Arc(0.0, motion.start, motion.velocity))
    world = World(scene, aspect, arcs)
    rng = np.random.default_rng((scene.seed, 0xB0))
    now = 0.0
    while (contact := _next_contact(world, free, now)) is not None and contact[0] < seconds:
        now = contact[0]
        _resolve(world, *contact, rng)
    return world


def _fixed_path(motion: Motion, time: float) -> tuple[float, float]:
    (x, y), (vx, vy) = motion.start, motion.velocity
    if motion.kind == "circular":
        angle = 2 * math.pi * time / motion.period
        return x + motion.radius * math.cos(angle), y + motion.radius * math.sin(angle)
    if motion.kind == "zigzag":
        phase = (time / motion.period) % 1.0
        return x + vx * time, y + motion.radius * (4 * abs(phase - 0.5) - 1)
    return (x + vx * time, y + vy * time) if motion.kind == "linear" else (x, y)


def _fly(arc: Arc, elapsed: float, gravity: float) -> tuple[float, float]:
    (x, y), (vx, vy) = arc.position, arc.velocity
    return x + vx * elapsed, y + vy * elapsed + 0.5 * gravity * elapsed**2


def _state(world: World, subject: int, time: float) -> tuple[np.ndarray, np.ndarray]:
    arc = world.arcs[subject][-1]
    elapsed = time - arc.time
    velocity = np.array([arc.velocity[0], arc.velocity[1] + world.scene.gravity * elapsed])
    return np.array(_fly(arc, elapsed, world.scene.gravity)), velocity


def _first_root(a: float, b: float, c: float) -> float | None:
    """Smallest t > 0 at which a t^2 + b t + c falls through zero (it is positive, or grazing, before)."""
    if abs(a) < 1e-12:
        return -c / b if b < -1e-9 else None  # slower than this, it does not get there
    discriminant = b * b - 4 * a * c
    if discriminant < 0:
        return None
    root = math.sqrt(discriminant)
    falling = [t for t in ((-b - root) / (2 * a), (-b + root) / (2 * a)) if t >= 0 and 2 * a * t + b < 0]
    return min(falling, default=None)


def _next_contact(world: World, free: list[int], now: float) -> tuple[float, int, int | str] | None:
    contacts: list[tuple[float, int, int | str]] = []
    states = {i: _state(world, i, now) for i in free}
    gravity, subjects = world.scene.gravity, world.scene.subjects
    for n, i in enumerate(free):
        (x, y), (vx, vy) = states[i]
        size = subjects[i].size
        gaps = {
            "floor": (-0.5 * gravity, -vy, world.scene.floor - size - y),
            "ceiling": (0.5 * gravity, vy, y - size),
            "left wall": (0.0, vx, x - size),
            "right wall": (0.0, -vx, world.aspect - size - x),
        }
        for wall, gap in gaps.items():
            if (after := _first_root(gap[0], gap[1], max(gap[2], 0.0))) is not None:
                contacts.append((now + after, i, wall))
        for j in free[n + 1 :]:
            apart, closing = states[j][0] - states[i][0], states[j][1] - states[i][1]
            reach = size + subjects[j].size
            gap2 = max(float(apart @ apart) - reach**2, 0.0)
            # One gravity for both: their relative motion is a straight line.
            if (after := _first_root(float(closing @ closing), 2 * float(apart @ closing), gap2)) is not None:
                contacts.append((now + after, i, j))
    return min(contacts, key=lambda contact: contact[0], default=None)


def _resolve(world: World, time: float, i: int, other: int | str, rng: np.random.Generator) -> None:
    position, velocity = _state(world, i, time)
    before = velocity.copy()
    if isinstance(other, int):
        position_j, velocity_j = _state(world, other, time)
        normal = (position_j - position) / np.linalg.norm(position_j - position)
        mass_i, mass_j = (world.scene.subjects[k].size ** 2 for k in (i, other))
        exchange = 2 / (mass_i + mass_j) * float((velocity - velocity_j) @ normal)
        velocity, velocity_j = velocity - exchange * mass_j * normal, velocity_j + exchange * mass_i * normal
        world.arcs[other].append(Arc(time, tuple(position_j), tuple(velocity_j)))
    elif other == "floor":
        normal = np.array([0.0, 1.0])
        # A rebound drawn per bounce keeps the ball alive for any length and its rhythm irregular.
        velocity[1] = -0.5 * world.scene.gravity * rng.uniform(*REBOUND_SECONDS) or -abs(velocity[1])
    else:
        normal = {"ceiling": (0.0, -1.0), "left wall": (-1.0, 0.0), "right wall": (1.0, 0.0)}[other]
        velocity[1 if other == "ceiling" else 0] *= -1
        normal = np.array(normal)
    world.arcs[i].append(Arc(time, tuple(position), tuple(velocity)))
    strength = float(abs((velocity - before) @ normal)) / 2
    world.impacts.append(Impact(time, i, other, float(position[0]), strength, (float(normal[0]), float(normal[1]))))
