"""The laws of every scan: an exact inverse, each site once, errors, compilation, caching."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.scans import SCANS, get_scan, resolve

NAMES = st.one_of(st.sampled_from(SCANS), st.integers(0, 2**64).map(lambda seed: f"random:{seed}"))
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))


@given(NAMES, SIZES)
def test_inverse_is_exact_both_ways(name, sizes):
    t, h, w = sizes
    scan = get_scan(name, t, h, w)
    grid = torch.arange(2.0 * t * h * w * 3).reshape(2, t, h, w, 3)
    sequence = scan.apply(grid)
    assert sequence.shape == (2, t * h * w, 3)
    assert torch.equal(scan.invert(sequence), grid)
    assert torch.equal(scan.apply(scan.invert(grid.reshape(sequence.shape))).ravel(), grid.ravel())


@given(NAMES, SIZES)
def test_every_site_is_visited_once_where_positions_say(name, sizes):
    t, h, w = sizes
    scan = get_scan(name, t, h, w)
    grid = torch.arange(t * h * w).reshape(1, t, h, w, 1)
    visited = scan.apply(grid).flatten()
    frame, row, column = scan.positions.unbind(1)
    assert visited.sort().values.equal(grid.flatten())
    assert visited.equal((frame * h + row) * w + column)


@pytest.mark.parametrize("name", ["TV", "spiral"])
def test_gradient_is_the_inverse(name):
    scan = get_scan(name, 2, 3, 4)
    grid = torch.randn(2, 2, 3, 4, 5, requires_grad=True)
    upstream = torch.randn(2, 24, 5)
    scan.apply(grid).backward(upstream)
    assert torch.equal(grid.grad, scan.invert(upstream))


@pytest.mark.parametrize("alias", ["H", "HT", "V", "VT", "TH", "TV", "random"])
def test_aliases_resolve_to_the_canonical_scan(alias):
    assert resolve(resolve(alias)) == resolve(alias) != alias
    assert get_scan(alias, 2, 3, 4) == get_scan(resolve(alias), 2, 3, 4)


def test_seed_is_written_one_way():
    assert resolve("random:007") == "random:7"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hilbrt", "did you mean 'hilbert'?"),
        ("THW", "did you mean 'thw'?"),
        ("tv", "did you mean 'TV'?"),
        ("Spiral", "did you mean 'spiral'?"),
        ("random:-1", "did you mean 'random'?"),
        ("random:", "did you mean 'random'?"),
        ("random:\u0663", "did you mean 'random'?"),
        ("zigzag", "choose from H, HT"),
        ("", "choose from H, HT"),
    ],
)
def test_unknown_name_suggests_the_nearest(name, hint):
    with pytest.raises(ValueError, match=r"^unknown scan") as error:
        get_scan(name, 1, 2, 2)
    assert repr(name) in str(error.value)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_shapes_are_named():
    scan = get_scan("H", 2, 3, 4)
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 3, 5\), expected \[B, 2, 3, 4, D\]"):
        scan.apply(torch.zeros(1, 2, 4, 3, 5))
    with pytest.raises(ValueError, match=r"\(1, 23, 5\), expected \[B, 24, D\]"):
        scan.invert(torch.zeros(1, 23, 5))
    with pytest.raises(ValueError, match="2 x 0 x 4 is empty"):
        get_scan("H", 2, 0, 4)


def test_tables_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        get_scan("random:101", 1, 2, 3).apply(torch.zeros(1, 1, 2, 3, 1))
    grid = torch.randn(1, 1, 2, 3, 1, requires_grad=True)
    get_scan("random:101", 1, 2, 3).apply(grid).sum().backward()
    assert grid.grad.eq(1).all()


def test_shapes_on_the_meta_device_leave_no_trace():
    with torch.device("meta"):
        scan = get_scan("random:102", 2, 3, 4)
        assert scan.apply(torch.empty(1, 2, 3, 4, 5)).shape == (1, 24, 5)
    assert scan.positions.device.type == "cpu"
    grid = torch.randn(1, 2, 3, 4, 5)
    assert torch.equal(scan.invert(scan.apply(grid)), grid)


def test_tables_are_made_once_for_each_size():
    first, again, other = (get_scan("hilbert", 2, 3, w) for w in (4, 4, 5))
    assert first.positions is again.positions
    assert first.positions is not other.positions


def _round_trip(grid, name):
    scan = get_scan(name, *grid.shape[1:4], grid.device)
    sequence = scan.apply(grid)
    return sequence + scan.positions.sum(-1)[None, :, None], scan.invert(sequence * 2)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["TV", "hilbert", "random:7"])
def test_compiles_without_a_graph_break(name, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_round_trip, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for sizes in [(2, 3, 4), (2, 5, 4)]:
        grid = torch.randn(2, *sizes, 3)
        torch.testing.assert_close(compiled(grid, name), _round_trip(grid, name))


def test_exports_with_its_table():
    class RoundTrip(torch.nn.Module):
        def forward(self, grid):
            return _round_trip(grid, "random:103")

    grid = torch.randn(1, 2, 3, 4, 5)
    exported = torch.export.export(RoundTrip(), (grid,)).module()
    torch.testing.assert_close(exported(grid), _round_trip(grid, "random:103"))
