"""Models of transformers with attngen's attention give what they give with their own."""

import pytest
import torch

import attngen
from attngen.flex import TRACES
from attngen.runtime.settings import prepare_interpreter

tf = pytest.importorskip("transformers")

pytestmark = pytest.mark.interpreter
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
HEAD = {"head_dim": 16, "sliding_window": 7}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True, scope="module")
def registered():
    prepare_interpreter()
    attngen.transformers.register()


def models(kind, config, other="eager"):
    made = []
    for name in ("attngen", other):
        torch.manual_seed(0)
        made.append(kind._from_config(config(), attn_implementation=name))
    return made


def llama():
    return tf.LlamaConfig(**SMALL)


def tokens(batch=2, length=24):
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(1))


def left_padded(ids, *counts):
    keep = torch.ones_like(ids)
    for row, count in enumerate(counts):
        keep[row, :count] = 0
    return keep


def curve(model, steps=4):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model(tokens(), labels=tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def test_a_llama_trains_as_with_sdpa():
    ours, theirs = (curve(m) for m in models(tf.LlamaForCausalLM, llama, "sdpa"))
    assert ours[-1] < ours[0] - 0.2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_checkpoints_give_the_same_gradients():
    model = models(tf.LlamaForCausalLM, llama)[0].train()
    found = []
    for checkpoints in (False, True):
        if checkpoints:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_with_a_cache_gives_the_same_tokens(cache):
    ids = tokens(2, 8)
    keep = left_padded(ids, 3)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    if cache == "static":
        options["cache_implementation"] = "static"
    ours, theirs = (
        m.eval().generate(ids, attention_mask=keep, **options)
        for m in models(tf.LlamaForCausalLM, llama, "sdpa")
    )
    assert torch.equal(ours, theirs)


def test_steps_of_a_decode_trace_nothing_anew():
    model = models(tf.LlamaForCausalLM, llama)[0].eval()
    counts = []
    with torch.no_grad():
        found = model(tokens(1, 5), use_cache=True)
        for token in range(4):
            step = torch.tensor([[token]])
            found = model(step, past_key_values=found.past_key_values, use_cache=True)
            counts.append(TRACES.count)
    assert counts[0] == counts[-1]


MODELS = {
    "sliding_window": lambda: (
        tf.MistralForCausalLM,
        lambda: tf.MistralConfig(**SMALL, sliding_window=7),
    ),
    "softcap": lambda: (
        tf.Gemma2ForCausalLM,
        lambda: tf.Gemma2Config(
            **SMALL, **HEAD, query_pre_attn_scalar=16, attn_logit_softcapping=2.0
        ),
    ),
    "sinks": lambda: (
        tf.GptOssForCausalLM,
        lambda: tf.GptOssConfig(
            **SMALL,
            **HEAD,
            num_local_experts=2,
            num_experts_per_tok=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        ),
    ),
    "chunks": lambda: (
        tf.Llama4ForCausalLM,
        lambda: tf.Llama4TextConfig(
            **SMALL,
            head_dim=16,
            attention_chunk_size=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            intermediate_size_mlp=32,
        ),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_same_logits_gradients_and_tokens(name):
    ours, theirs = models(*MODELS[name]())
    ids = tokens()
    keep = left_padded(ids, 5)
    labels = ids.masked_fill(keep == 0, -100)
    labels[:, 5:6] = -100  # its query is a padding token
    results = [m(ids, attention_mask=keep, labels=labels) for m in (ours, theirs)]
    shown = keep.bool()
    torch.testing.assert_close(results[0].logits[shown], results[1].logits[shown], **CLOSE)
    for result in results:
        result.loss.backward()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        if two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, **CLOSE)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    found = [
        m.eval().generate(ids[:, :10], attention_mask=keep[:, :10], **options)
        for m in (ours, theirs)
    ]
    assert torch.equal(*found)


def test_a_learned_position_bias_and_cross_attention():
    def config():
        return tf.T5Config(
            vocab_size=64,
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
        )

    ours, theirs = models(tf.T5ForConditionalGeneration, config)
    ids = tokens()
    keep = torch.ones_like(ids)
    keep[0, 20:] = 0
    for model in (ours, theirs):
        model(input_ids=ids, attention_mask=keep, labels=tokens(2, 9)).loss.backward()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, **CLOSE)


# --- masks ----------------------------------------------------------------------------------------
def compared(**given):
    ours, theirs = models(tf.LlamaForCausalLM, llama, "sdpa")
    return ours(tokens(), **given).logits, theirs(tokens(), **given).logits


def test_sequences_packed_into_rows():
    places = torch.cat([torch.arange(10), torch.arange(14)])[None].expand(2, -1)
    torch.testing.assert_close(*compared(position_ids=places), **CLOSE)


def test_padding_with_holes():
    keep = torch.ones(2, 24, dtype=torch.long)
    keep[0, 20:] = 0
    keep[1, 3:6] = 0
    ours, theirs = compared(attention_mask=keep)
    torch.testing.assert_close(ours[keep.bool()], theirs[keep.bool()], **CLOSE)


@pytest.mark.parametrize("shape", [(1, 1, 24, 24), (2, 1, 24, 24), (2, 2, 24, 24)])
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_masks_with_four_axes(shape, kind):
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
    keep |= torch.eye(24, dtype=torch.bool)
    mask = keep if kind == "bool" else torch.zeros(shape).masked_fill(~keep, -1e9)
    torch.testing.assert_close(*compared(attention_mask=mask), **CLOSE)


# --- refused --------------------------------------------------------------------------------------
def test_dropout_of_the_weights_is_refused():
    model = models(tf.LlamaForCausalLM, lambda: tf.LlamaConfig(**SMALL, attention_dropout=0.1))[0]
    with pytest.raises(attngen.CallError, match=r"E526[\s\S]*attention_dropout = 0"):
        model.train()(tokens())
    model.eval()(tokens())


def test_without_transformers(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(attngen.CallError, match=r"E525[\s\S]*attngen\[transformers\]"):
        attngen.transformers.register()
