"""tiebreak: judges that predict which of two chatbot answers people prefer.

The names of `__all__` are imported on first use, so that `import tiebreak` stays light.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tiebreak.api import Judge, distill, train
    from tiebreak.benching import bench, bench_pairs
    from tiebreak.choosing import best_of, compare
    from tiebreak.data.predictions import read_predictions, write_predictions
    from tiebreak.decisions.decide import decide
    from tiebreak.decisions.leaderboard import leaderboard
    from tiebreak.errors import UserError
    from tiebreak.evaluation.baselines import baseline
    from tiebreak.evaluation.evaluate import evaluate
    from tiebreak.export.export import export_judge
    from tiebreak.pipeline.cross_validation import cross_validate
    from tiebreak.pipeline.unseen import validate_on_unseen
    from tiebreak.prediction.ensemble import ensemble
    from tiebreak.prediction.merge import merge
    from tiebreak.prediction.predict import predict
    from tiebreak.prediction.swap import SwapPolicy
    from tiebreak.report.build import write_report
    from tiebreak.sample.generator import write_sample
    from tiebreak.tables.table import read_table
    from tiebreak.verdict import RankedAnswer, Verdict

_HOMES = {
    "Judge": "api",
    "RankedAnswer": "verdict",
    "SwapPolicy": "prediction.swap",
    "UserError": "errors",
    "Verdict": "verdict",
    "baseline": "evaluation.baselines",
    "bench": "benching",
    "bench_pairs": "benching",
    "best_of": "choosing",
    "compare": "choosing",
    "cross_validate": "pipeline.cross_validation",
    "decide": "decisions.decide",
    "distill": "api",
    "ensemble": "prediction.ensemble",
    "evaluate": "evaluation.evaluate",
    "export_judge": "export.export",
    "leaderboard": "decisions.leaderboard",
    "merge": "prediction.merge",
    "predict": "prediction.predict",
    "read_predictions": "data.predictions",
    "read_table": "tables.table",
    "train": "api",
    "validate_on_unseen": "pipeline.unseen",
    "write_predictions": "data.predictions",
    "write_report": "report.build",
    "write_sample": "sample.generator",
}
"""The module of each public name."""

__all__ = [
    "Judge",
    "RankedAnswer",
    "SwapPolicy",
    "UserError",
    "Verdict",
    "baseline",
    "bench",
    "bench_pairs",
    "best_of",
    "compare",
    "cross_validate",
    "decide",
    "distill",
    "ensemble",
    "evaluate",
    "export_judge",
    "leaderboard",
    "merge",
    "predict",
    "read_predictions",
    "read_table",
    "train",
    "validate_on_unseen",
    "write_predictions",
    "write_report",
    "write_sample",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tiebreak' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"tiebreak.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
