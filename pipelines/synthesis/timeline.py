"""Which shot a frame belongs to, and what it is mixed with."""

from pipelines.synthesis.film import Film


def locate(film: Film, index: int) -> tuple[int, float]:
    """(number of the shot that frame `index` belongs to, seconds since that shot's first frame)."""
    edges = film.shot_frames
    number = max(k for k in range(len(film.shots)) if edges[k] <= index)
    return number, float((index - edges[number]) / film.fps)


def transition(film: Film, number: int, elapsed: float) -> tuple[str, float]:
    """What a frame is mixed with, and the share of its own shot in it."""
    shot = film.shots[number]
    if number and shot.transition != "cut" and elapsed < shot.transition_seconds:
        if shot.transition == "dissolve":
            return "dissolve", (elapsed + 0.5 / float(film.fps)) / shot.transition_seconds
        if elapsed < shot.transition_seconds / 2:
            return "fade", 2 * elapsed / shot.transition_seconds
    following = film.shots[number + 1] if number + 1 < len(film.shots) else None
    if following is not None and following.transition == "fade":
        left = shot.seconds - elapsed
        if left < following.transition_seconds / 2:
            return "fade", max(0.0, 2 * left / following.transition_seconds)
    return "none", 1.0
