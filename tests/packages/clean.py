"""Uses a package where only it and torch can be imported; test_clean.py runs it as a process.

    python -I -S clean.py SITE LIBRARY     SITE: where they are; LIBRARY: stands in for the driver

Prints {name of a check: "" or what went wrong} as JSON.
"""

import ctypes
import json
import shutil
import struct
import sys
import tempfile
import threading
import traceback
from pathlib import Path

SITE, LIBRARY = sys.argv[1:]
sys.path.append(SITE)
sys.path.append(str(Path(__file__).parent))

import acme_kernels as acme  # noqa: E402 - after the path
import torch  # noqa: E402
from acme_kernels._launcher import arguments, driver, manifest, package, ready  # noqa: E402
from clean_record import Record  # noqa: E402

driver.CUDA_LIBRARY = LIBRARY
arguments.DEVICES = ("cpu",)  # tensors of a GPU cannot be made here
ready.stream_of = lambda device: 77
fake = ctypes.CDLL(LIBRARY)
H100 = (9, 0, 232448)
ROOT = Path(acme.__file__).parent
MANIFEST = json.loads((ROOT / "manifest.json").read_text())
SIZES = {"i32": 4, "fp32": 4, "i64": 8}


fake.fake_record.restype = ctypes.POINTER(Record)


def parameter_sizes(entry):
    out = []
    for type_ in entry["parameters"]:
        if type_.startswith("tensordesc"):
            rank = type_.count(",") + 1
            out += [128, *[4] * rank, *[8] * rank]
        else:
            out.append(8 if type_.startswith("*") else SIZES[type_])
    return out


def tell_sizes(entry):
    """The forward that keeps rows has the same symbol as the one that does not."""
    sizes = parameter_sizes(entry)
    fake.fake_sizes(entry["symbol"].encode(), (ctypes.c_int * len(sizes))(*sizes), len(sizes))


def forward_kernel(found):
    program = found["specs"]["gemma2"]["variants"][0]["programs"]["forward"]["sm_90"]
    return found["kernels"][program["kernels"]["gemma2_forward"]]


for one in MANIFEST["kernels"].values():
    tell_sizes(one)
tell_sizes(forward_kernel(MANIFEST))


def streams(queries=300, keys=333):
    torch.manual_seed(0)
    shapes = ((2, queries, 4, 128), (2, keys, 2, 128), (2, keys, 2, 128))
    return [torch.randn(s).to(torch.bfloat16) for s in shapes]


def records(call):
    fake.fake_reset(*H100)
    result = call()
    found = [fake.fake_record(i).contents for i in range(fake.fake_launches())]
    return result, found


def names(found):
    return [r.name.decode() for r in found]


def refused(kind, word, call):
    fake.fake_reset(*H100)
    try:
        call()
    except kind as error:
        assert word in str(error), str(error)
        assert fake.fake_launches() == 0
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


def check_only_torch_is_there():
    acme.gemma2(*streams())
    assert not {"triton", "attngen", "numpy", "jinja2"} & set(sys.modules)
    for name in ("triton", "attngen"):
        try:
            __import__(name)
        except ImportError:
            continue
        raise AssertionError(f"{name} can be imported: the environment is not clean")


def check_launch_of_a_prefill():
    q, k, v = streams()
    out, (record,) = records(lambda: acme.gemma2(q, k, v))
    entry = forward_kernel(MANIFEST)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert record.name == b"gemma2_forward" and record.stream == 77
    assert list(record.block) == [entry["threads"], 1, 1] and record.shared == entry["shared"]
    assert record.grid[0] % (2 * 4) == 0 and list(record.grid[1:]) == [1, 1]
    data = bytes(record.data[: record.bytes])
    words = struct.unpack_from("<16Q", data)
    assert words[0] == q.data_ptr() and words[2] == 4
    assert list(words[3:7]) == [128, 300, 4, 2]  # innermost first
    assert list(words[7:10]) == [2 * s for s in (q.stride(1), q.stride(2), q.stride(0))]
    types = entry["parameters"]
    sizes = parameter_sizes(entry)
    count, end = types.count("i32"), sum(sizes)
    tail = struct.unpack(f"<{count}i", data[end - 4 * count : end])
    assert {2, 300, 333, 4} <= set(tail)  # group, lengths, heads
    pointer = struct.unpack("<Q", data[end - 4 * count - 8 : end - 4 * count])[0]
    assert pointer == out.data_ptr()


def check_few_queries_take_the_decode_kernels():
    q, k, v = streams(queries=2, keys=600)
    _, found = records(lambda: acme.gemma2(q, k, v))
    assert names(found) == ["gemma2_split", "gemma2_merge"]
    assert found[1].grid[0] == 2 * 4 * 2


def check_packed_sequences_decode_by_their_means():
    q = torch.randn(3, 4, 128).to(torch.bfloat16)
    k, v = (torch.randn(1000, 2, 128).to(torch.bfloat16) for _ in range(2))
    of_q, of_k = (torch.tensor(x, dtype=torch.int32) for x in ([0, 1, 3], [0, 400, 1000]))
    _, found = records(lambda: acme.varlen(q, k, v, of_q, of_k))
    assert names(found) == ["varlen_split", "varlen_merge"]
    assert found[1].count == 1  # launched while its predecessor ends
    of_k[1], k, v = 40, k[:300].contiguous(), v[:300].contiguous()
    of_k[2] = 300
    _, found = records(lambda: acme.varlen(q, k, v, of_q, of_k))
    assert names(found) == ["varlen_forward"]


def check_gradients_launch_the_backward():
    leaves = [x.requires_grad_() for x in streams()]
    out, found = records(lambda: acme.gemma2(*leaves))
    assert names(found) == ["gemma2_forward"] and out.requires_grad
    _, found = records(lambda: out.sum().backward())
    assert len(found) == 3 and all(n.startswith("gemma2_backward") for n in names(found))
    assert all(x.grad.shape == x.shape for x in leaves)
    with torch.no_grad():
        assert not acme.gemma2(*leaves).requires_grad


def check_several_results_are_a_tuple():
    x = torch.randn(100, 128).to(torch.bfloat16)
    norm = torch.randn(100)
    results, found = records(lambda: acme.knn(x, x, norm, norm))
    assert [r.dtype for r in results] == [torch.float32, torch.int64]
    assert names(found)[0].startswith("knn")


def check_operator():
    q, k, v = streams()
    operator = torch.ops.acme_kernels.gemma2
    out, found = records(lambda: operator(q, k, v))
    assert names(found) == ["gemma2_forward"] and out.shape == q.shape
    assert str(operator.default._schema).endswith("(Tensor q, Tensor k, Tensor v) -> Tensor")


def check_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        made = [mode.from_tensor(x) for x in streams()]
        assert acme.gemma2(*made).shape == (2, 300, 4, 128)


def check_compiled_in_one_graph():
    compiled = torch.compile(
        lambda q, k, v: acme.gemma2(q * 1, k, v) + 1, fullgraph=True, backend="aot_eager"
    )
    leaves = [x.requires_grad_() for x in streams()]
    out, found = records(lambda: compiled(*leaves))
    assert names(found) == ["gemma2_forward"]
    _, found = records(lambda: out.sum().backward())
    assert len(found) == 3


def check_exported():
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return acme.gemma2(q, k, v)

    q, k, v = streams()
    length = torch.export.Dim("length", min=32, max=4096)
    program = torch.export.export(Model(), (q, k, v), dynamic_shapes=({1: length}, None, None))
    assert "acme_kernels.gemma2" in str(program.graph)
    out, found = records(lambda: program.module()(q[:, :100].contiguous(), k, v))
    assert out.shape == (2, 100, 4, 128) and names(found) == ["gemma2_forward"]


def check_descriptors_are_made_once_per_address():
    q, k, v = streams(queries=40)
    acme.gemma2(q, k, v)
    fake.fake_reset(*H100)
    acme.gemma2(q, k, v)
    assert fake.fake_encodes() == 0 and fake.fake_launches() == 1
    acme.gemma2(q.clone(), k, v)
    assert fake.fake_encodes() == 1


def check_odd_addresses_and_strides_are_copied():
    q, k, v = streams()
    store = torch.zeros(q.numel() + 1, dtype=q.dtype)
    odd = store[1:].view(q.shape)
    wide = torch.zeros(2, 333, 2, 256, dtype=k.dtype)[..., ::2]
    _, (record,) = records(lambda: acme.gemma2(odd, wide, v))
    address = struct.unpack_from("<Q", bytes(record.data[:8]))[0]
    assert address % 16 == 0 and address != odd.data_ptr()
    _, (record,) = records(
        lambda: acme.gemma2(q.transpose(1, 2).contiguous().transpose(1, 2), k, v)
    )
    assert struct.unpack_from("<16Q", bytes(record.data[:128]))[7] == 2 * 128


def check_mistakes():
    q, k, v = streams()
    for wrong, word in (
        ((q, k.half(), v), "k is float16, but q is bfloat16"),
        ((q.float(), k.float(), v.float()), "has no kernel for f32 D=128; it has bf16 D=128"),
        ((q.double(), k, v), "wrong dtype"),
        ((q, k[..., :64], v), "D is 64"),
        ((q, k, v[:, :5]), "Skv is 5"),
        ((q[:, :, :3], k, v), "do not divide"),
        ((q[0], k, v), "q has 3 axes"),
        ((q.to_sparse(), k, v), "no dense tensor"),
        ((q.to(torch.complex64), k, v), "no dense tensor"),
        ((q, k[:, :0], v[:, :0]), "no keys"),
        ((q, None, v), "k is no tensor"),
        ((q[:, :7], k.to("meta"), v), "k is on meta"),
    ):
        refused(acme.ArgumentError, word, lambda w=wrong: acme.gemma2(*w))
    refused(TypeError, "v", lambda: acme.gemma2(q, k))


def check_sequence_boundaries():
    q, k, v = (torch.randn(60, h, 128).to(torch.bfloat16) for h in (4, 2, 2))
    right, wrong = (torch.tensor(x, dtype=torch.int32) for x in ([0, 20, 60], [0, 70, 60]))
    _, found = records(lambda: acme.varlen(q, k, v, right, right))
    assert names(found) == ["varlen_forward"]
    refused(
        acme.ArgumentError,
        "first token of each sequence",
        lambda: acme.varlen(q[:50], k[:50], v[:50], wrong[:2], wrong[:2]),
    )


def check_an_empty_batch():
    q, k, v = (x[:0] for x in streams())
    out, found = records(lambda: acme.gemma2(q, k, v))
    assert out.shape == (0, 300, 4, 128) and not found


def check_a_gpu_without_a_binary():
    def call():
        fake.fake_reset(8, 6, 101376)
        _, kernels = package.open_package(ROOT, "no_binary")
        kernels["gemma2"](*streams())

    said = refused(acme.NoBinaryError, "sm_86", call)
    assert "gemma2" in said and "sm_90" in said and "attngen package" in said


def check_too_little_shared_memory():
    def call():
        fake.fake_reset(9, 0, 16384)
        _, kernels = package.open_package(ROOT, "little_memory")
        kernels["gemma2"](*streams())

    refused(acme.NoBinaryError, "needs more shared memory", call)


def check_what_the_driver_refuses():
    q, k, v = streams()
    acme.gemma2(q, k, v)

    def call():
        fake.fake_fail(700)
        acme.gemma2(q, k, v)

    refused(acme.DriverError, "launching gemma2_forward: as the fake was told (error 700)", call)


def changed(change):
    """A copy of the package, changed; its kernels."""
    folder = Path(tempfile.mkdtemp()) / "copy"
    shutil.copytree(ROOT, folder)
    change(folder)
    return folder


def call_in(folder):
    _, kernels = package.open_package(folder, f"copy_{abs(hash(folder))}")
    return kernels["gemma2"](*streams())


def edit_manifest(folder, edit):
    found = json.loads((folder / "manifest.json").read_text())
    edit(found)
    (folder / "manifest.json").write_text(json.dumps(found))


def check_tampered_files():
    file = forward_kernel(MANIFEST)["file"]

    def flip(folder):
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)

    def cut(folder):
        (folder / file).write_bytes((folder / file).read_bytes()[:1000])

    for change, word in (
        (flip, "sha256 differs"),
        (cut, "sha256 differs"),
        (lambda folder: (folder / file).unlink(), "cannot read"),
        (lambda f: edit_manifest(f, lambda m: forward_kernel(m).update(file="../../x")), "leaves"),
        (
            lambda f: edit_manifest(f, lambda m: forward_kernel(m).update(file="/etc/hosts")),
            "leaves",
        ),
    ):
        folder = changed(change)
        refused(acme.DamagedError, word, lambda f=folder: call_in(f))
        assert fake.fake_loads() == 0
        shutil.rmtree(folder)


def check_a_damaged_manifest():
    def grid(found):
        program = found["specs"]["gemma2"]["variants"][0]["programs"]["forward"]["sm_90"]
        launch = next(s for s in program["host"] if s[0] == "launch")
        launch[2][0] = ["__import__", "os"]

    for edit, word in (
        (lambda m: m.update(schema=manifest.SCHEMA + 1), "this launcher reads up to"),
        (lambda m: m.pop("kernels"), "lacks kernels"),
        (lambda m: m.pop("schema"), "no schema number"),
        (grid, "'__import__'"),
    ):
        folder = changed(lambda f, e=edit: edit_manifest(f, e))
        refused(acme.SchemaError, word, lambda f=folder: call_in(f))
        shutil.rmtree(folder)
    folder = changed(lambda f: (f / "manifest.json").write_text("{"))
    refused(acme.SchemaError, "cannot be read", lambda: call_in(folder))


def check_threads():
    q, k, v = streams()
    wrong = []

    def work():
        for i in range(50):
            out = acme.gemma2(q[:, : 300 - i % 3].contiguous(), k, v)
            if out.shape[1] != 300 - i % 3:
                wrong.append(i)

    fake.fake_reset(*H100)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and fake.fake_launches() == 200


def check_stored_answers_can_be_read():
    from acme_kernels._launcher.answers import Answers, judge
    from acme_kernels._launcher.selfcheck import arguments as made

    for name, kernel in acme._kernels.items():
        answers = Answers.read(kernel.package.contents(MANIFEST["answers"][name]))
        for case in answers.cases:
            values = made(kernel, case, answers, "bf16", torch.device("cpu"))
            kernel.check(values)
            wanted = [answers.tensor(r) for r in case["results"]]
            assert all(w.numel() for w in wanted)
            zeros = torch.zeros(10000)
            assert judge(zeros, answers.tensor(case["results"][0]), "bf16")


if __name__ == "__main__":
    found = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found))
