"""Trains a small language model, letter by letter, whose attention is a spec with learned inputs.

Runs on a GPU, or without one, smaller, through Triton's interpreter: python examples/train_tiny.py
It writes the loss as a plot beside itself. The text is original and in the public domain.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from attngen.nn import Attention

HERE = Path(__file__).resolve().parent
# ALiBi with slopes that are learned, a sliding window, and a learned sink for each head
SPEC = """
attention letters {
  param window = 128

  query q : half[B, S, H, D]
  key   k : half[B, S, H, D]
  value v : half[B, S, H, D]
  input slope : f32[H]
  input sink  : f32[H]

  score = dot(q, k) * rsqrt(D) + slope[h] * (kv_idx - q_idx)
  mask  = causal and q_idx - kv_idx < window
  out   = sum(softmax(score, sink = sink[h]) * v)
}
"""


@dataclass(frozen=True)
class Sizes:
    """What fits the device; length: letters of a training text."""

    layers: int
    heads: int
    width: int
    batch: int
    length: int
    steps: int
    rate: float


GPU = Sizes(layers=4, heads=4, width=256, batch=32, length=256, steps=130, rate=1e-3)
CPU = Sizes(layers=2, heads=2, width=64, batch=2, length=64, steps=150, rate=8e-3)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to what came in."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.heads = sizes.heads
        self.first, self.second = nn.RMSNorm(sizes.width), nn.RMSNorm(sizes.width)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.attention = Attention(
            SPEC,
            window=sizes.length // 2,
            slope=nn.Parameter(2.0 ** -torch.arange(1, sizes.heads + 1)),
            sink=nn.Parameter(torch.zeros(sizes.heads)),
        )
        self.back = nn.Linear(sizes.width, sizes.width, bias=False)
        self.up = nn.Linear(sizes.width, 4 * sizes.width)
        self.down = nn.Linear(4 * sizes.width, sizes.width)

    def forward(self, x):
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        x = x + self.back(self.attention(q, k, v).flatten(-2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Letters(nn.Module):
    """From letters [B, S] to the logits of the next ones [B, S, letters]."""

    def __init__(self, count: int, sizes: Sizes):
        super().__init__()
        self.embed = nn.Embedding(count, sizes.width)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm, self.head = nn.RMSNorm(sizes.width), nn.Linear(sizes.width, count)

    def forward(self, letters):
        return self.head(self.norm(self.blocks(self.embed(letters))))


def batches(text, sizes, make):
    """Texts of random places, and the same one letter later."""
    places = torch.randint(len(text) - sizes.length - 1, (sizes.batch,), generator=make)
    rows = torch.stack([text[p : p + sizes.length + 1] for p in places.tolist()])
    return rows[:, :-1], rows[:, 1:]


def loss_of(model, pair, device):
    """Nats per letter. On a GPU in bfloat16: attngen's kernels follow autocast."""
    letters, targets = (x.to(device) for x in pair)
    with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        logits = model(letters)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def write(model, start, count, sizes, device):
    """Letters the model puts behind others."""
    letters = start.to(device)
    for _ in range(count):
        logits = model(letters[None, -sizes.length :])[0, -1]
        letters = torch.cat([letters, logits.argmax()[None]])
    return letters[len(start) :]


def train(sizes, device, console, seed=0):
    """(model, losses of training, (step, loss) on the last tenth, letters of the alphabet)."""
    torch.manual_seed(seed)
    make = torch.Generator().manual_seed(seed)
    text = (HERE / "train_tiny.txt").read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    data = torch.tensor([alphabet.index(c) for c in text])
    known, held = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    model = Letters(len(alphabet), sizes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=sizes.rate, fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, sizes.rate, sizes.steps)
    losses, others = [], []
    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  held out {task.fields[other]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sizes.steps, loss=float("nan"), other=float("nan"))
        for step in range(sizes.steps):
            loss = loss_of(model, batches(known, sizes, make), device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if step % max(1, sizes.steps // 10) == 0 or step + 1 == sizes.steps:
                with torch.no_grad():
                    pair = batches(held, sizes, torch.Generator().manual_seed(1))
                    others.append((step, loss_of(model, pair, device).item()))
            progress.update(task, advance=1, loss=losses[-1], other=others[-1][1])
    return model, losses, others, alphabet


def plot(losses, others, path):
    """The loss over the steps."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only here

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(losses, color="tab:blue", linewidth=1, label="training")
    axes.plot(*zip(*others, strict=True), color="tab:orange", marker="o", label="held out")
    axes.set(xlabel="step", ylabel="nats per letter", title="A small model with a spec's attention")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments=None) -> float:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="steps of training")
    parser.add_argument("--plot", type=Path, default=Path("train_tiny.png"), help="file to write")
    parser.add_argument("--letters", type=int, default=80, help="letters to write at the end")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = GPU if device == "cuda" else CPU
    if options.steps:
        sizes = Sizes(**{**vars(sizes), "steps": options.steps})
    console = Console()
    model, losses, others, alphabet = train(sizes, device, console)
    start = "The keeper "
    first = torch.tensor([alphabet.index(c) for c in start])
    found = write(model, first, options.letters, sizes, device)
    console.print(f"[bold]{start}[/]{''.join(alphabet[i] for i in found.tolist())}")
    attention = model.blocks[0].attention
    console.print(f"slopes of the first layer: {[round(x, 3) for x in attention.slope.tolist()]}")
    console.print(f"sinks of the first layer: {[round(x, 3) for x in attention.sink.tolist()]}")
    plot(losses, others, options.plot)
    console.print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; plot in {options.plot}")
    return losses[-1]


if __name__ == "__main__":
    main()
