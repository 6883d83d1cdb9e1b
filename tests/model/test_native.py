"""The compiled kernels give what torch's operations give, up to bfloat16's rounding."""

import ctypes
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.model.layers import Rotation, rotate
from streamward.model.native import library as native
from streamward.model.native.library import (
    ADD,
    GATE,
    AttendPlan,
    CacheShape,
    Operand,
    RotatePlan,
    cache_token_bytes,
    is_supported,
    kernels,
)
from streamward.model.native_linear import NativeLinear, PackedActivations, hadamard_transform

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


def first_of_each(shape: CacheShape) -> Tensor:
    """Return a direction for each key head: its first value."""
    return torch.eye(shape.head_dim)[:1].repeat(shape.num_kv_heads, 1)


class Cache:
    """One layer's cache of tokens of some key heads, at first with bits that are no numbers."""

    def __init__(self, *, num_pages: int, page_tokens: int, kv_heads: int, head_dim: int, is_int8: bool) -> None:
        page_bytes = page_tokens * cache_token_bytes(num_kv_heads=kv_heads, head_dim=head_dim, is_int8=is_int8)
        self.bytes = torch.full((num_pages * page_bytes,), 0xFF, dtype=torch.uint8)
        self.shape = CacheShape(kv_heads, head_dim, page_tokens, page_bytes, is_int8)

    def store(
        self,
        qkv_THd: Tensor,
        *,
        slots: Tensor,
        angles_Tr: Tensor | None = None,
        norms: tuple[Tensor, Tensor] | None = None,
        usual_Kd: Tensor | None = None,
        directions_Kd: Tensor | None = None,
    ) -> Tensor:
        """Norm and rotate and store; return the queries. Without angles, rotated by none."""
        assert library is not None
        num_rows, _, head_dim = qkv_THd.shape
        num_heads = qkv_THd.shape[1] - 2 * self.shape.num_kv_heads
        angles = torch.zeros(num_rows, head_dim // 2) if angles_Tr is None else angles_Tr
        cosines, sines, positions = angles.cos(), angles.sin(), torch.arange(num_rows)
        tables = (table.data_ptr() for table in (cosines, sines, positions, slots))
        plan = RotatePlan(num_heads, 1e-6, self.shape, *tables)
        q_THd = torch.empty(num_rows, num_heads, head_dim, dtype=torch.bfloat16)
        weights = (None, None) if norms is None else (norm.data_ptr() for norm in norms)
        usual = None if usual_Kd is None else usual_Kd.data_ptr()
        self.directions_Kd = first_of_each(self.shape) if directions_Kd is None else directions_Kd
        targets = (usual, self.directions_Kd.data_ptr(), q_THd.data_ptr(), self.bytes.data_ptr())
        library.streamward_rotate_store(ctypes.byref(plan), qkv_THd.data_ptr(), *weights, *targets, num_rows)
        return q_THd

    def bfloat16_page(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of a cache of one page, [K, page_tokens, d]; see cache.h for the order."""
        shape = self.shape
        strips = self.bytes.view(torch.bfloat16).view(shape.num_kv_heads, 2, shape.page_tokens // 16, -1)
        keys = strips[:, 0].view(shape.num_kv_heads, -1, shape.head_dim // 2, 16, 2).transpose(2, 3)
        values = strips[:, 1].view(shape.num_kv_heads, -1, 8, shape.head_dim, 2).transpose(3, 4)
        return tuple(x.reshape(shape.num_kv_heads, -1, shape.head_dim) for x in (keys, values))  # type: ignore[return-value]


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_keys_and_queries_are_normalised_and_rotated_and_values_stored(has_norm: bool, head_dim: int) -> None:
    heads, kv_heads, rows = 4, 2, 5
    cache = Cache(num_pages=1, page_tokens=32, kv_heads=kv_heads, head_dim=head_dim, is_int8=False)
    qkv = randn(rows, heads + 2 * kv_heads, head_dim).float()
    norms = (randn(head_dim, seed=2), randn(head_dim, seed=3))
    angles, slots = torch.rand(rows, head_dim // 2) * math.pi, torch.tensor([31, 0, 5, 16, 2])
    q = cache.store(qkv, slots=slots, angles_Tr=angles, norms=norms if has_norm else None)
    q_expected, k_expected, v_expected = qkv.double().split((heads, kv_heads, kv_heads), dim=1)
    if has_norm:
        q_expected = F.rms_norm(q_expected, (head_dim,), norms[0].double(), 1e-6)
        k_expected = F.rms_norm(k_expected, (head_dim,), norms[1].double(), 1e-6)
    rotation = Rotation(angles.cos().double().unsqueeze(1), angles.sin().double().unsqueeze(1))
    keys, values = cache.bfloat16_page()
    assert_rounded(q, rotate(q_expected, rotation))
    assert_rounded(keys[:, slots], rotate(k_expected, rotation).transpose(0, 1))
    assert torch.equal(values[:, slots], v_expected.transpose(0, 1).bfloat16())
    unused = [slot for slot in range(32) if slot not in slots.tolist()]
    assert keys[:, unused].isnan().all()
    assert values[:, unused].isnan().all()


Stream = tuple[int, int]
"""New tokens of a stream, and its tokens with them."""


class Streams:
    """Random tokens of some streams on scattered pages, of each of which the last ones attend."""

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        page_tokens: int,
        is_int8: bool = False,
        bad: tuple[str, float] | None = None,
    ) -> None:
        """`bad` puts a number into the first query, key or value of the first stream's last token."""
        self.streams, self.counts = streams, (heads, kv_heads, kv_heads)
        self.qkv = randn(sum(seen for _, seen in streams), heads + 2 * kv_heads, head_dim, seed=5).float()
        self.qkv[:, :heads] *= 3
        if bad is not None:
            part = ("q", "keys", "values").index(bad[0])
            self.qkv[streams[0][1] - 1, sum(self.counts[:part]), 5] = bad[1]
        pages = [-(-seen // page_tokens) for _, seen in streams]
        order = torch.randperm(sum(pages), generator=torch.Generator().manual_seed(4)).tolist()
        self.pages = [[order.pop() for _ in range(count)] for count in pages]
        slots = [
            page * page_tokens + offset
            for (_, seen), own in zip(streams, self.pages, strict=True)
            for page, offset in itertools.islice(itertools.product(own, range(page_tokens)), seen)
        ]
        self.cache = Cache(
            num_pages=sum(pages), page_tokens=page_tokens, kv_heads=kv_heads, head_dim=head_dim, is_int8=is_int8
        )
        self.slots = torch.tensor(slots)
        self.q = self.cache.store(self.qkv, slots=self.slots)

    def rows_of(self, index: int) -> range:
        """Tokens of one stream among those of all."""
        first = sum(seen for _, seen in self.streams[:index])
        return range(first, first + self.streams[index][1])

    def attend(self, *, max_tokens: int, only: Sequence[int] | None = None) -> Tensor:
        """Ask the kernel about some streams, every chunk cut into items of so many tokens; [T, H, d]."""
        assert library is not None
        items: list[tuple[int, int, int, int]] = []
        table: list[int] = []
        queries: list[Tensor] = []
        row = 0
        for index in range(len(self.streams)) if only is None else only:
            new, seen = self.streams[index]
            for start in range(0, new, max_tokens):
                count = min(max_tokens, new - start)
                items.append((row + start, count, seen - new + start + count, len(table)))
            table += self.pages[index]
            queries.append(self.q[self.rows_of(index)[-new:]])
            row += new
        q = torch.cat(queries)
        item_array, page_array = np.array(items, dtype=np.int32), np.array(table, dtype=np.int32)
        reader, packed = plain_reader(q[0].numel()), Packed(len(q), q[0].numel())
        tables = (item_array.ctypes.data, page_array.ctypes.data)
        plan = AttendPlan(q.shape[1], len(items), self.cache.shape, *tables)
        targets = (q.data_ptr(), self.cache.directions_Kd.data_ptr(), self.cache.bytes.data_ptr())
        library.streamward_attend(
            ctypes.byref(plan), ctypes.byref(reader.shape), *targets, ctypes.byref(packed.operand), len(q)
        )
        return packed.rows.reshape(q.shape)

    def expected(self) -> Tensor:
        """Softmax over all that each token sees, in double precision."""
        out = []
        for index, (new, seen) in enumerate(self.streams):
            q, k, v = self.qkv[self.rows_of(index)].bfloat16().double().transpose(0, 1).split(self.counts)
            group = len(q) // len(k)
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            scores = q[:, seen - new :] @ k.transpose(1, 2) * q.shape[-1] ** -0.5
            hidden = torch.ones(new, seen, dtype=torch.bool).triu(seen - new + 1)
            out.append((scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1))
        return torch.cat(out)


RAGGED: list[Stream] = [(1, 1), (1, 65), (3, 3), (4, 200), (16, 64), (2, 129), (21, 90)]
both = pytest.mark.parametrize("is_int8", [False, True], ids=["bfloat16", "int8"])


@both
@pytest.mark.parametrize("page_tokens", [16, 64, 112])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (9, 3, 64), (2, 2, 128), (8, 1, 256)])
def test_ragged_streams_attend_as_softmax_does(
    heads: int, kv_heads: int, head_dim: int, page_tokens: int, is_int8: bool
) -> None:
    streams = Streams(
        RAGGED, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_tokens=page_tokens, is_int8=is_int8
    )
    actual = streams.attend(max_tokens=64 * kv_heads // heads).double()
    torch.testing.assert_close(actual, streams.expected(), rtol=0.02, atol=0.08 if is_int8 else 0.01)


@both
def test_long_contexts_attend_as_softmax_does(is_int8: bool) -> None:
    streams = Streams([(3, 1000)], heads=2, kv_heads=1, head_dim=64, page_tokens=64, is_int8=is_int8)
    error = streams.attend(max_tokens=32).double() - streams.expected()
    assert error.square().mean().sqrt() < (0.008 if is_int8 else 0.001)


def test_one_large_value_of_a_key_does_not_spoil_the_rest() -> None:
    """As small models have them in some channels: without rotation the others would be rounded to nothing."""
    streams = Streams([(1, 200)], heads=1, kv_heads=1, head_dim=64, page_tokens=64, is_int8=True)
    streams.qkv[:, 1, 7] = 60.0  # the same in every key, so that no weight changes
    streams.q = streams.cache.store(streams.qkv, slots=streams.slots)
    torch.testing.assert_close(streams.attend(max_tokens=1).double(), streams.expected(), rtol=0.02, atol=0.1)


@both
def test_what_all_keys_have_in_common_is_left_out_of_what_is_rounded(is_int8: bool) -> None:
    usual_Kd = 20 * randn(2, 64, seed=8).float()
    errors = []
    for given in (None, usual_Kd):
        streams = Streams([(4, 300)], heads=4, kv_heads=2, head_dim=64, page_tokens=64, is_int8=is_int8)
        expected = streams.expected()
        streams.qkv[:, 4:6] += usual_Kd
        streams.q = streams.cache.store(streams.qkv, slots=streams.slots, usual_Kd=given)
        errors.append(float((streams.attend(max_tokens=4).double() - expected).square().mean().sqrt()))
    assert errors[1] < errors[0] / 5


def test_what_lies_along_the_given_direction_is_not_rounded() -> None:
    direction_Kd = F.normalize(randn(2, 64, seed=8).float(), dim=-1)
    errors = []
    for given in (None, hadamard_transform(direction_Kd)):
        streams = Streams([(4, 300)], heads=4, kv_heads=2, head_dim=64, page_tokens=64, is_int8=True)
        streams.qkv[:, :4] += 40 * direction_Kd.repeat_interleave(2, dim=0)
        streams.q = streams.cache.store(streams.qkv, slots=streams.slots, directions_Kd=given)
        errors.append(float((streams.attend(max_tokens=4).double() - streams.expected()).square().mean().sqrt()))
    assert errors[1] < errors[0] / 2


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("source", ["q", "keys", "values"])
def test_what_is_no_number_is_not_hidden_by_attention(source: str, bad: float, is_int8: bool) -> None:
    shape = {"heads": 2, "kv_heads": 1, "head_dim": 64, "page_tokens": 112}
    streams = Streams([(2, 100), (2, 50)], **shape, is_int8=is_int8, bad=(source, bad))
    attended = streams.attend(max_tokens=2)
    assert not attended[1].isfinite().all()
    assert attended[2:].isfinite().all()  # the other stream


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


@both
def test_what_else_is_in_the_batch_changes_no_bit(is_int8: bool) -> None:
    streams = Streams(RAGGED, heads=4, kv_heads=2, head_dim=64, page_tokens=16, is_int8=is_int8)
    whole = streams.attend(max_tokens=32)
    alone = [streams.attend(max_tokens=32, only=[index]) for index in range(len(RAGGED))]
    assert torch.equal(torch.cat(alone), whole)


@both
def test_how_a_chunk_is_cut_changes_no_bit(is_int8: bool) -> None:
    streams = Streams([(40, 170)], heads=4, kv_heads=2, head_dim=64, page_tokens=16, is_int8=is_int8)
    assert torch.equal(streams.attend(max_tokens=32), streams.attend(max_tokens=1))


@pytest.mark.parametrize(
    ("head_dim", "group", "page_tokens", "expected"),
    [
        (64, 3, 64, True),
        (256, 64, 16, True),
        (80, 3, 64, False),
        (320, 3, 64, False),
        (64, 65, 64, False),
        (64, 3, 40, False),
    ],
)
def test_shapes_that_attention_cannot_take_are_told(
    head_dim: int, group: int, page_tokens: int, expected: bool
) -> None:
    assert is_supported(head_dim=head_dim, group=group, page_tokens=page_tokens) is expected


def test_kernels_of_another_version_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "_VERSION", native._VERSION + 1)
    assert native.kernels.__wrapped__() is None
    assert "install again" in caplog.text
