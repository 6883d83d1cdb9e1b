"""The compiled kernels give what torch's operations give, up to bfloat16's rounding."""

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.model.layers import Rotation, rotate
from streamward.model.native import library as native
from streamward.model.native.library import ADD, GATE, AttendPlan, Operand, RotatePlan, fits, kernels
from streamward.model.native_linear import NativeLinear, PackedActivations

library = kernels()
pytestmark = pytest.mark.skipif(library is None, reason="this machine builds or runs no native kernels")


def randn(*shape: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).bfloat16()


def plain_reader(size: int) -> NativeLinear:
    """A layer that reads activations as they are: they are packed for it as bfloat16."""
    assert library is not None
    return NativeLinear(torch.zeros(64, size, dtype=torch.bfloat16), library=library, is_int8=False)


class Packed:
    """What a kernel packs for a layer that reads bfloat16."""

    def __init__(self, num_rows: int, size: int) -> None:
        self.values = torch.full((size // 64, num_rows, 64), -1.0, dtype=torch.bfloat16)
        self.operand = Operand(self.values.data_ptr(), None, None)

    @property
    def rows(self) -> Tensor:
        return self.values.transpose(0, 1).flatten(1)


def assert_rounded(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of a bfloat16, which keeps eight bits."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=2**-7, atol=2**-8)


def norm_packed(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    assert library is not None
    reader, packed = plain_reader(x.shape[1]), Packed(*x.shape)
    library.streamward_norm_pack(
        ctypes.byref(reader.shape),
        x.data_ptr(),
        weight.data_ptr(),
        eps,
        ctypes.byref(packed.operand),
        len(x),
    )
    return packed.rows


@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize("size", [64, 576, 1024])
def test_sums_are_normalised(rows: int, size: int) -> None:
    assert library is not None
    x, weight = randn(rows, size).float() * 3, randn(size, seed=3)
    expected = F.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    out = torch.empty(rows, size, dtype=torch.bfloat16)
    library.streamward_norm(x.data_ptr(), weight.data_ptr(), 1e-5, out.data_ptr(), rows, size)
    assert_rounded(out, expected)
    assert torch.equal(norm_packed(x, weight, eps=1e-5), out)


def product(linear: NativeLinear, x: Tensor, out: Tensor, *, target: int) -> Tensor:
    """Pack and multiply; see linear.h for the targets."""
    assert library is not None
    packed = PackedActivations(len(x), linear.num_inputs)
    arguments = (ctypes.byref(linear.shape), x.data_ptr(), ctypes.byref(packed.operand))
    library.streamward_pack(*arguments, len(x))
    library.streamward_multiply(arguments[0], arguments[2], out.data_ptr(), len(x), target)
    return out


def test_products_are_added_to_what_is_there() -> None:
    assert library is not None
    weight, x, before = randn(64, 128), randn(5, 128, seed=2).float(), randn(5, 64, seed=3).float()
    out = product(NativeLinear(weight, library=library, is_int8=False), x, before.clone(), target=ADD)
    torch.testing.assert_close(out.double(), before + x.double() @ weight.double().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
def test_gates_are_smooth_up_to_the_largest_values(scale: float) -> None:
    assert library is not None
    weight, x = randn(2 * 96, 128), randn(7, 128, seed=2, scale=scale).float()
    linear = NativeLinear(weight, library=library, is_int8=False, is_gated=True)
    out = product(linear, x, torch.empty(7, 96), target=GATE)
    gate, up = (x.double() @ weight.double().T).chunk(2, dim=-1)
    torch.testing.assert_close(out.double(), F.silu(gate) * up, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_keys_and_queries_are_normalised_and_rotated_and_values_stored(has_norm: bool, head_dim: int) -> None:
    assert library is not None
    heads, kv_heads, rows, num_slots = 4, 2, 5, 11
    qkv = randn(rows, (heads + 2 * kv_heads) * head_dim).float()
    q_weight, k_weight = randn(head_dim, seed=2), randn(head_dim, seed=3)
    angles = torch.rand(20, head_dim // 2) * math.pi
    cosines, sines = angles.cos(), angles.sin()
    positions, slots = torch.tensor([3, 4, 19, 0, 7]), torch.tensor([10, 0, 5, 6, 2])
    q = torch.empty(rows, heads, head_dim, dtype=torch.bfloat16)
    keys, values = (torch.zeros(kv_heads, num_slots, head_dim, dtype=torch.bfloat16) for _ in range(2))
    sizes, tables = (heads, kv_heads, head_dim, num_slots, 1e-6), (cosines, sines, positions, slots)
    plan = RotatePlan(*sizes, *(table.data_ptr() for table in tables))
    norms = (q_weight.data_ptr(), k_weight.data_ptr()) if has_norm else (None, None)
    targets = (q.data_ptr(), keys.data_ptr(), values.data_ptr())
    library.streamward_rotate_store(ctypes.byref(plan), qkv.data_ptr(), *norms, *targets, rows)
    by_head = qkv.double().view(rows, -1, head_dim)
    q_expected, k_expected, v_expected = by_head.split((heads, kv_heads, kv_heads), dim=1)
    if has_norm:
        q_expected = F.rms_norm(q_expected, (head_dim,), q_weight.double(), 1e-6)
        k_expected = F.rms_norm(k_expected, (head_dim,), k_weight.double(), 1e-6)
    rotation = Rotation(cosines[positions].double().unsqueeze(1), sines[positions].double().unsqueeze(1))
    assert_rounded(q, rotate(q_expected, rotation))
    assert_rounded(keys[:, slots], rotate(k_expected, rotation).transpose(0, 1))
    assert torch.equal(values[:, slots], v_expected.transpose(0, 1).bfloat16())
    unused = [slot for slot in range(num_slots) if slot not in slots.tolist()]
    assert not keys[:, unused].any()


Stream = tuple[int, int]
"""New tokens of a stream, and its tokens with them."""


class Cache:
    """Random keys and values of some streams on scattered pages, and queries of their last tokens."""

    def __init__(
        self, streams: Sequence[Stream], *, heads: int, kv_heads: int, head_dim: int, page_tokens: int
    ) -> None:
        self.streams, self.page_tokens = streams, page_tokens
        counts = [-(-seen // page_tokens) for _, seen in streams]
        order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(4)).tolist()
        self.pages = [[order.pop() for _ in range(count)] for count in counts]
        num_slots = sum(counts) * page_tokens
        self.keys, self.values = (randn(kv_heads, num_slots, head_dim, seed=seed) for seed in (5, 6))
        self.q = randn(sum(new for new, _ in streams), heads, head_dim, seed=7, scale=3.0)

    def attend(self, *, max_tokens: int) -> Tensor:
        """Ask the kernel, every stream's chunk cut into items of so many tokens."""
        assert library is not None
        items: list[tuple[int, int, int, int]] = []
        table: list[int] = []
        row = 0
        for (new, seen), pages in zip(self.streams, self.pages, strict=True):
            for start in range(0, new, max_tokens):
                count = min(max_tokens, new - start)
                items.append((row + start, count, seen - new + start + count, len(table)))
            table += pages
            row += new
        item_array, page_array = np.array(items, dtype=np.int32), np.array(table, dtype=np.int32)
        reader, packed = plain_reader(self.q[0].numel()), Packed(len(self.q), self.q[0].numel())
        kv_heads, num_slots, head_dim = self.keys.shape
        sizes = (self.q.shape[1], kv_heads, head_dim, num_slots, self.page_tokens, len(items))
        plan = AttendPlan(*sizes, item_array.ctypes.data, page_array.ctypes.data)
        tensors = (tensor.data_ptr() for tensor in (self.q, self.keys, self.values))
        shape, operand = ctypes.byref(reader.shape), ctypes.byref(packed.operand)
        library.streamward_attend(ctypes.byref(plan), shape, *tensors, operand, len(self.q))
        return packed.rows.reshape(self.q.shape)

    def expected(self) -> Tensor:
        """Softmax over all that each token sees, in double precision."""
        out, row = [], 0
        for (new, seen), pages in zip(self.streams, self.pages, strict=True):
            slots = [page * self.page_tokens + offset for page in pages for offset in range(self.page_tokens)][:seen]
            k, v = self.keys[:, slots].double(), self.values[:, slots].double()
            group = self.q.shape[1] // len(k)
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            q = self.q[row : row + new].double().transpose(0, 1)
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
            hidden = torch.ones(new, seen, dtype=torch.bool).triu(seen - new + 1)
            out.append((scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1))
            row += new
        return torch.cat(out)


RAGGED: list[Stream] = [(1, 1), (1, 65), (3, 3), (4, 200), (16, 64), (2, 129), (21, 90)]


@pytest.mark.parametrize("page_tokens", [1, 7, 16, 64, 100])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (9, 3, 64), (2, 2, 128), (8, 1, 256)])
def test_ragged_streams_attend_as_softmax_does(heads: int, kv_heads: int, head_dim: int, page_tokens: int) -> None:
    cache = Cache(RAGGED, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_tokens=page_tokens)
    torch.testing.assert_close(
        cache.attend(max_tokens=64 * kv_heads // heads).double(), cache.expected(), rtol=0.02, atol=0.01
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("source", ["q", "keys", "values"])
def test_what_is_no_number_is_not_hidden_by_attention(source: str, bad: float) -> None:
    cache = Cache([(2, 100)], heads=2, kv_heads=1, head_dim=64, page_tokens=100)
    getattr(cache, source)[0, 0, 5] = bad
    assert not cache.attend(max_tokens=2)[0].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_not_hidden_between_projections(bad: float) -> None:
    assert library is not None
    x, weight = randn(2, 64).float(), randn(64, seed=2)
    x[1, 3] = bad
    normed = norm_packed(x, weight, eps=1e-6)
    assert normed[0].isfinite().all()
    assert not normed[1].isfinite().all()
    gates = NativeLinear(torch.eye(64).bfloat16(), library=library, is_int8=False, is_gated=True)
    gated = product(gates, x, torch.empty(2, 32), target=GATE)
    assert gated[0].isfinite().all()
    assert not gated[1].isfinite().all()


def test_what_else_is_in_the_batch_changes_no_bit() -> None:
    together = Cache(RAGGED, heads=4, kv_heads=2, head_dim=64, page_tokens=16)
    whole = together.attend(max_tokens=32)
    row = 0
    for stream, pages in zip(RAGGED, together.pages, strict=True):
        alone = Cache([stream], heads=4, kv_heads=2, head_dim=64, page_tokens=16)
        alone.pages, alone.keys, alone.values = [pages], together.keys, together.values
        alone.q = together.q[row : row + stream[0]]
        assert torch.equal(alone.attend(max_tokens=32), whole[row : row + stream[0]])
        row += stream[0]


def test_how_a_chunk_is_cut_changes_no_bit() -> None:
    cache = Cache([(40, 170)], heads=4, kv_heads=2, head_dim=64, page_tokens=16)
    assert torch.equal(cache.attend(max_tokens=32), cache.attend(max_tokens=1))


@pytest.mark.parametrize(
    ("head_dim", "group", "expected"),
    [(64, 3, True), (256, 64, True), (80, 3, False), (320, 3, False), (64, 65, False)],
)
def test_shapes_that_attention_cannot_take_are_told(head_dim: int, group: int, expected: bool) -> None:
    assert fits(head_dim=head_dim, group=group) is expected


def test_kernels_of_another_version_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(native._SIGNATURES, "streamward_of_tomorrow", ())
    assert native.kernels.__wrapped__() is None
    assert "install again" in caplog.text
