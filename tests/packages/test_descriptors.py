"""Descriptors of a launch: one that is left out, because its tensor is copied, is not mistaken."""

from types import SimpleNamespace

import torch

from attngen.aot.launcher.prepare import Shape, _Filler


def test_a_descriptor_behind_one_that_is_left_out_has_its_own_box():
    """The loop over queries of a backward: rows of keys, then numbers of queries."""
    meta = {"elem_size": 2, "elem_type": 10, "swizzle": 3, "fp4_padded": False}
    boxes = [{**meta, "block_size": [1, 1, 64, 64]}, {**meta, "block_size": [1, 1, 64]}]
    wide = Shape((2, 4, 80, 64), (40960, 10240, 128, 2), 2, torch.bfloat16, 16)
    numbers = Shape((2, 4, 128), (512, 128, 1), 4, torch.float32, 16)
    given = SimpleNamespace(
        given={"k"},
        known={},
        shapes={"k": wide, "norm": numbers},
        misfits=set(),
        driver=SimpleNamespace(version=13020),
    )
    filler = _Filler(given, {"descriptors": boxes})
    for name, shape in given.shapes.items():
        tree = ["descriptor", name, [*shape.shape], [*shape.strides], []]
        filler.add("tensordesc", tree, False)
    assert given.misfits == {"k"}
    ((_, base, maker),) = filler.maps
    assert (base, list(maker.box)) == ("norm", [64, 1, 1])
