"""A plan in words and numbers: a table of stages, what limits them, and everything it takes for granted."""

from collections.abc import Sequence

from model.inspect import TEXT_TOKENS
from pipelines.training.cost.plan import GIBI, StagePlan
from pipelines.training.cost.step import PARTS
from pipelines.training.cost.workloads import ASPECT

COLUMNS = (
    *(("stage", 10), ("params", 8), ("GiB", 7), ("fits", 5), ("SP", 3), ("tokens/step", 12), ("s/step", 8)),
    *(("MFU", 6), ("steps", 10), ("days", 9), ("GPU-hours", 11), ("cost", 13), ("limit", 0)),
)


def table(plans: Sequence[StagePlan]) -> str:
    """One line per stage, and their sum."""
    lines = [_row([name for name, _ in COLUMNS])]
    lines += [_row(_cells(plan)) for plan in plans]
    if len(plans) > 1:
        cost = _money(sum(plan.cost or 0.0 for plan in plans)) if plans[0].cost is not None else "-"
        days, hours = sum(plan.seconds for plan in plans) / 86400, sum(plan.device_hours for plan in plans)
        sums = {"stage": "all", "days": figure(days), "GPU-hours": figure(hours), "cost": cost}
        lines += [_row([sums.get(name, "") for name, _ in COLUMNS])]
    return "\n".join(lines)


def breakdown(plan: StagePlan) -> str:
    """Where the memory of a device and the time of a step go."""
    memory, step, item = plan.memory, plan.step, plan.heaviest
    held = {
        "process": plan.cluster.calibration.process_bytes.value,
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "averaged weights": memory.average,
        "gathered weights and buffers": memory.gathered,
        "activations": memory.activations,
    }
    if plan.cluster.shares_host:
        held["copy for checkpoints"] = memory.host
    lines = [f"memory of one device, GiB: {item.task}, {item.bucket.name}, {item.batch} per slot"]
    lines += [f"  {name:<46}{size / GIBI:>10.2f}" for name, size in held.items()]
    lines += [
        f"  {'all':<46}{plan.needed / GIBI:>10.2f}",
        f"  {'can be filled':<46}{plan.cluster.memory_limit / GIBI:>10.2f}",
    ]
    lines += ["", "seconds of the average step"]
    lines += [f"  {PARTS[name]:<46}{seconds:>10.3g}" for name, seconds in step.parts.items()]
    lines += [f"  {'hidden behind each other':<46}{-step.hidden:>10.3g}", f"  {'all':<46}{step.total:>10.3g}"]
    lines += ["", f"read, GB/s by all devices{plan.read_rate / 1e9:>33.3g}"]
    if plan.cache_bytes is not None:
        lines += [f"samples as latents and text, TB{plan.cache_bytes / 1e12:>27.3g}"]
    return "\n".join(lines)


def summary(plan: StagePlan | None) -> str:
    """A few lines to read before a run starts; None: on devices that nobody has named."""
    if plan is None:
        return "memory    not checked: say which GPUs these are with --gpu (a name or a file of cluster/calibration)"
    item, step = plan.heaviest, plan.step
    learning = "" if plan.trainable == plan.parameters else f", {count(plan.trainable)} of them learn"
    return "\n".join(
        (
            f"model     {count(plan.parameters)} parameters{learning}",
            f"memory    {plan.needed / GIBI:.2f} of {plan.cluster.memory_limit / GIBI:.2f} GiB on each of "
            f"{plan.cluster.devices} {plan.cluster.name}, most for {item.task} ({item.bucket.name})",
            f"step      {plan.tokens_per_step:,.0f} tokens, {plan.samples_per_step:,.0f} samples, "
            f"about {duration(step.total)}; most of it {PARTS[step.limit]}",
            f"duration  {plan.steps:,} steps, about {duration(plan.seconds)}",
        )
    )


def assumptions(plans: Sequence[StagePlan], text_tokens: int = TEXT_TOKENS, *, spread_given: bool = False) -> str:
    """What the numbers rest on, assumed figures first."""
    plan = plans[0]
    spread = "as often as --sizes and --lengths say" if spread_given else "equally often"
    facts = dict(plan.cluster.calibration.facts())
    assumed = [f"  {name} {fact.value:g}: {fact.source}" for name, fact in facts.items() if fact.basis == "assumed"]
    known = {
        basis: ", ".join(name for name, fact in facts.items() if fact.basis == basis)
        for basis in ("vendor", "measured")
    }
    lines = [f"{plan.cluster.calibration.about}. Assumed, not measured:", *assumed]
    lines += [f"from the vendor: {known['vendor']}"] if known["vendor"] else []
    lines += [f"measured: {known['measured']}"] if known["measured"] else []
    lines += [
        f"samples are {ASPECT}, prompts {text_tokens} tokens; sizes and lengths come {spread};",
        "steps by epochs: as many samples as there are, of every kind that no task joins with another;",
        "global batches hold whole multiples of the devices' slots; stages run one after the other;",
        "not counted: curation, the latent cache (codecs and encoder), codecs, evaluation, failed experiments",
    ]
    return "\n".join(lines)


def figure(value: float) -> str:
    """Three significant digits, and no exponent for large ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(value: float) -> str:
    """With its unit: 27.2 B."""
    size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    return f"{value / size:.1f} {unit}".rstrip()


def duration(seconds: float) -> str:
    """In the unit one would say it in."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _cells(plan: StagePlan) -> list[str]:
    step = plan.step
    return [
        plan.stage.name,
        count(plan.parameters),
        f"{plan.needed / GIBI:.1f}",
        "yes" if plan.fits else "NO",
        str(plan.stage.recipe.sequence_parallel),
        f"{plan.tokens_per_step:,.0f}",
        figure(step.total),
        f"{plan.mfu:.0%}",
        f"{plan.steps:,}",
        figure(plan.seconds / 86400),
        figure(plan.device_hours),
        _money(plan.cost),
        step.limit,
    ]


def _money(value: float | None) -> str:
    return "-" if value is None else figure(value)


def _row(cells: Sequence[str]) -> str:
    name, *rest = (cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return "  ".join((name.strip().ljust(COLUMNS[0][1]), *rest)).rstrip()
