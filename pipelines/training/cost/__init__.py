"""What a stage of training will cost: memory, step time, days and money, from shapes and a machine's calibration.

plan = plan_stage(resolve(recipe, preset), cluster_of("h200", 512))
plan.check()          # raises CannotFit, with remedies
print(summary(plan))
"""

from pipelines.training.cost.cluster import Calibration, ClusterSpec, cluster_of, machine_for
from pipelines.training.cost.fit import with_fitting_groups
from pipelines.training.cost.plan import CannotFit, StagePlan, plan_stage
from pipelines.training.cost.report import summary
from pipelines.training.cost.workloads import Samples

__all__ = [
    "Calibration",
    "CannotFit",
    "ClusterSpec",
    "Samples",
    "StagePlan",
    "cluster_of",
    "machine_for",
    "plan_stage",
    "summary",
    "with_fitting_groups",
]
