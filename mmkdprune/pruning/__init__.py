"""Filter and weight pruning on any ``nn.Module``, and compaction: plain PyTorch, nothing of MMEngine."""

from .budget import Budget, keep_to_target, solve_budget
from .compaction.compact import CompactionError, compact
from .compaction.fusion import fuse
from .compaction.fusion_record import Fusion
from .compaction.plan import Plan, PlanError, load_plan
from .compaction.surgery import apply_plan
from .complexity import complexity, paper_flops
from .criteria import BatchNormScale, Context, GeometricMedian, LpNorm, Random, Taylor
from .filter_pruner import FilterPruner
from .presets import METHODS, make_pruner, preset
from .pruner import Pruner
from .report import make_report, plot_report, report_from_scalars, save_report
from .schedules.hard_shares import ConstantHardShare, CosineHardShare, CubicHardShare
from .schedules.rates import (
    AsymptoticRate,
    ConstantDecay,
    ConstantRate,
    CosineDecay,
    CubicRate,
    ExpDecay,
    LinearDecay,
)
from .weight_pruner import WeightPruner
from .zero_keeper import ZeroKeeper

__all__ = [
    "make_pruner",
    "METHODS",
    "preset",
    "Pruner",
    "FilterPruner",
    "WeightPruner",
    "ZeroKeeper",
    "Context",
    "LpNorm",
    "GeometricMedian",
    "BatchNormScale",
    "Taylor",
    "Random",
    "ConstantRate",
    "AsymptoticRate",
    "CubicRate",
    "ExpDecay",
    "LinearDecay",
    "CosineDecay",
    "ConstantDecay",
    "CubicHardShare",
    "CosineHardShare",
    "ConstantHardShare",
    "Budget",
    "keep_to_target",
    "solve_budget",
    "compact",
    "CompactionError",
    "fuse",
    "Fusion",
    "Plan",
    "PlanError",
    "load_plan",
    "apply_plan",
    "complexity",
    "paper_flops",
    "make_report",
    "plot_report",
    "report_from_scalars",
    "save_report",
]
