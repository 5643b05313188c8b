"""The disassembly is read right: loops, waits, spills, where exponentials stand."""

from attngen.runtime.sass import Instruction, Report, read

HEAD = """
		Function : kernel_one
	.headerflags	@"EF_CUDA_SM90"
"""
BODY = [
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT",
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0",
    "WARPGROUP.DEPBAR.LE gsb0, 0x1",
    "MUFU.EX2 R1, R2",
    "@!P0 MUFU.EX2 R2, R3",
    "WARPGROUP.DEPBAR.LE gsb0, 0x0",
    "MUFU.EX2 R4, R5",
    "STL.64 [R1], R2",
    "DEPBAR.LE SB0, 0x0",
    "@P0 BRA 0x{start:x}",
]
TAIL = ["LDL R3, [R1]", "EXIT", "BRA 0x{here:x}"]
USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function kernel_one:
  REG:168 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:1272 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def text(body: list[str]) -> str:
    lines, start = [HEAD], 0x100
    for n, line in enumerate([*body, *TAIL]):
        here = start + 16 * n
        code = line.format(start=start, here=here)
        lines.append(
            f"        /*{here:04x}*/                   {code} ;   /* 0x01e00000081879f0 */"
        )
        lines.append("                                             /* 0x000fe20008000000 */")
    return "\n".join(lines)


def one(body: list[str] = BODY) -> Report:
    (report,) = read(text(body), USAGE)
    return report


def test_a_kernel_is_counted():
    report = one()
    assert (report.name, report.registers, report.stack) == ("kernel_one", 168, 16)
    assert len(report.instructions) == len(BODY) + len(TAIL)
    assert (report.products, report.waits, report.spills) == (2, 2, 2)
    assert report.instructions[4] == Instruction(0x140, "MUFU.EX2", "R2, R3")


def test_a_loop_tells_exponentials_beside_a_product_from_those_behind_it():
    (loop,) = one().loops
    assert (loop.products, loop.waits, loop.exponentials) == (2, 2, (2, 1))


def test_a_rotated_loop_is_the_same_loop():
    turned = [*BODY[5:9], *BODY[:5], BODY[9]]
    (loop,) = one(turned).loops
    assert loop.exponentials == (2, 1)


def test_serialised_products_have_nothing_beside_them():
    serial = [line.replace("gsb0, 0x1", "gsb0, 0x0") for line in BODY]
    (loop,) = one(serial).loops
    assert loop.exponentials == (0, 3)


def test_an_end_that_branches_to_itself_is_no_loop():
    assert len(one().loops) == 1
    assert one([line for line in BODY if "BRA" not in line]).loops == ()


def test_only_the_innermost_loop_that_multiplies_counts():
    outer = [*BODY, "NOP", "@P1 BRA 0x{start:x}"]
    (loop,) = one(outer).loops
    assert len(loop.instructions) == len(BODY)


def test_a_description_names_every_figure():
    words = one().describe()
    assert "168 registers, 16 bytes of stack, 2 local accesses, 2 products, 2 waits" in words
    assert "2 exp2 beside a product, 1 behind it" in words


def test_tensor_memory_is_described_in_place_of_loops():
    body = ["UTCHMMA gdesc[UR6], tmem[UR15], UPT", "LDTM.x32 R4, tmem[UR5]", *BODY[3:6], BODY[9]]
    report = one([*body, "STTM.x16 tmem[UR12], R52"])
    assert (report.products, report.tensor_memory) == (1, 2)
    words = report.describe()
    assert words.endswith("2 accesses of tensor memory")
    assert "loop" not in words


def test_several_kernels_and_one_without_usage():
    both = text(BODY) + text(BODY).replace("kernel_one", "kernel_two")
    first, second = read(both, USAGE)
    assert (first.registers, second.registers) == (168, 0)
    assert first.products == second.products
