"""What a JAX function sees and costs, read from its traced program: a table says what runs."""

from cnnjax.analysis._program import is_module
from cnnjax.analysis.account import Account, Row, account
from cnnjax.analysis.effective import EffectiveReceptiveField, effective_receptive_field
from cnnjax.analysis.footprint import (
    OPTIMIZER_SLOTS,
    Footprint,
    Verified,
    footprint,
    largest_fitting,
    verify,
)
from cnnjax.analysis.matching import WidthMatch, match_width
from cnnjax.analysis.measured import (
    MeasuredIntervals,
    MeasuredReceptiveField,
    measured_intervals,
    measured_receptive_field,
)
from cnnjax.analysis.memory import (
    LiveBuffer,
    Memory,
    compiled_costs,
    compiled_flops,
    compiled_memory,
    largest_batch,
    predict_memory,
    predict_training_memory,
    training_step,
)
from cnnjax.analysis.receptive_field import AxisField, Merge, TracedField, receptive_field
from cnnjax.analysis.tables import records, to_json, to_markdown, to_text

__all__ = [
    "OPTIMIZER_SLOTS",
    "Account",
    "AxisField",
    "EffectiveReceptiveField",
    "Footprint",
    "LiveBuffer",
    "MeasuredIntervals",
    "MeasuredReceptiveField",
    "Memory",
    "Merge",
    "Row",
    "TracedField",
    "Verified",
    "WidthMatch",
    "account",
    "compiled_costs",
    "compiled_flops",
    "compiled_memory",
    "effective_receptive_field",
    "footprint",
    "is_module",
    "largest_batch",
    "largest_fitting",
    "match_width",
    "measured_intervals",
    "measured_receptive_field",
    "predict_memory",
    "predict_training_memory",
    "receptive_field",
    "records",
    "to_json",
    "to_markdown",
    "to_text",
    "training_step",
    "verify",
]
