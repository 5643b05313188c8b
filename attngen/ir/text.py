"""Canonical text: one-line formulas, and whole specs that load to the identical program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from attngen.ir.attention import Attention, Sparsity, Tensor
from attngen.ir.expr import Expr, Row, Side, Top, children
from attngen.ir.recurrence import Recurrence
from attngen.ir.spell import Printer
from attngen.ir.walk import walk


def formula(e: Expr, names: Mapping[Expr, str] | None = None) -> str:
    """One line: the expression, with `names` for named parts of it (not for the whole)."""
    return Printer({n: name for n, name in (names or {}).items() if n is not e}).text(e)


def spec_text(program: Attention | Recurrence) -> str:
    """A whole `.attn` file; names the user gave to expressions are bound again."""
    body = _attention(program) if isinstance(program, Attention) else _recurrence(program)
    form = "attention" if isinstance(program, Attention) else "recurrence"
    lines = [f"  param {name} = {_value(value)}" for name, value in program.params]
    lines += [f"  {line}" for line in _declarations(program)]
    lines += ["", *(f"  {line}" for line in body)]
    if program.targets:
        lines += ["", f"  target {', '.join(program.targets)}"]
    if program.schedule:
        settings = "\n".join(f"    {name} = {_value(value)}" for name, value in program.schedule)
        lines += ["", f"  schedule {{\n{settings}\n  }}"]
    return f"{form} {program.name} {{\n" + "\n".join(lines) + "\n}\n"


def _attention(program: Attention) -> Iterator[str]:
    roots = [e for _, e in program.outputs]
    if program.mask is not None:
        roots.insert(0, program.mask)
    names = _bindable(program, roots)
    printer = Printer(names, lambda row: row_name(program.tensors, row))
    yield from _bindings(printer, roots, _taken(program))
    if program.mask is not None and program.mask not in names:
        yield f"mask = {printer.text(program.mask)}"
    if program.sparsity is not None:
        yield f"sparsity = {_sparsity(program, program.sparsity)}"
    for name, e in program.outputs:
        text = printer.text(e)
        if text != name:
            yield f"{name} = {text}"
    outputs = [name for name, _ in program.outputs]
    if outputs != ["out"]:
        yield f"return {', '.join(outputs)}"


def _bindable(program: Attention, roots: Sequence[Expr]) -> dict[Expr, str]:
    """The names to bind: of expressions in use, unless the name is that of another output."""
    outputs = dict(program.outputs)
    used = {n for e in roots for n in walk(e) if children(n)}
    names: dict[Expr, str] = {}
    for e, name in program.names.items():
        if e not in used or outputs.get(name, e) is not e or name in names.values():
            continue
        if (name == "mask") == (e is program.mask) and name not in ("gate", "sparsity"):
            names[e] = name
    if program.mask is not None and program.mask in names and names[program.mask] != "mask":
        del names[program.mask]
    return names


def _bindings(printer: Printer, roots: Sequence[Expr], taken: set[str]) -> Iterator[str]:
    """A statement for each name, arguments first; lists of the largest take both names at once."""
    names = dict(printer.names)
    known: dict[Expr, str] = {}
    for e in walk(*roots):
        printer.names = known
        if isinstance(e, Top) and e.part == "values" and e.count > 1:
            indices = Top(e.score, e.count, "indices")
            text = printer.call(indices)
            known[e] = names.get(e) or _fresh("values", taken)
            known[indices] = names.get(indices) or _fresh("indices", taken)
            yield f"{known[e]}, {known[indices]} = {text}"
        elif e in names and e not in known:
            text = printer.text(e)
            known[e] = names[e]
            yield f"{names[e]} = {text}"
    printer.names = known


def _fresh(name: str, taken: set[str]) -> str:
    words = (name, *(f"{name}{i}" for i in range(2, len(taken) + 3)))
    word = next(w for w in words if w not in taken)
    taken.add(word)
    return word


def _taken(program: Attention) -> set[str]:
    tensors = {t.name for t in program.tensors} | {a.name for t in program.tensors for a in t.axes}
    outputs = {name for name, _ in program.outputs}
    return tensors | outputs | set(program.names.values()) | {n for n, _ in program.params}


def _recurrence(program: Recurrence) -> Iterator[str]:
    """Everything in place: a value read between two updates is bound between them."""
    tensors = (*program.tensors, *(t for _, t in program.states))
    printer = Printer({}, lambda row: row_name(tensors, row))
    for done in range(len(program.updates) + 1):
        for name, e, count in program.outputs:
            text = printer.text(e)
            if count == done and text != name:
                yield f"{name} = {text}"
        if done < len(program.updates):
            name, e = program.updates[done]
            yield f"{name} = {printer.text(e)}"
    outputs = [name for name, _, _ in program.outputs]
    if outputs != ["out"]:
        yield f"return {', '.join(outputs)}"


def _sparsity(program: Attention, sparsity: Sparsity) -> str:
    size = f"size = ({sparsity.size[0]}, {sparsity.size[1]})"
    parts = [*sparsity.tensors]
    if sparsity.score is not None:
        mean = Printer({}, lambda row: f"mean({row_name(program.tensors, row)})")
        parts.append(mean.text(sparsity.score))
    options = [f"{name} = {value}" for name, value in sparsity.options]
    return f"{sparsity.kind}({', '.join([*parts, *options[:1], size, *options[1:]])})"


def row_name(tensors: Iterable[Tensor], row: Row) -> str:
    """The declared name under which a row is read."""
    sides = {
        Side.QUERY: ("query",),
        Side.KEY: ("key", "value"),
        Side.TIME: ("query", "key", "value"),
    }
    tensors = list(tensors)
    for tensor in tensors:
        parent, start, _ = tensor.view or (tensor.name, 0, 0)
        last = tensor.axes[-1] if tensor.axes else None
        width = None if last is None else last.name if last.size is None else last.size
        if (parent, start, width) == (row.tensor, row.start, row.width) and (
            tensor.role in sides[row.side]
        ):
            return tensor.name
    return _indexed_row(tensors, row)


def _indexed_row(tensors: Sequence[Tensor], row: Row) -> str:
    """A row of an input: with its indices, so that it has one reading everywhere."""
    tensor = next((t for t in tensors if t.name == row.tensor), None)
    if tensor is None:
        return row.tensor
    place = {Side.QUERY: "q_idx", Side.KEY: "kv_idx", Side.TIME: "t"}[row.side]
    keys = {a.name for t in tensors if t.role in ("key", "value") for a in t.axes}
    queries = {a.name for t in tensors if t.role == "query" for a in t.axes}
    index = []
    for axis in tensor.axes[:-1]:
        if axis.role == "head":
            only_keys = axis.name in keys - queries and row.side is not Side.TIME
            index.append("0" if axis.size == 1 else "h_kv" if only_keys else "h")
        else:
            index.append({"batch": "b", "position": place}.get(axis.role, "0"))
    return f"{tensor.name}[{', '.join(index)}]"


def _declarations(program: Attention | Recurrence) -> Iterator[str]:
    for tensor in program.tensors:
        yield declaration(tensor)
    if isinstance(program, Recurrence):
        for _, tensor in program.states:
            yield declaration(tensor)


def declaration(tensor: Tensor) -> str:
    """One tensor as it is declared."""
    if tensor.view is not None:
        parent, start, stop = tensor.view
        columns = "" if stop < 0 else f"[{start or ''}:{stop}]"
        return f"{tensor.role} {tensor.name} = {parent}{columns}"
    axes = f"[{', '.join(a.name for a in tensor.axes)}]" if tensor.axes else ""
    facts = " sorted" * tensor.sorted + " const" * tensor.const
    facts += f" packed({tensor.packed})" if tensor.packed else ""
    facts += f" paged({', '.join(tensor.paged)})" if tensor.paged else ""
    facts += f" scaled({tensor.scaled})" if tensor.scaled else ""
    return f"{tensor.role} {tensor.name} : {tensor.dtype.value}{axes}{facts}"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
