"""The grammar of random specs: what each feature adds to the text."""

from __future__ import annotations

import random

MASKS = (
    *("causal", "window", "runtime_window", "head_window", "documents", "prefix", "band"),
    *("stride", "block_diagonal", "row_start", "key_length", "given_mask", "min_max"),
)
SCORES = (
    *("softcap", "alibi", "row_term", "column_term", "table", "bias", "two_streams"),
    *("scalar_scale", "score_where", "distance", "tanh_term"),
)
COMBINES = (
    *("sink", "sigmoid_sum", "relu_ratio", "product", "parallax", "differential"),
    *("two_values", "no_sum"),
)
OUTPUTS = ("lse", "argmin", "argmax", "topk", "max_score", "mean_score")


class Parts:
    """Collects declarations and statements of one spec."""

    def __init__(self, seed: int, features: frozenset[str]) -> None:
        self.seed = seed
        self.features = features
        self.inputs: list[str] = []
        self.cross = "cross" in features
        self.q_axis, self.k_axis = ("Sq", "Skv") if self.cross else ("S", "S")
        self.heads = "Hq" if "grouped" in features else "H"

    def text(self) -> str:
        """The whole spec."""
        score, mask = self._score(), self._mask()
        body = [f"  score = {score}"]
        body += [f"  mask = {mask}"] if mask else []
        body += self._out()
        results = [] if "no_sum" in self.features else ["out"]
        for feature in OUTPUTS:
            if feature in self.features:
                line, names = _OUTPUTS[feature]
                body.append(f"  {line}")
                results += names
        body += self._gate()
        body.append(f"  return {', '.join(results)}")
        lines = [*self._streams(), *(f"  input {line}" for line in self.inputs), "", *body]
        return "\n".join([f"attention random_{self.seed} {{", *lines, "}", ""])

    def choose(self, name: str, *values: int | float | str) -> str:
        """One of the values, by the seed and the decision's name alone."""
        return str(random.Random(f"{self.seed}:{name}").choice(values))

    def declare(self, line: str) -> None:
        """Add `input LINE` once."""
        if line not in self.inputs:
            self.inputs.append(line)

    def _axes(self, heads: str, length: str, width: str) -> str:
        if "packed" in self.features:
            return f"[T, {heads}, {width}]"
        if "no_batch" in self.features:
            return f"[{length}, {width}]"
        if "token_major" in self.features:
            return f"[B, {length}, {heads}, {width}]"
        return f"[B, {heads}, {length}, {width}]"

    def _streams(self) -> list[str]:
        dtype = "f32" if "f32" in self.features else "half"
        kv_heads = "Hkv" if "grouped" in self.features else self.heads
        kv_heads = "1" if "one_kv_head" in self.features else kv_heads
        value = "Dv" if "value_width" in self.features else "D"
        queries, keys, values = ["q"], ["k"], [] if "no_sum" in self.features else ["v"]
        if self.features & {"two_streams", "differential"}:
            queries, keys = [*queries, "q2"], [*keys, "k2"]
        if self.features & {"product", "parallax"}:
            queries.append("r")
        if "two_values" in self.features:
            values.append("w")
        packed = ("", "")
        if "packed" in self.features:
            packed = (" packed(cu_q)", " packed(cu_kv)")
            self.declare("cu_q : i32[B + 1]")
            self.declare("cu_kv : i32[B + 1]")
        q = self._axes(self.heads, self.q_axis, "D")
        k, v = (self._axes(kv_heads, self.k_axis, width) for width in ("D", value))
        lines = [f"  query {', '.join(queries)} : {dtype}{q}{packed[0]}"]
        lines.append(f"  key {', '.join(keys)} : {dtype}{k}{packed[1]}")
        if values:
            lines.append(f"  value {', '.join(values)} : {dtype}{v}{packed[1]}")
        return lines

    def _mask(self) -> str:
        atoms = [self._mask_atom(f) for f in MASKS if f in self.features]
        if "mask_not" in self.features and atoms:
            atoms[-1] = f"not ({atoms[-1]})"
        if "mask_or" in self.features and len(atoms) > 1:
            return f"({' and '.join(f'({a})' for a in atoms[:-1])}) or ({atoms[-1]})"
        return " and ".join(f"({a})" for a in atoms) if len(atoms) > 1 else "".join(atoms)

    def _mask_atom(self, feature: str) -> str:
        n = self.choose(feature, 1, 2, 5, 16, 17, 40)
        match feature:
            case "runtime_window":
                self.declare("near : i32")
            case "head_window":
                self.declare(f"reach : i32[{self.heads}]")
            case "documents" if self.cross:
                self.declare("doc_q : i32[B, Sq] sorted")
                self.declare("doc_k : i32[B, Skv] sorted")
                return "doc_q[b, q_idx] == doc_k[b, kv_idx]"
            case "documents":
                self.declare("doc : i32[B, S] sorted")
            case "prefix":
                self.declare("prefix : i32[B]")
            case "row_start":
                self.declare(f"low : i32[B, {self.q_axis}]")
            case "key_length":
                self.declare("used : i32[B]")
            case "given_mask":
                self.declare(f"given : bool[B, {self.q_axis}, {self.k_axis}]")
        return _MASKS[feature].replace("#", n)

    def _score(self) -> str:
        self._declare_score()
        scale = "tau" if "scalar_scale" in self.features else "rsqrt(D)"
        score = f"dot(q, k) * {scale}"
        if "two_streams" in self.features:
            score += " + dot(q2, k2) * rsqrt(D)"
        if "softcap" in self.features:
            score = f"softcap({score}, {self.choose('softcap', 2.0, 20.0, 50.0)})"
        for feature, term in _TERMS.items():
            if feature in self.features:
                score += f" + {term}"
        if "score_where" in self.features:
            score += f" + where(kv_idx < {self.choose('where', 1, 8, 30)}, 0.75, -0.25)"
        return score

    def _declare_score(self) -> None:
        declarations = {
            "scalar_scale": "tau : f32",
            "alibi": f"slope : f32[{self.heads}]",
            "row_term": f"row : f32[B, {self.heads}, {self.q_axis}]",
            "column_term": f"column : f32[B, {self.k_axis}]",
            "table": f"table : f32[{self.heads}, 17]",
            "bias": f"bias : half[B, {self.heads}, {self.q_axis}, {self.k_axis}]",
        }
        for feature, line in declarations.items():
            if feature in self.features:
                self.declare(line)

    def _out(self) -> list[str]:
        weights = "softmax(score)"
        if "sink" in self.features:
            self.declare(f"sink : f32[{self.heads}]")
            weights = "softmax(score, sink = sink[h])"
        if "dropout" in self.features:
            self.declare("seed : i64")
            weights = f"dropout({weights}, {self.choose('dropout', 0.1, 0.25, 0.5)}, seed)"
        combine = next((f for f in COMBINES if f in self.features), "")
        if combine == "differential":
            self.declare(f"lam : f32[{self.heads}]")
        if combine in _OUT:
            return [f"  {line}" for line in _OUT[combine].replace("WEIGHTS", weights).split("\n")]
        if combine == "no_sum":
            return []
        plain = self.features & {"sink", "dropout", "explicit_out"}
        return [f"  out = sum({weights} * v)"] if plain else []

    def _gate(self) -> list[str]:
        if "gate" in self.features:
            width = "Dv" if "value_width" in self.features else "D"
            self.declare(f"g : half{self._axes(self.heads, self.q_axis, width)}")
            order = "b, q_idx, h" if "token_major" in self.features else "b, h, q_idx"
            # a bare name has one reading only where queries and keys count different positions
            return ["  gate = sigmoid(g)" if self.cross else f"  gate = sigmoid(g[{order}])"]
        if "head_gate" in self.features:
            self.declare(f"open : f32[{self.heads}]")
            return ["  gate = sigmoid(open[h])"]
        return []


_MASKS = {
    "causal": "causal",
    "window": "q_pos - kv_idx < #",
    "runtime_window": "q_pos - kv_idx < near",
    "head_window": "q_pos - kv_idx <= reach[h]",
    "documents": "doc[b, q_idx] == doc[b, kv_idx]",
    "prefix": "kv_idx < prefix[b]",
    "band": "abs(q_pos - kv_idx) <= #",
    "stride": "(q_idx + kv_idx) % # == 0",
    "block_diagonal": "q_idx // # == kv_idx // #",
    "row_start": "low[b, q_idx] <= kv_idx",
    "key_length": "kv_idx < used[b]",
    "given_mask": "given[b, q_idx, kv_idx]",
    "min_max": "max(q_idx - #, 0) <= min(kv_idx, kv_len - 1)",
}
_TERMS = {
    "alibi": "slope[h] * (kv_idx - q_pos)",
    "row_term": "row[b, h, q_idx]",
    "column_term": "column[b, kv_idx]",
    "table": "table[h, min(max(kv_idx - q_idx, -8), 8) + 8]",
    "bias": "bias[b, h, q_idx, kv_idx]",
    "distance": "-0.01 * abs(q_pos - kv_idx)",
    "tanh_term": "tanh(0.1 * dot(q, k))",
}
_OUT = {
    "sigmoid_sum": "out = sum(sigmoid(score - log(kv_len)) * v)",
    "relu_ratio": "out = sum(relu(score) * v) / (1 + sum(relu(score)))",
    "product": "u = dot(r, k) * rsqrt(D)\nout = sum(WEIGHTS * u * v)",
    "parallax": (
        "p = softmax(score)\nu = dot(r, k) * rsqrt(D)\n"
        "out = (1 + sum(p * u)) * sum(p * v) - sum(p * u * v)"
    ),
    "differential": (
        "other = dot(q2, k2) * rsqrt(D)\n"
        "out = sum(softmax(score) * v) - lam[h] * sum(softmax(other) * v)"
    ),
    "two_values": "p = WEIGHTS\nout = sum(p * v) - 0.5 * sum(p * w)",
}
_OUTPUTS = {
    "lse": ("lse = logsumexp(score)", ["lse"]),
    "argmin": ("least, least_at = argmin(score)", ["least", "least_at"]),
    "argmax": ("best = argmax(score)", ["best"]),
    "topk": ("top, top_at = topk(score, 3)", ["top", "top_at"]),
    "max_score": ("peak = max(score)", ["peak"]),
    "mean_score": ("mean_score = sum(softmax(score) * score)", ["mean_score"]),
}
