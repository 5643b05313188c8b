"""A step with the texts that the template macros print."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.shape import Frame
from attngen.backend.triton.step import Step
from attngen.backend.triton.text import call


@dataclass
class StepView:
    """A step with the texts the macros need."""

    step: Step
    frame: Frame
    guard: str
    precision: str

    def __getattr__(self, name: str) -> object:
        return getattr(self.step, name)

    @property
    def masked_scores(self) -> list[str]:
        """Score tiles that become -inf where masked: each once."""
        names = [c.score for c in self.step.classes] + [t.score for t in self.step.tops]
        return list(dict.fromkeys(names))

    @property
    def classes(self) -> list[dict[str, object]]:
        """Classes for the macro `weights`."""
        out: list[dict[str, object]] = []
        many = len(self.step.classes) > 1
        for c in self.step.classes:
            suffix = f"_{c.p}" if many else ""
            rescale = f" * {c.alpha}" if c.fixed is None else ""
            times = f" * {c.factor}" if c.factor else ""
            fixed = c.fixed or 0.0
            minus = "" if fixed == 0 else f" - {fixed!r}" if fixed > 0 else f" + {-fixed!r}"
            new = f"m_new{suffix}"
            out.append(
                {
                    "score": c.score,
                    "m": c.m,
                    "l": c.l,
                    "p": c.p,
                    "alpha": c.alpha,
                    "fixed": c.fixed,
                    "m_new": new,
                    "m_safe": f"m_safe{suffix}" if self.guard else new,
                    "guard": self.guard,
                    "times": times,
                    "minus": minus,
                    "rescale": rescale,
                }
            )
        return out

    @property
    def accumulators(self) -> list[dict[str, object]]:
        """Accumulators for the macro `accumulate`."""
        out: list[dict[str, object]] = []
        weights: dict[str, str] = {}
        seen: set[str] = set()
        many = len({a.weight for a in self.step.accumulators if not a.plain}) > 1
        for i, a in enumerate(self.step.accumulators):
            updates = []
            for j, name in enumerate(a.names):
                old = name
                if a.rescale:
                    alpha = a.rescale if " * " not in a.rescale else f"({a.rescale})"
                    old = f"{name} * {self.frame.spread_row(alpha) if a.payload else alpha}"
                updates.append((name, a.payload[j] if a.payload else "", old))
            first = weights.setdefault(a.weight, f"w_{i}" if many else "w")
            known = a.plain or (a.weight in seen)
            seen.add(a.weight)
            out.append(
                {
                    "weight": a.weight,
                    "weight_name": a.weight if a.plain else first,
                    "known": known,
                    "masked": a.masked and not known,
                    "updates": updates,
                }
            )
        return out


@dataclass
class Stage:
    """One pass over the keys, as the kernel template prints it.

    flagged: the step is told whether its tile is partial; condition: how a loop that runs over all
    tiles finds out.
    """

    name: str
    body: str
    parameters: list[str]
    state_names: list[str]
    inits: list[tuple[str, str]]
    finish: list[str]
    any_kept: str
    any_kept_function: str
    flagged: bool = True
    condition: str = ""

    @property
    def state(self) -> str:
        """Left side of the assignment from the step."""
        return ", ".join(self.state_names)

    def call(self, partial: bool, indent: int) -> str:
        """The call of the step."""
        told = self.condition or str(partial)
        arguments = [*self.parameters, told] if self.flagged else self.parameters
        wide = indent + len(self.state) + 3
        return call(self.name, arguments, "", wide)
