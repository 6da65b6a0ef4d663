"""What training, or curating, will take, before it is started.

    python jobs/plan.py --preset v4 --stage video-5 --gpus 512 --gpu h200
    python jobs/plan.py --preset v4 --stage all --gpus 2048 --gpu h200 --price 2.2 --plot plan.png
    python jobs/plan.py --curate --images 3e9 --clips 4e8 --cores 20000

Data are the amounts of the recipes (the paper's), or --images, --clips and --hours. Any setting of a recipe can be
given as key=value, such as `tokens_per_slot=32768` or `deepspeed=zero3-offload`. Machines are files of
cluster/calibration: published figures, assumptions, and what `benchmarks/calibrate.py` measured.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from model.config import Preset, load_preset
from model.inspect import TEXT_TOKENS
from pipelines.curation.slices.estimate import Curating, estimate
from pipelines.training.cost import (
    CannotFit,
    ClusterSpec,
    Samples,
    StagePlan,
    cluster_of,
    plan_stage,
    with_fitting_groups,
)
from pipelines.training.cost.cluster import CALIBRATIONS
from pipelines.training.cost.drivers import drivers
from pipelines.training.cost.levers import price
from pipelines.training.cost.plot import plot_plans
from pipelines.training.cost.report import assumptions, breakdown, table
from pipelines.training.curriculum.recipe import stages_of
from pipelines.training.curriculum.resolve import load_stage
from skyreels.command_line import exit_status, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; 0 when every stage fits, 1 with the reason on stderr, 2 for wrong arguments."""
    arguments, settings = parse(_parser(), argv)
    if arguments.curate:
        return exit_status(lambda: _print_estimate(arguments), (ValueError,))
    return exit_status(lambda: _print_plans(arguments, settings), (ValueError,))


def _print_plans(arguments: argparse.Namespace, settings: tuple[str, ...]) -> int:
    cluster = cluster_of(arguments.gpu, arguments.gpus, price_per_hour=arguments.price)
    preset, spread = load_preset(arguments.preset), Samples(sizes=arguments.sizes, lengths=arguments.lengths)

    def planned(preset: Preset, spread: Samples) -> list[StagePlan]:
        return [_plan(stage, preset, cluster, spread, arguments, settings) for stage in _stages(arguments.stage)]

    plans = planned(preset, spread)
    print(f"{arguments.preset} on {cluster.devices} {cluster.name}\n")
    print(table(plans))
    for plan in plans if len(plans) == 1 else []:
        print("\n" + breakdown(plan))
    print("\n" + drivers(plans))
    if arguments.levers:
        print("\n" + price(planned, preset, spread))
    given = bool(arguments.sizes or arguments.lengths)
    print("\n" + assumptions(plans, arguments.text_tokens, spread_given=given))
    if arguments.plot:
        plot_plans(plans, arguments.plot)
        print(f"\nplot      {arguments.plot}")
    return _refuse(plans)


def _print_estimate(arguments: argparse.Namespace) -> int:
    asked = Curating(arguments.images or 0.0, arguments.clips or 0.0, arguments.cores)
    lines = estimate(asked)
    print(f"{asked.images:,.0f} pictures and {asked.clips:,.0f} clips on {asked.cores:,} cores\n")
    for line in lines:
        beyond = f"  [extrapolated {line.extrapolated}]" if line.extrapolated else ""
        print(f"{line.what:<34} {line.value:>14}  {line.made_of}{beyond}")
    return 0


def _stages(name: str) -> list[str]:
    """The codecs are left out: they are not a transformer, and are loaded rather than trained above tiny."""
    return [stage for stage in stages_of(name) if stage != "codecs"]


def _plan(
    name: str,
    preset: Preset,
    cluster: ClusterSpec,
    spread: Samples,
    arguments: argparse.Namespace,
    settings: tuple[str, ...],
) -> StagePlan:
    stage = load_stage(name, preset, settings)
    if not any("sequence_parallel=" in setting for setting in settings):
        stage = with_fitting_groups(stage, cluster, text_tokens=arguments.text_tokens)
    data, given = stage.recipe.data, (arguments.images, arguments.clips, arguments.hours)
    if not any(value is not None for value in given):
        given = (data.images, data.clips, data.hours)
    images, clips, hours = (value or 0.0 for value in given)
    samples = Samples(images, clips, hours, spread.sizes, spread.lengths)
    return plan_stage(stage, cluster, samples, text_tokens=arguments.text_tokens)


def _refuse(plans: Sequence[StagePlan]) -> int:
    refused = 0
    for plan in plans:
        try:
            plan.check()
        except CannotFit as error:
            print(f"\nerror: {error}", file=sys.stderr)
            refused = 1
    return refused


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(sorted(path.stem for path in CALIBRATIONS.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="jobs/plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curate", action="store_true", help="of curation, for --images and --clips on --cores")
    parser.add_argument("--cores", type=int, default=64, help="CPU cores that curate")
    parser.add_argument("--preset", default="v4", help="tiny, small, base, v4 or a YAML file")
    parser.add_argument("--stage", default="all", help="a stage, or video, sft, all")
    parser.add_argument("--gpus", type=int, default=512, help="devices in all")
    parser.add_argument("--gpu", default="h200", help=f"a YAML file or one of {known}")
    parser.add_argument("--price", type=float, help="of one device for an hour, in any currency")
    parser.add_argument("--images", type=float, help="pictures there are, instead of the paper's")
    parser.add_argument("--clips", type=float, help="clips there are")
    parser.add_argument("--hours", type=float, help="hours of sound alone there are")
    parser.add_argument("--sizes", type=_shares(int), default=(), metavar="256=4,1080=1", help=_SPREAD.format("sizes"))
    parser.add_argument(
        "--lengths", type=_shares(float), default=(), metavar="5=3,15=1", help=_SPREAD.format("lengths")
    )
    parser.add_argument("--levers", action="store_true", help="also price what would make it cheaper")
    parser.add_argument("--text-tokens", type=int, default=TEXT_TOKENS, help="of a prompt")
    parser.add_argument("--plot", help="also draw the plan: a .png or .svg file")
    return parser


_SPREAD = "{} of the samples by their shares; others have none (default: all come equally often)"


def _shares(kind: Callable[[str], float]) -> Callable[[str], tuple[tuple[float, float], ...]]:
    """Reads VALUE=SHARE,..."""

    def read(text: str) -> tuple[tuple[float, float], ...]:
        try:
            pairs = [
                (kind(value), float(share)) for value, _, share in (part.partition("=") for part in text.split(","))
            ]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not VALUE=SHARE,..., such as 256=4,1080=1") from error
        if not all(share >= 0 for _, share in pairs) or not sum(share for _, share in pairs):
            raise argparse.ArgumentTypeError(f"{text!r}: shares must be at least 0, and one of them more")
        return tuple(pairs)

    return read


if __name__ == "__main__":
    sys.exit(main())
