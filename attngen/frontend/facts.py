"""Facts about a tensor: sorted, const, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attngen.frontend.declared import STREAMS, Declarations
from attngen.frontend.mistake import wrong
from attngen.ir.attention import Tensor
from attngen.syntax import ast
from attngen.syntax.words import nearest


def apply_fact(fact: ast.Fact, group: ast.Tensors, declared: Declarations) -> None:
    """Adds one fact to the tensors of a declaration and to views of them."""
    tensors = [declared.tensors[w.text] for w in group.names if w.text in declared.tensors]
    change: Mapping[str, object]
    names = [_described_by(fact, word, declared) for word in fact.names]
    match fact.kind:
        case "const":
            change = {"const": True}
        case "sorted":
            _check_sorted(fact, group, tensors)
            change = {"sorted": True}
        case _:
            if group.role not in STREAMS:
                raise wrong(
                    "E120",
                    f"`{fact.kind}` describes how a stream is stored",
                    fact.span,
                    "found on an input" if group.role == "input" else "found on a state",
                    f"remove `{fact.span.text}`",
                )
            _check_storage(fact, [declared.tensors[n] for n in names])
            change = {fact.kind: tuple(names) if fact.kind == "paged" else names[0]}
    for tensor in tensors:
        declared.tensors[tensor.name] = replace(declared.tensors[tensor.name], **change)  # type: ignore[arg-type] # the keys are fields
        for view in [t for t in declared.tensors.values() if t.view and t.view[0] == tensor.name]:
            declared.tensors[view.name] = replace(view, **change)  # type: ignore[arg-type] # as above


def _described_by(fact: ast.Fact, word: ast.Word, declared: Declarations) -> str:
    found = declared.tensors.get(word.text)
    if found is None or found.role != "input":
        near = nearest(word.text, [t.name for t in declared.tensors.values() if t.role == "input"])
        raise wrong(
            "E120",
            f"`{fact.kind}` refers to `{word.text}`, which is not a declared input",
            word.span,
            "expected the name of an input",
            f"did you mean `{near}`?" if near else f"declare it: `input {word.text} : i32[B + 1]`",
        )
    return found.name


def _check_storage(fact: ast.Fact, inputs: Sequence[Tensor]) -> None:
    ranks = {"packed": (1,), "paged": (2, 1), "scaled": (None,)}[fact.kind]
    types = {"packed": "i32[B + 1]", "paged": "i32[B, max_pages]", "scaled": "f32[B, H, S]"}
    for tensor, rank, word in zip(inputs, ranks, fact.names, strict=True):
        real = fact.kind == "scaled"
        if tensor.dtype.is_float != real or (rank is not None and len(tensor.axes) != rank):
            wanted = "i32[B]" if fact.kind == "paged" and rank == 1 else types[fact.kind]
            raise wrong(
                "E120",
                f"`{fact.kind}` cannot use `{tensor.name}` : {tensor.dtype.value} with"
                f" {len(tensor.axes)} axes",
                word.span,
                f"expected {wanted}",
                f"declare `input {tensor.name} : {wanted}`",
            )


def _check_sorted(fact: ast.Fact, group: ast.Tensors, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.role != "input" or tensor.axis("position") is None:
            raise wrong(
                "E205",
                f"`sorted` says that `{tensor.name}` never decreases along its position axis",
                fact.span,
                "it has no position axis" if tensor.role == "input" else "expected an input",
                "remove `sorted`, or declare"
                f" `input {tensor.name} : {group.type.dtype.text}[B, S] sorted`",
            )
