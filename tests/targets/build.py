"""Examples compiled for GPUs that are not here, several in one worker."""

from functools import cache
from pathlib import Path

from attngen.backend.triton.emit import emit
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.passes.pipeline import build_program
from attngen.schedule.choose import choose

EXAMPLES = Path(__file__).parents[2] / "examples"
FORWARD = (
    "flash gemma2 alibi_documents prefix_lm sinks_gated relative_bias forgetting sigmoid "
    "differential parallax mla varlen dropout kmeans_assign knn boruvka"
).split()
HALVES = {"bf16": Dtype.BF16, "f16": Dtype.F16, "f32": Dtype.F32}


@cache
def program(example, size, half="bf16"):
    path = EXAMPLES / f"{example}.attn"
    attention = load(Source(str(path), path.read_text()), {})
    axes = (a for t in attention.tensors for a in t.axes if a.role == "feature" and a.size is None)
    return build_program(attention, {a.name: size for a in axes}, HALVES[half])


def half_of(target):
    """Turing has no bfloat16."""
    return "f16" if target == "sm_75" else "bf16"


def emitted(example, target, size=128, half=None, **options):
    made, gpu = program(example, size, half or half_of(target)), find_target(target)
    return emit(made, choose(made, gpu, options), gpu)
