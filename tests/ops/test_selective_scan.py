"""selective_scan: every form against the loop, the loop against the explicit matrix."""

import os
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

from statefilm.ops import native as builder  # noqa: E402
from statefilm.ops import selective_scan  # noqa: E402
from statefilm.ops.selective_scan import BACKENDS, _refusal, native  # noqa: E402

LENGTHS = [1, 2, 63, 64, 65, 100, 257]
FORMS_AND_LENGTHS = [
    *((form, length) for form in ("chunked", "native") for length in LENGTHS),
    *(("triton", length) for length in (1, 2, 7, 8, 9, 25)),
]
DTYPES = [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)]
Inputs = dict[str, Tensor]
reference = partial(selective_scan, backend="reference")


def draw(
    length: int,
    dtype: torch.dtype = torch.float64,
    *,
    batch: int = 2,
    dim: int = 16,
    state: int = 3,
    seed: int = 0,
) -> Inputs:
    """Random inputs that `dtype` holds exactly, so that their rounding is no error of the op."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "u": normal(batch, length, dim),
        "dt": torch.exp(normal(batch, length, dim) - 1),
        "A": -torch.exp(normal(dim, state)),
        "B": normal(batch, length, state),
        "C": normal(batch, length, state),
        "D": normal(dim),
    }
    wide = torch.promote_types(dtype, torch.float32)
    return {n: t.to(wide if n in ("dt", "A") else dtype).double() for n, t in inputs.items()}


class Form:
    """A backend as an op on tensors of the CPU, and a length of a few chunks."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.device = DEVICE if backend == "triton" else "cpu"
        self.long = 25 if backend == "triton" else 200

    def __call__(self, u: Tensor, *others: Tensor, reverse: bool = False, **named) -> Tensor:
        tensors = [t.to(self.device) for t in (u, *others)]
        named = {n: t.to(self.device) for n, t in named.items()}
        y = selective_scan(*tensors, **named, reverse=reverse, backend=self.backend)
        return y.to(u.device)


@pytest.fixture(params=["chunked", "native", "triton"])
def form(request, monkeypatch, uninitialized_is_nan) -> Form:
    found = Form(request.param)
    if why := _refusal(found.backend, found.device, torch.float32, 16, 16, sparing=False):
        pytest.skip(f"the {found.backend} form {why}")
    if found.backend == "triton":
        from statefilm.ops.selective_scan import triton as kernels

        # Several blocks and chunks, and rows of one program, at what the interpreter can do.
        monkeypatch.setattr(kernels, "PROGRAMS", 2)
        monkeypatch.setattr(kernels, "BLOCK", 16)
        monkeypatch.setattr(kernels, "CHUNK", 8)
    return found


def by_matrix(u, dt, A, B, C, D=None) -> Tensor:
    """Every pair of a source and a later reader at once, the decay between them as one product."""
    length = u.shape[1]
    log = dt[..., None] * A
    between = [
        torch.stack([log[:, j + 1 : i + 1].sum(1) for j in range(length)], dim=1)
        for i in range(length)
    ]
    decay = torch.stack(between, dim=1).exp() * torch.ones(length, length).tril()[..., None, None]
    y = torch.einsum("bin,bijdn,bjn,bjd->bid", C, decay, B, dt * u)
    return y if D is None else y + D * u


@pytest.mark.parametrize("length", [1, 2, 20])
def test_the_reference_is_the_explicit_matrix(with_gradients, assert_close, length):
    inputs = draw(length)
    assert_close(with_gradients(reference, inputs), with_gradients(by_matrix, inputs), 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_reference_gradients_are_those_of_finite_differences(reverse):
    leaves = [t.requires_grad_() for t in draw(4, batch=1, dim=2, state=2).values()]
    assert torch.autograd.gradcheck(partial(reference, reverse=reverse), leaves)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_the_reference(
    with_gradients, assert_close, uninitialized_is_nan, length, reverse
):
    inputs = draw(length, dim=5)
    found = with_gradients(partial(selective_scan, backend="chunked", reverse=reverse), inputs)
    assert_close(found, with_gradients(partial(reference, reverse=reverse), inputs), 1e-10)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize(("form", "length"), FORMS_AND_LENGTHS, indirect=["form"])
def test_forms_equal_the_reference(
    form, with_gradients, assert_close, length, dtype, bound, reverse
):
    inputs = draw(length, dtype)
    found = with_gradients(partial(form, reverse=reverse), inputs, dtype)
    assert found["output 0"].dtype == dtype
    assert_close(found, with_gradients(partial(reference, reverse=reverse), inputs), bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 1, "dim": 16, "state": 1},
        {"batch": 1, "dim": 48, "state": 16},
        {"batch": 5, "dim": 16, "state": 5},
        {"batch": 1, "dim": 272, "state": 2},
        {"batch": 1, "dim": 16, "state": 64},
        {"batch": 67, "dim": 16, "state": 2},
    ],
    ids=str,
)
def test_shapes(form, with_gradients, assert_close, shape, dtype, bound):
    if form.backend == "triton":
        shape = shape | {"batch": min(shape["batch"], 5)}
    inputs = draw(3 if form.backend == "triton" else 66, dtype, **shape)
    del inputs["D"]
    found = with_gradients(form, inputs, dtype)
    assert_close(found, with_gradients(reference, inputs), bound)


def test_strong_decay_and_tiny_steps(form, with_gradients, assert_close):
    for dtype, bound in DTYPES:
        inputs = draw(form.long, dtype, batch=1)
        inputs["A"][:8] = -1e4
        inputs["dt"][:, 3:20] = 100.0
        inputs["dt"][:, 20:50] = 2.0**-10
        inputs["dt"][:, 50::2] = 0.0
        found = with_gradients(form, inputs, dtype)
        assert_close(found, with_gradients(reference, inputs), bound)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_thousand_slow_steps_keep_their_memory(form, dtype, bound):
    """What the first token left is all there is to read, a thousand small decays later."""
    inputs = draw(100 if form.backend == "triton" else 1100, dtype, batch=1)
    inputs["u"][:, 1:] = 0.0
    inputs["dt"][:], inputs["A"][:] = 1e-3, -1.0
    inputs = {n: t.float().double() for n, t in inputs.items()}
    expected = reference(**inputs)[:, -50:]
    narrow = {n: t.to(torch.float32 if n in ("dt", "A") else dtype) for n, t in inputs.items()}
    found = form(**narrow)[:, -50:]
    assert expected.abs().max() > 1e-4
    assert (found.double() - expected).norm() <= bound * expected.norm()


@settings(max_examples=25)
@given(length=st.integers(1, 150), seed=st.integers(0, 1000))
def test_walking_back_is_walking_the_flipped_sequence(length, seed):
    inputs = draw(length, batch=1, dim=2, seed=seed)
    flipped = {n: t.flip(1) if t.dim() == 3 else t for n, t in inputs.items()}
    expected = selective_scan(**flipped).flip(1)
    torch.testing.assert_close(selective_scan(**inputs, reverse=True), expected, rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(length=st.integers(2, 150), data=st.data())
def test_a_token_reaches_itself_and_what_the_walk_meets_later(length, data):
    at, reverse = data.draw(st.integers(0, length - 1)), data.draw(st.booleans())
    inputs = draw(length, batch=1, dim=2)
    before = selective_scan(**inputs, reverse=reverse)
    inputs["u"][:, at] += 1.0
    changed = (selective_scan(**inputs, reverse=reverse) != before).any(-1)[0]
    later = torch.arange(length) <= at if reverse else torch.arange(length) >= at
    assert changed[at]
    assert not changed[~later].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_give_the_same_bits(form, dtype):
    parts = torch.randn(2, 20, 16 + 3 + 3 + 1, dtype=dtype).split([16, 3, 3, 1], dim=-1)
    dt = torch.rand(16, 20, 2).permute(2, 1, 0)
    views = [parts[0], dt, -torch.rand(3, 16).T, parts[1], parts[2].flip(0), torch.rand(16)]
    views[3] = views[3][:1].expand(2, -1, -1)

    def run(tensors: list[Tensor], dy: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = form(*leaves)
        return [y, *torch.autograd.grad(y, leaves, dy)]

    dy = torch.ones((), dtype=dtype).expand(2, 20, 16)
    expected = run([t.contiguous() for t in views], dy.contiguous())
    for found, same in zip(run(views, dy), expected, strict=True):
        assert torch.equal(found, same)


def test_results_are_bit_for_bit_reproducible(form, with_gradients):
    inputs = draw(form.long, torch.float32)
    runs = [with_gradients(form, inputs, torch.float32) for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_an_empty_batch_gives_an_empty_output(form, with_gradients):
    found = with_gradients(form, draw(5, batch=0), torch.float32)
    assert found["output 0"].shape == (0, 5, 16)
    assert found["A"].eq(0).all() and found["D"].eq(0).all()


def test_not_a_number_stays_in_its_channel(form):
    inputs = {n: t.float() for n, t in draw(form.long, torch.float32).items()}
    inputs["u"][0, 10, 3] = torch.nan
    unknown = form(**inputs).isnan()
    assert unknown[0, 10:, 3].all()
    assert unknown.sum() == form.long - 10


def test_the_ops_keep_the_promises_of_custom_ops(form):
    inputs = [t.float().to(form.device) for t in draw(5, torch.float32, batch=1).values()]
    ops = torch.ops.statefilm
    core = getattr(ops, f"selective_scan_{form.backend}")
    backward = getattr(ops, f"selective_scan_{form.backend}_backward")
    y, states = core(*inputs, True)
    torch.library.opcheck(backward, (y, states, *inputs, True))
    torch.library.opcheck(core, (*(t.requires_grad_() for t in inputs), True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(form, with_gradients, assert_close):
    inputs = draw(7 if form.backend == "triton" else 70)
    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    found = with_gradients(compiled, inputs, torch.float32)
    assert_close(found, with_gradients(form, inputs, torch.float32), 1e-6)


def test_three_lengths_compile_twice():
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(selective_scan, fullgraph=True, backend=counter)
    for length in (65, 200, 700):
        inputs = draw(length)
        torch.testing.assert_close(compiled(**inputs), selective_scan(**inputs))
    assert counter.frame_count == 2


def test_no_state_of_each_token_is_ever_stored(monkeypatch):
    from statefilm.ops.selective_scan import chunked

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
            self.entries = max(self.entries, *sizes, 0)
            return out

    inputs = {n: t.requires_grad_() for n, t in draw(256, batch=4, state=16).items()}
    monkeypatch.setitem(chunked.ENTRIES, "cpu", 1)
    with Largest() as largest:
        selective_scan(**inputs, backend="chunked").sum().backward()
    assert largest.entries == inputs["u"].numel() == 4 * 256 * 16


def test_the_backward_remembers_inputs_and_states_between_chunks(form):
    kept = []
    inputs = {n: t.float().requires_grad_() for n, t in draw(form.long, torch.float32).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        form(**inputs)
    states = 3 * inputs["u"][:, 0].numel() * inputs["A"].shape[1]  # between four chunks
    assert sum(kept) <= sum(t.numel() for t in inputs.values()) + states


def test_flops_are_counted():
    with FlopCounterMode(display=False) as counted:
        selective_scan(**draw(7))
    assert counted.get_total_flops() == 6 * 2 * 7 * 16 * 3


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (2, 7, 16, 1)),
        ("u", (2, 0, 16)),
        ("dt", (2, 7, 15)),
        ("A", (16,)),
        ("A", (15, 3)),
        ("B", (2, 7, 4)),
        ("C", (2, 8, 3)),
        ("D", (2, 7, 16)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_one_line_that_names_it(name, shape):
    with pytest.raises(ValueError, match=f"selective_scan: {name} has shape") as error:
        selective_scan(**draw(7) | {name: torch.ones(shape)})
    assert "\n" not in str(error.value)
    assert str(shape) in str(error.value)


def test_auto_takes_what_can_do_it(monkeypatch):
    inputs = draw(70)
    chunked = partial(selective_scan, backend="chunked")
    assert torch.equal(selective_scan(**inputs), chunked(**inputs))
    inputs = {n: t.float() for n, t in inputs.items()}
    if not native.refusal("cpu", torch.float32, 16, 3):
        assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend="native"))
    monkeypatch.setenv(builder.SWITCH, "0")
    assert torch.equal(selective_scan(**inputs), chunked(**inputs))


@pytest.mark.parametrize(
    ("backend", "dtype", "change", "message"),
    [
        ("native", torch.float32, {}, "is off: switched off by STATEFILM_NATIVE=0"),
        ("native", torch.float64, {}, "does not take torch.float64; valid: float32, bfloat16"),
        ("native", torch.float32, {"dim": 17}, "does not take dim 17 with state 3; valid: dim a"),
        ("native", torch.float32, {"state": 65}, "valid: .*state 1 to 64"),
        ("triton", torch.float64, {}, "does not take torch.float64|needs the package triton"),
        ("triton", torch.float32, {"state": 129}, "state 129; valid: 1 to 128|needs the package"),
    ],
)
def test_a_backend_that_cannot_do_it_says_why_in_one_line(
    monkeypatch, backend, dtype, change, message
):
    monkeypatch.setenv(builder.SWITCH, "0")
    inputs = {n: t.to(dtype) for n, t in draw(7, **change).items()}
    with pytest.raises(ValueError, match=f"the {backend} backend .*({message})") as error:
        selective_scan(**inputs, backend=backend)
    assert "\n" not in str(error.value)


def test_an_unknown_backend_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"'chunky'.*auto.*" + ".*".join(BACKENDS)):
        selective_scan(**draw(7), backend="chunky")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(with_gradients, dtype):
    if why := native.refusal("cpu", dtype, 48, 3):
        pytest.skip(f"the native form {why}")
    form, inputs = Form("native"), draw(70, dtype, batch=130, dim=48)
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(with_gradients(form, inputs, dtype))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in results[0].items())


@pytest.mark.skipif(DEVICE == "cpu", reason="too long for the interpreter")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_kernels_at_full_size(with_gradients, dtype, bound):
    inputs = draw(1000, dtype, batch=300, dim=80, state=16)
    expected = with_gradients(partial(selective_scan, backend="chunked"), inputs)
    for name, found in with_gradients(Form("triton"), inputs, dtype).items():
        assert (found - expected[name]).norm() <= bound * expected[name].norm(), name
