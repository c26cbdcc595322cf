"""The fused decode step's Triton kernels: rounded to the network's dtype as in transformers, with float32 sums."""

import triton
import triton.language as tl


@triton.jit
def _wait(dependent: tl.constexpr):
    """Let the next kernel start, and wait until the previous kernels' results can be read."""
    if dependent:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _tile(starts, valid, first, k: tl.constexpr, columns: tl.constexpr):
    """Load the elements from `first` on of the weight rows at the pointers `starts`: (rows, columns)."""
    at = first + tl.arange(0, columns)
    mask = valid[:, None] & (at < k)[None, :]
    return tl.load(starts[:, None] + at[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _inverse_rms(x, epsilon, k: tl.constexpr, columns: tl.constexpr):
    squares = tl.zeros((columns,), tl.float32)
    for first in tl.static_range(0, k, columns):
        at = first + tl.arange(0, columns)
        values = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        squares += values * values
    return tl.rsqrt(tl.sum(squares) / k + epsilon)


@triton.jit
def _products(
    x, norm, epsilon, starts, valid,
    k: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Multiply the rows at `starts` by x, or by RMSNorm(x) where `norm` is a weight: float32 (rows,)."""
    # The next tile loads while this one is multiplied; the first one needs no result of the previous kernel.
    tile = _tile(starts, valid, 0, k, columns)
    _wait(dependent)
    if norm is not None:
        scale = _inverse_rms(x, epsilon, k, columns)
    total = tl.zeros(tile.shape, tl.float32)
    for first in tl.range(0, k, columns):
        following = _tile(starts, valid, first + columns, k, columns)
        at = first + tl.arange(0, columns)
        chunk = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        if norm is not None:
            weight = tl.load(norm + at, mask=at < k, other=0.0).to(tl.float32)
            rounded = (chunk * scale).to(x.dtype.element_ty).to(tl.float32)
            chunk = (rounded * weight).to(x.dtype.element_ty).to(tl.float32)
        total += tile.to(tl.float32) * chunk[None, :]
        tile = following
    return tl.sum(total, axis=1)


@triton.jit
def qkv_kernel(
    x, norm, epsilon, query, key, value, out, queries, keys, query_bias, key_bias, value_bias,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Norm, and the three projections in a row, each with a bias or none: out (queries + 2 keys,)."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    valid = row < queries + 2 * keys
    at = row.to(tl.int64) * k
    shared = tl.where(row < queries + keys, key + (at - queries * k), value + (at - (queries + keys) * k))
    starts = tl.where(row < queries, query + at, shared)
    result = _products(x, norm, epsilon, starts, valid, k, columns, dependent)
    if query_bias is not None:
        of_query = row < queries
        of_key = (row < queries + keys) & (row >= queries)
        of_value = valid & (row >= queries + keys)
        bias = tl.load(query_bias + row, mask=of_query, other=0.0).to(tl.float32)
        bias += tl.load(key_bias + row - queries, mask=of_key, other=0.0).to(tl.float32)
        bias += tl.load(value_bias + row - queries - keys, mask=of_value, other=0.0).to(tl.float32)
        result += bias
    tl.store(out + row, result.to(out.dtype.element_ty), mask=valid)


@triton.jit
def project_kernel(
    x, norm, epsilon, weight, out, n, residual: tl.constexpr,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Project x, or its norm where `norm` is a weight, into out (n,); add it to out if `residual`."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    starts = weight + row.to(tl.int64) * k
    result = _products(x, norm, epsilon, starts, row < n, k, columns, dependent).to(out.dtype.element_ty)
    if residual:
        before = tl.load(out + row, mask=row < n, other=0.0).to(tl.float32)
        result = (before + result.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + row, result, mask=row < n)


@triton.jit
def gate_up_kernel(
    x, norm, epsilon, gate, up, out, n,
    k: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Norm, and silu(gate) * up: out (n,). Rows of the two matrices alternate in a tile."""
    both = tl.arange(0, 2 * rows)
    row = tl.program_id(0) * rows + both // 2
    at = row.to(tl.int64) * k
    starts = tl.where(both % 2 == 0, gate + at, up + at)
    result = _products(x, norm, epsilon, starts, row < n, k, columns, dependent)
    gated, upped = tl.split(tl.reshape(result.to(out.dtype.element_ty).to(tl.float32), (rows, 2)))
    active = (gated / (1 + tl.exp(-gated))).to(out.dtype.element_ty).to(tl.float32)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    tl.store(out + row, (active * upped).to(out.dtype.element_ty), mask=row < n)


@triton.jit
def _rotation(position, inverse_frequencies, scale, dtype: tl.constexpr, dim: tl.constexpr):
    """Return the cosines and sines (dim,) of a position, rounded as in transformers."""
    angles = position.to(tl.float32) * tl.load(inverse_frequencies + tl.arange(0, dim) % (dim // 2)).to(tl.float32)
    cos = (tl.cos(angles) * scale).to(dtype).to(tl.float32)
    sin = (tl.sin(angles) * scale).to(dtype).to(tl.float32)
    return cos, sin


@triton.jit
def _rotate(vector, norm, epsilon, cos, sin, dim: tl.constexpr):
    """Rotate one head (dim,), or its norm where `norm` is a weight, as transformers: each product and sum rounded."""
    at = tl.arange(0, dim)
    opposite = (at + dim // 2) % dim
    straight = tl.load(vector + at).to(tl.float32)
    crossed = tl.load(vector + opposite).to(tl.float32)
    dtype = vector.dtype.element_ty
    if norm is not None:
        scale = tl.rsqrt(tl.sum(straight * straight) / dim + epsilon)
        straight = (straight * scale).to(dtype).to(tl.float32) * tl.load(norm + at).to(tl.float32)
        crossed = (crossed * scale).to(dtype).to(tl.float32) * tl.load(norm + opposite).to(tl.float32)
        straight, crossed = straight.to(dtype).to(tl.float32), crossed.to(dtype).to(tl.float32)
    crossed = tl.where(at < dim // 2, -crossed, crossed)
    return ((straight * cos).to(dtype).to(tl.float32) + (crossed * sin).to(dtype).to(tl.float32)).to(dtype)


@triton.jit
def _cached(held, first, position, block: tl.constexpr, dim: tl.constexpr):
    """Load one head's keys or values from token `first` on, before `position`: (block, dim)."""
    token, at = first + tl.arange(0, block), tl.arange(0, dim)
    return tl.load(held + token[:, None] * dim + at[None, :], mask=(token < position)[:, None], other=0.0)


@triton.jit
def _weigh(scores, values, maximum, total, weighted):
    """Add the values of one block of tokens to a softmax's numerator and denominator, scaled to the new maximum."""
    higher = tl.maximum(maximum, tl.max(scores))
    weights, shrink = tl.exp(scores - higher), tl.exp(maximum - higher)
    return higher, total * shrink + tl.sum(weights), weighted * shrink + tl.sum(weights[:, None] * values, axis=0)


@triton.jit
def attend_kernel(
    qkv, query_norm, key_norm, epsilon, keys, values, length, offset, inverse_frequencies, rope_scale, softmax_scale,
    maxima, sums, partial, heads, kv_heads, capacity,
    dim: tl.constexpr, splits: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Apply norms of heads, if any, and the rotary embedding; cache this token if it fits; attend to a share of all.

    The softmax's numerator is scaled to this program's own maximum: partial (heads, splits, dim).
    """
    head, split = tl.program_id(0), tl.program_id(1)
    position = tl.load(length).to(tl.int32)
    first = split * block
    if first > position:
        return
    dtype = qkv.dtype.element_ty
    at = tl.arange(0, dim)
    kv_head = head // (heads // kv_heads)
    keys += kv_head.to(tl.int64) * capacity * dim
    values += kv_head.to(tl.int64) * capacity * dim
    stored = tl.minimum(position, capacity)
    earlier_keys = _cached(keys, first, stored, block, dim)
    earlier_values = _cached(values, first, stored, block, dim)
    turns = position if offset is None else position + tl.load(offset).to(tl.int32)
    cos, sin = _rotation(turns, inverse_frequencies, rope_scale, dtype, dim)
    _wait(dependent)
    query = _rotate(qkv + head * dim, query_norm, epsilon, cos, sin, dim).to(tl.float32)
    key = _rotate(qkv + (heads + kv_head) * dim, key_norm, epsilon, cos, sin, dim)
    value = tl.load(qkv + (heads + kv_heads + kv_head) * dim + at)
    if (split == position // block % splits) & (head % (heads // kv_heads) == 0) & (position < capacity):
        tl.store(keys + position * dim + at, key)
        tl.store(values + position * dim + at, value)

    maximum, total = float("-inf"), 0.0
    weighted = tl.zeros((dim,), tl.float32)
    while first <= position:
        token = first + tl.arange(0, block)
        current = (token == position)[:, None]
        all_keys = tl.where(current, key[None, :], earlier_keys).to(tl.float32)
        all_values = tl.where(current, value[None, :], earlier_values).to(tl.float32)
        scores = tl.sum(all_keys * query[None, :], axis=1) * softmax_scale
        scores = tl.where(token <= position, scores, float("-inf"))
        maximum, total, weighted = _weigh(scores, all_values, maximum, total, weighted)
        first += splits * block
        earlier_keys = _cached(keys, first, stored, block, dim)
        earlier_values = _cached(values, first, stored, block, dim)
    tl.store(maxima + head * splits + split, maximum)
    tl.store(sums + head * splits + split, total)
    tl.store(partial + (head * splits + split) * dim + at, weighted)


@triton.jit
def combine_kernel(
    maxima, sums, partial, length, out,
    dim: tl.constexpr, splits: tl.constexpr, padded: tl.constexpr, block: tl.constexpr, dependent: tl.constexpr,
):  # fmt: skip
    """Combine the partial results of a head's programs, each scaled to its own maximum: out (heads, dim)."""
    head, split, at = tl.program_id(0), tl.arange(0, padded), tl.arange(0, dim)
    used = (split < splits) & (split * block <= tl.load(length))
    _wait(dependent)
    place = head * splits + split
    maximum = tl.load(maxima + place, mask=used, other=float("-inf"))
    share = tl.exp(maximum - tl.max(maximum))
    total = tl.sum(share * tl.load(sums + place, mask=used, other=0.0))
    weighted = tl.load(partial + place[:, None] * dim + at[None, :], mask=used[:, None], other=0.0)
    result = tl.sum(share[:, None] * weighted, axis=0) / total
    tl.store(out + head * dim + at, result.to(out.dtype.element_ty))
