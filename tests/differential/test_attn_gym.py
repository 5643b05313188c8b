"""The callables of attn-gym themselves, where it is installed; the corpus has them written anew."""

import inspect

import pytest
import torch

from tests.differential.flex_corpus import Case, causal, documents_of, offsets_of
from tests.differential.test_flex import held_to_eager

masks = pytest.importorskip("attn_gym.masks")
mods = pytest.importorskip("attn_gym.mods")
pytestmark = pytest.mark.interpreter


def found(module, name):
    """A function of the package or of one of its modules."""
    for part in (module, *(m for _, m in inspect.getmembers(module, inspect.ismodule))):
        if hasattr(part, name):
            return getattr(part, name)
    pytest.skip(f"this attn-gym has no {name}")
    return None


OFFSETS = offsets_of(9, 4, 20, 7)
TREE = torch.eye(7, dtype=torch.bool)
RAND = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
PLANE = (1, 2, 36, 36)
MASKS = {
    "causal_mask": (None, PLANE),
    "generate_sliding_window": ((7,), PLANE),
    "generate_prefix_lm_mask": ((11,), PLANE),
    "generate_dilated_sliding_window": ((9, 3), PLANE),
    "batchify_mask_mod": ((causal, 16), PLANE),
    "generate_doc_mask_mod": ((causal, OFFSETS), (1, 2, 40, 40)),
    "generate_packed_causal_doc_mask_mod": ((OFFSETS,), (1, 2, 40, 40)),
    "generate_shared_prefix_mask_mod": ((OFFSETS, torch.tensor([0, 0, 2, 2])), (1, 2, 40, 40)),
    "generate_global_sliding_window": ((3, RAND[0] < 0.1), (1, 2, 40, 40)),
    "generate_natten": ((6, 6, 3, 3), PLANE),
    "generate_tiled_natten": ((6, 6, 3, 3, 2, 2), PLANE),
    "generate_sta_mask_mod_2d": (((6, 6), (6, 2), (2, 2), 4), (1, 2, 40, 40)),
    "generate_sta_mask_mod_3d": (((2, 4, 4), (1, 2, 4), (1, 2, 2), 5), (1, 2, 37, 37)),
    "generate_spatial_head_mask_mod": ((3, 3, 11, 2, False, 8), PLANE),
    "generate_temporal_head_mask_mod": ((3, 3, 11, 2), PLANE),
    "generate_block_diffusion_mask": ((20, 4), (1, 2, 40, 40)),
    "generate_vision_cross_attention_mask_mod": (
        (torch.tensor([[0, 7], [1, 7], [7, 12]]), 3),
        (1, 2, 12, 9),
    ),
    "generate_jetspec_tree_causal_mask_mod": ((9, TREE), (1, 2, 7, 16)),
    "generate_jetspec_training_mask_mod": ((5, 4), (1, 2, 12, 17)),
    "generate_vsa_mask_mod": (
        (torch.tensor([[0, 1], [1, 4], [2, 0], [3, 1], [4, 2]]).expand(1, 2, 5, 2), 8),
        (1, 2, 40, 40),
    ),
    "generate_vsa_padding_mask_mod": ((torch.tensor([8, 8, 5, 8, 3]), 8), (1, 2, 40, 40)),
}
GRAPH = torch.randint(0, 4, (2, 12, 12, 3), generator=torch.Generator().manual_seed(0))
SCORES = {
    "generate_alibi_bias": ((2,), PLANE),
    "generate_tanh_softcap": ((3,), PLANE),
    "generate_activation_score_mod": ((), PLANE),
    "generate_sandwich_bias": ((2, 40), PLANE),
    "generate_graphormer_spatial_bias": ((RAND[:, :6], GRAPH[..., 0] + 1), (2, 2, 12, 12)),
    "generate_graphormer_edge_bias": (
        (torch.rand(2, 3, 4), GRAPH, GRAPH[..., 0]),
        (2, 2, 12, 12),
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    given, sizes = MASKS[name]
    made = found(masks, name)
    held_to_eager(Case(None, made if given is None else made(*given), sizes))


@pytest.mark.parametrize("name", SCORES)
def test_scores(name):
    given, sizes = SCORES[name]
    held_to_eager(Case(found(mods, name)(*given), None, sizes))


def test_the_instruction_for_a_tanh_is_a_tanh():
    held_to_eager(Case(found(mods, "generate_tanh_softcap")(3, approx=True), None, PLANE))


def test_documents_are_numbered_as_ours():
    lengths = found(masks, "length_to_offsets")([9, 4, 20, 7], "cpu")
    assert torch.equal(documents_of(lengths), documents_of(OFFSETS))
