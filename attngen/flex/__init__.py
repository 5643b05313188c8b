"""`flex_attention`: torch's FlexAttention by its signature and meaning, through attngen's compiler.

The callables are traced into a spec; captured tensors become its inputs, and the mask's loop bounds
are derived from its formula, so no block mask has to be built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.flex.block_mask import mask_of
from attngen.flex.maker import POSITIONS, Extents, Question
from attngen.flex.shortcut import Shortcuts, code_of
from attngen.flex.traces import Traces
from attngen.frontend.trace_spec import Asked
from attngen.runtime.kernel import Kernel

SHORTCUTS = Shortcuts()
TRACES = Traces()  # of this process: a callable is traced once
Prepared: TypeAlias = "tuple[Kernel, list[torch.Tensor]]"
_NO_FACTS: Mapping[str, str] = {}
_OUT, _OUT_LSE = Asked(), Asked(lse=True)


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
    mask_mod: Callable[..., Any] | None = None,
    facts: Mapping[str, str] = _NO_FACTS,
    align: str = "start",
) -> Any:
    """softmax(score_mod(q . k * scale)) v over the keys that the mask keeps.

    query [B, Hq, Sq, D], key [B, Hkv, Skv, D], value [B, Hkv, Skv, Dv]; block_mask: its mask_mod is
    used and its tables are not; mask_mod: the same without a BlockMask (both: keys that both keep);
    scale: default 1 / sqrt(D); facts: {"doc": "sorted"} for captured tensors; align: "start" as in
    torch, or "end": q_idx of the last query is that of the last key, as in decoding with a cache;
    kernel_options are accepted and not needed. Returns out [B, Hq, Sq, Dv], with return_lse also
    lse [B, Hq, Sq] (f32, natural), with return_aux = AuxRequest(lse=True, max_scores=True) an
    AuxOutput with them (the scores without a gradient, as in torch). A row with no key gives 0 and
    -inf. CallError: arguments that do not fit; SpecError: a callable that cannot be traced, with
    the place in its file.
    """
    if return_aux is None:
        kernel, arguments = _prepared(
            query,
            key,
            value,
            score_mod,
            block_mask,
            mask_mod,
            scale,
            enable_gqa,
            _OUT_LSE if return_lse else _OUT,
            facts,
            align,
        )
        return kernel(*arguments)
    if return_lse:
        message = "return_lse and return_aux were both given"
        raise CallError(
            Diagnostic("E521", message, help="leave return_lse out: AuxRequest(lse=True) asks")
        )
    given = (query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa)
    return _with_aux(lambda asked: _prepared(*given, asked, facts, align), return_aux)


# its callables are looked at in Python: torch.compile runs it as it is, between two graphs
flex_attention._torchdynamo_disable = True  # type: ignore[attr-defined]
flex_attention._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "attngen.flex_attention looks at its callables in Python. For one graph make the kernel before:"
    " kernel = attngen.flex.flex_kernel(q, k, v, ...), and call kernel(q, k, v, *captured) inside."
)


def _with_aux(prepared: Callable[[Asked], Prepared], wanted: Any) -> Any:
    """(out, AuxOutput). The largest scores of a call with gradients are a call of their own."""
    from torch.nn.attention.flex_attention import AuxOutput  # noqa: PLC0415 - slow to import

    kernel, arguments = prepared(Asked(True, wanted.lse, wanted.max_scores))
    trained = torch.is_grad_enabled() and any(x.requires_grad for x in arguments)
    if not (trained and wanted.max_scores):
        return _aux(kernel(*arguments), wanted, AuxOutput)
    with torch.no_grad():
        kernel, arguments = prepared(Asked(False, False, True))
        most = kernel(*arguments)
    kernel, arguments = prepared(Asked(True, wanted.lse))
    found = kernel(*arguments)
    return _aux((*found, most) if wanted.lse else (found, most), wanted, AuxOutput)


def _aux(results: Any, wanted: Any, kind: Any) -> Any:
    if not (wanted.lse or wanted.max_scores):
        return results, kind(lse=None, max_scores=None)
    out, *rest = results
    lse = rest.pop(0) if wanted.lse else None
    return out, kind(lse=lse, max_scores=rest.pop(0) if wanted.max_scores else None)


def flex_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    mask_mod: Callable[..., Any] | None = None,
    facts: Mapping[str, str] = _NO_FACTS,
    align: str = "start",
) -> Kernel:
    """The kernel that `flex_attention` uses here: `.source`, `.explain()` and so on."""
    given = (query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa)
    kernel, arguments = _prepared(*given, Asked(lse=return_lse), facts, align)
    if query.numel() and key.numel():
        kernel.made(kernel.request(*arguments))
    return kernel


def sorted(tensor: torch.Tensor) -> torch.Tensor:  # as the fact of the language
    """Marks a tensor as never decreasing along its last axis, and returns it; nothing is checked.

    A document mask over a sorted tensor gets closed-form bounds: a run of documents is one range.
    """
    tensor._attngen_sorted = True  # type: ignore[attr-defined] # a mark of ours on the object
    return tensor


def _prepared(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Callable[..., Any] | None,
    block_mask: Any,
    mask_mod: Callable[..., Any] | None,
    scale: float | None,
    enable_gqa: bool,
    asked: Asked,
    facts: Mapping[str, str],
    align: str,
) -> Prepared:
    if not (_has_four_axes(query) and _has_four_axes(key)):
        _extents(query, key, value, enable_gqa)  # says what is wrong
    if block_mask is not None:
        own = mask_of(block_mask, query.shape[2], key.shape[2])
        mask_mod = own if mask_mod is None else _both(own, mask_mod)
    call: Hashable = None
    if not facts and (asked is _OUT or asked is _OUT_LSE):
        mods = code_of(score_mod), code_of(mask_mod)
        shapes = query.shape, key.shape, getattr(value, "shape", None)
        call = (*mods, *shapes, scale, enable_gqa, asked.lse, align)
        known = SHORTCUTS.find(call, score_mod, mask_mod)
        if known is not None:
            return known[0], [query, key, value, *known[1]]
    extents = _extents(query, key, value, enable_gqa)
    found = TRACES.find(
        _question(score_mod, mask_mod, scale, asked, facts, align, extents), extents
    )
    batch = extents.sizes["B"]
    if call is not None and key.shape[0] == value.shape[0] == batch:
        SHORTCUTS.keep(call, score_mod, mask_mod, found, extents)
    key, value = (_batched(x, batch) for x in (key, value))
    return found.trace.kernel, [query, key, value, *found.arguments]


def _question(
    score_mod: Callable[..., Any] | None,
    mask_mod: Callable[..., Any] | None,
    scale: float | None,
    asked: Asked,
    facts: Mapping[str, str],
    align: str,
    extents: Extents,
) -> Question:
    """What a call asks for; CallError E513, E521."""
    if scale is not None and not math.isfinite(scale):
        raise CallError(Diagnostic("E513", f"scale is {scale}", help="pass a finite number"))
    if align not in POSITIONS:
        message = f"align is {align!r:.40}"
        raise CallError(Diagnostic("E521", message, help='align="start" or align="end"'))
    if extents.sizes["Sq"] == extents.sizes["Skv"]:
        align = "start"  # the same, and tensors along the queries are read as they lie
    return Question(score_mod, mask_mod, scale, asked, facts, align)


def _has_four_axes(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.ndim == 4


def _extents(q: Any, k: Any, v: Any, grouped: bool) -> Extents:
    """The sizes of a call; CallError E503 to E507 if the three do not fit together."""
    for name, x in (("query", q), ("key", k), ("value", v)):
        if not isinstance(x, torch.Tensor) or x.ndim != 4:
            found = f"{x.ndim} axes" if isinstance(x, torch.Tensor) else type(x).__name__
            message = f"{name} is a tensor over [B, H, S, D], found {found}"
            raise CallError(Diagnostic("E504", message, help=f"{name}.reshape(B, H, S, D)"))
    heads, shared = q.shape[1], k.shape[1]
    if shared != heads and (not grouped or shared == 0 or heads % shared):
        message = f"{heads} heads of query and {shared} of key"
        fix = "enable_gqa=True" if not grouped else "pass a number of key heads that divides them"
        raise CallError(Diagnostic("E507", message, help=fix))
    sizes = {"B": q.shape[0], "Hq": heads, "Hkv": shared, "Sq": q.shape[2], "Skv": k.shape[2]}
    return Extents(sizes | {"D": q.shape[3], "Dv": v.shape[3]})


def _batched(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x if x.shape[0] == batch else x.expand(batch, -1, -1, -1) if x.shape[0] == 1 else x


def _both(a: Callable[..., Any] | None, b: Callable[..., Any]) -> Callable[..., Any]:
    if a is None:
        return b

    def both(*where: Any) -> Any:
        return a(*where) & b(*where)

    return both


__all__ = ["TRACES", "flex_attention", "flex_kernel", "sorted"]
