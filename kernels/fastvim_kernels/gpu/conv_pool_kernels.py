"""Triton kernels of `conv_pool`: a window of four tokens that slides along their order.

The window x[t-3] ... x[t] is what direction 0 needs at its last token, t, and direction 1 at its
first, t - 3: a token is loaded once for both, and the results of direction 1 come three tokens
after those of direction 0. A program owns a run of tokens of one image and a block of channels,
loads three more tokens on either side, and stores nothing but what the operation returns.

Tokens are numbered in the order of the grid. A line is the last axis of the grid, `width` tokens at
one stride; a tensor's strides are those of (batch, three axes, channel). Tokens are worked on in
chunks of UNROLL, and the next chunk is loaded while the current one is used. An ALIGNED run
consists of whole chunks of at least three tokens, lines of whole chunks, and rows (the tokens that
are pooled together) too, so that lines and rows end between chunks. Any other run has chunks of one
token and divides to find its place.

Half-precision tokens to be read are PACKED, seen as int32 words of two channels: a chunk waits in
half the registers, and nothing looks at it before its time. Each of its tokens is replaced by that
of the next chunk as soon as it is used.

Filters and biases are halved on loading: with h half the sum, SiLU is h + h tanh(h), a special
function and a multiply-add.

At the end of a loop, `_copy` makes real copies: Triton 3.6 compiles a loop whose tensors change
places (`a = b; b = c`) to code that is silently wrong on the card. There is no need where the loop
gives each of them a value that it has computed.
"""

import triton
import triton.language as tl

from fastvim_kernels.gpu.math import tanh

# what a forward kernel writes to `pooled`: every token, the rows' means, maxima or their places
EACH, MEAN = tl.constexpr(0), tl.constexpr(1)
MAX, PLACE = tl.constexpr(2), tl.constexpr(3)
# PACKED: how words of two channels are to be read; 0 where tokens are not packed
BF16, FP16 = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _where(live, condition):
    """Mask of channels, all false unless a scalar condition holds."""
    return (live & condition) != 0  # the interpreter takes a spread-out condition for an integer


@triton.jit
def _offset(token, width, inner, strides):
    """Offset of a token from the start of its image; `inner` is the size of the second axis."""
    token = tl.cast(token, tl.int32)
    line = token // width
    plane = line // inner
    return (
        plane.to(tl.int64) * strides[1]
        + (line - plane * inner).to(tl.int64) * strides[2]
        + (token - line * width).to(tl.int64) * strides[3]
    )


@triton.jit
def _half_filter(weight, bias, direction, column, channel, live):
    """Half of a direction's four taps and bias."""
    at = direction * channel + column
    a = 0.5 * tl.load(weight + at * 4, mask=live, other=0.0)
    b = 0.5 * tl.load(weight + at * 4 + 1, mask=live, other=0.0)
    c = 0.5 * tl.load(weight + at * 4 + 2, mask=live, other=0.0)
    d = 0.5 * tl.load(weight + at * 4 + 3, mask=live, other=0.0)
    return a, b, c, d, 0.5 * tl.load(bias + at, mask=live, other=0.0)


@triton.jit
def _convolve(taps, a, b, c, d):
    return taps[4] + taps[0] * a + taps[1] * b + taps[2] * c + taps[3] * d


@triton.jit
def _silu(half, FAST: tl.constexpr):
    """SiLU of twice the argument."""
    return half * tanh(half, FAST) + half


@triton.jit
def _silu_and_slope(half, FAST: tl.constexpr):
    """SiLU of twice the argument, and twice its derivative."""
    curve = tanh(half, FAST)
    silu = half * curve + half
    return silu, (silu - silu * curve) + (1.0 + curve)


@triton.jit
def _words(block, channel, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Return the words of a block of channels, and which of them exist."""
    SIZE: tl.constexpr = BLOCK // 2 if PACKED else BLOCK
    word = block * SIZE + tl.arange(0, SIZE)
    return word, word < (channel // 2 if PACKED else channel)


@triton.jit
def _unpack(raw, PACKED: tl.constexpr):
    """Channels in float32 from a token in its own dtype, or from words of two bf16 or fp16."""
    if PACKED == BF16:
        low = (raw << 16).to(tl.float32, bitcast=True)
        high = (raw & -65536).to(tl.float32, bitcast=True)
        value = tl.interleave(low, high)
    elif PACKED == FP16:
        low = raw.to(tl.int16).to(tl.float16, bitcast=True)
        high = (raw >> 16).to(tl.int16).to(tl.float16, bitcast=True)
        value = tl.interleave(low, high).to(tl.float32)
    else:
        value = raw.to(tl.float32)
    return value


@triton.jit
def _load_token(pointer, token, width, inner, strides, word, mask, PACKED: tl.constexpr):
    """Load a token wherever it lies, in float32; zero where the mask is false."""
    at = pointer + _offset(token, width, inner, strides)
    return _unpack(tl.load(at + word * strides[4], mask=mask, other=0), PACKED)


@triton.jit
def _load_before(pointer, first, width, inner, strides, word, live, PACKED: tl.constexpr):
    """Load the three tokens before a run; zero before the image."""
    tokens = ()
    for k in tl.static_range(3):
        token = first - 3 + k
        mask = _where(live, token >= 0)
        value = _load_token(pointer, token, width, inner, strides, word, mask, PACKED)
        tokens = tokens + (value,)
    return tokens


@triton.jit
def _load_raw(pointer, offset, token, limit, strides, word, live):
    """Load the token at an offset as it is; zero from the token `limit` on."""
    at = pointer + offset + word * strides[4]
    return tl.load(at, mask=_where(live, token < limit), other=0)


@triton.jit
def _copy(values):
    return values[0] + 0.0, values[1] + 0.0, values[2] + 0.0


@triton.jit
def _start(MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Return what a row is pooled into: the sum or maximum so far, and the maximum's place."""
    value = 0.0 if MODE == MEAN else -float("inf")
    return tl.full([BLOCK], value, tl.float32), tl.zeros([BLOCK], tl.int32)


@triton.jit
def _include(total, place, value, position, MODE: tl.constexpr):
    """Add a token to the row's result; of equal maxima the first keeps its place."""
    if MODE == MEAN:
        total += value
    elif MODE == MAX:
        total = tl.maximum(total, value)
    elif MODE == PLACE:
        place = tl.where(value > total, position, place)
        total = tl.maximum(total, value)
    return total, place


@triton.jit
def _include_in(
    totals, places, index: tl.constexpr, value, position, GROUP: tl.constexpr, MODE: tl.constexpr
):
    """Add a token to one of a group's results; `index` says to which."""
    more, where = (), ()
    for i in tl.static_range(GROUP):
        total, place = totals[i], places[i]
        if i == index:
            total, place = _include(total, place, value, position, MODE)
        more, where = more + (total,), where + (place,)
    return more, where


@triton.jit
def _start_group(GROUP: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the tuples of what GROUP tokens side by side are pooled into."""
    totals, places = (), ()
    for _ in tl.static_range(GROUP):
        total, place = _start(MODE, BLOCK)
        totals, places = totals + (total,), places + (place,)
    return totals, places


@triton.jit
def _finish(pooled, index, total, place, mask, channel, scale, MODE: tl.constexpr):
    at = pooled + tl.cast(index, tl.int64) * channel
    if MODE == PLACE:
        tl.store(at, place, mask=mask)
    else:
        tl.store(at, total * scale, mask=mask)


@triton.jit
def _close(
    pooled, index, totals, places, closes, stored, live, channel, scale,
    GROUP: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """At the end of a row, store its results and start the next."""
    if closes:
        mask = _where(live, stored)
        for j in tl.static_range(GROUP):
            _finish(pooled, index * GROUP + j, totals[j], places[j], mask, channel, scale, MODE)
        index += tl.cast(stored, tl.int32)
        totals, places = _start_group(GROUP, MODE, BLOCK)
    return index, totals, places


@triton.jit
def slide_forward(
    x, weight, bias, skip, pooled, skipped,
    channel, batch, length, row, width, inner, run, span, per_span, runs, count, scale,
    x_strides, out_strides,
    MODE: tl.constexpr, SPLIT: tl.constexpr, GROUP: tl.constexpr,
    UNROLL: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, PACKED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Convolve, pool each `row` of consecutive tokens and weight for the skip.

    With a GROUP above 1 a row consists of groups of that many tokens, one an ALIGNED chunk, and the
    tokens of a group are pooled apart: into as many results a row.

    Moves x and skipped once. 50 M elements take 46 us at 4.3 TB/s, about as long as the card's
    instruction issue: 8 multiply-adds of the filters, 4 of SiLU and special functions, 4 of skip
    and pooling, and 4 of conversion and addressing an element.

    A span (the image, or a row if SPLIT) is cut into `per_span` runs of `run` tokens. pooled is
    (2, batch, count, channel): rows, or runs if SPLIT, GROUP of each, or tokens if MODE is EACH.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channel, BLOCK)
    column = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    live = column < channel
    word, there = _words(pid % blocks, channel, BLOCK, PACKED)
    part = pid // blocks % runs
    image = tl.cast(pid // blocks // runs, tl.int64)
    first = part // per_span * span + part % per_span * run
    last = tl.minimum(first + run, (part // per_span + 1) * span)
    limit = tl.minimum(last + 3, length)

    x += image * x_strides[0]
    skipped += image * out_strides[0]
    pooled0 = pooled + image * count * channel + column
    pooled1 = pooled0 + tl.cast(batch, tl.int64) * count * channel
    before = _half_filter(weight, bias, 0, column, channel, live)
    after = _half_filter(weight, bias, 1, column, channel, live)
    skip0 = tl.load(skip + column, mask=live, other=0.0)
    skip1 = tl.load(skip + channel + column, mask=live, other=0.0)
    out_column = column * out_strides[4]

    a, b, c = _load_before(x, first, width, inner, x_strides, word, there, PACKED)
    x_at = _offset(first, width, inner, x_strides)
    chunk = ()
    for k in tl.static_range(UNROLL):
        at = x_at + k * x_strides[3]
        chunk = chunk + (_load_raw(x, at, first + k, limit, x_strides, word, there),)
    # u of direction 0 times its skip, at the last three tokens
    e = tl.zeros([BLOCK], tl.float32)
    f = tl.zeros([BLOCK], tl.float32)
    g = tl.zeros([BLOCK], tl.float32)
    totals0, places0 = _start_group(GROUP, MODE, BLOCK)
    totals1, places1 = _start_group(GROUP, MODE, BLOCK)
    index0 = part if SPLIT else first // row
    index1 = index0
    # an ALIGNED run's next chunk: its place in the row, and the tokens left in the line
    position = first % row
    left = width - first % width
    out_at = _offset(first, width, inner, out_strides)
    back_at = out_at  # of the token three before, which lies before the run

    for start in range(first, last, UNROLL):
        following = start + UNROLL
        row_starts = position == 0
        position_next = position + UNROLL
        if ALIGNED:
            position_next = tl.where(position_next == row, 0, position_next)
            x_next = x_at + UNROLL * x_strides[3]
            out_next = out_at + UNROLL * out_strides[3]
            back_next = out_next - 3 * out_strides[3]
            left -= UNROLL
            if left == 0:
                left = width
                x_next = _offset(following, width, inner, x_strides)
                out_next = _offset(following, width, inner, out_strides)
                back_next = _offset(following - 3, width, inner, out_strides)
        else:
            position_next = following % row
            x_next = _offset(following, width, inner, x_strides)
            out_next = out_at
            back_next = _offset(following - 3, width, inner, out_strides)
        row_ends = position_next == 0

        ahead = ()
        for k in tl.static_range(UNROLL):
            value = _unpack(chunk[k], PACKED)
            at = x_next + k * x_strides[3]
            ahead = ahead + (_load_raw(x, at, following + k, limit, x_strides, word, there),)
            u0 = _silu(_convolve(before, a, b, c, value), FAST)
            u1 = _silu(_convolve(after, value, c, b, a), FAST)
            at, mine = out_at + (k - 3) * out_strides[3], live
            if k < 3:
                at = back_at + k * out_strides[3]
                mine = _where(live, start + k - 3 >= first)
            if MODE != PLACE:
                tl.store(skipped + at + out_column, e + skip1 * u1, mask=mine)
            if MODE == EACH:
                token = tl.cast(start + k, tl.int64)
                tl.store(pooled0 + token * channel, u0, mask=live)
                tl.store(pooled1 + (token - 3) * channel, u1, mask=mine)
            else:
                here = (position + k) // GROUP
                totals0, places0 = _include_in(totals0, places0, k % GROUP, u0, here, GROUP, MODE)
                behind = (start + k - 3) % row // GROUP if MODE == PLACE else 0
                totals1, places1 = _include_in(
                    totals1, places1, (k + 3 * GROUP - 3) % GROUP, u1, behind, GROUP, MODE
                )
                if k == (2 if ALIGNED else 0):
                    end = start + k - 2
                    closes = row_starts if ALIGNED else end % row == 0
                    index1, totals1, places1 = _close(
                        pooled1, index1, totals1, places1, closes | (end == first), end > first,
                        live, channel, scale, GROUP, MODE, BLOCK,
                    )  # fmt: skip
                if k == UNROLL - 1:
                    index0, totals0, places0 = _close(
                        pooled0, index0, totals0, places0, row_ends | (following == last),
                        following > first,
                        live, channel, scale, GROUP, MODE, BLOCK,
                    )  # fmt: skip
            a, b, c = b, c, value
            e, f, g = f, g, skip0 * u0

        if not ALIGNED or not PACKED:
            a, b, c = _copy((a, b, c))
        if not ALIGNED:
            e, f, g = _copy((e, f, g))
        chunk = ahead
        x_at, out_at, back_at, position = x_next, out_next, back_next, position_next

    for k in tl.static_range(3):
        token = last + k
        if ALIGNED:
            value = _unpack(chunk[k], PACKED)
            at = back_at + k * out_strides[3]
        else:
            mask = _where(there, token < length)
            value = _load_token(x, token, width, inner, x_strides, word, mask, PACKED)
            at = _offset(token - 3, width, inner, out_strides)
        mine = token - 3 >= first
        u1 = _silu(_convolve(after, value, c, b, a), FAST)
        if MODE != PLACE:
            tl.store(skipped + at + out_column, e + skip1 * u1, mask=_where(live, mine))
        if MODE == EACH:
            tl.store(
                pooled1 + (tl.cast(token, tl.int64) - 3) * channel, u1, mask=_where(live, mine)
            )
        else:
            behind = (token - 3) % row // GROUP if MODE == PLACE else 0
            totals1, places1 = _include_in(
                totals1, places1, (k + 3 * GROUP - 3) % GROUP, u1, behind, GROUP, MODE
            )
            if k == 2 or not ALIGNED:
                end = token - 2
                closes = (end % row == 0) | (end == last) | (end == first)
                index1, totals1, places1 = _close(
                    pooled1, index1, totals1, places1, closes, end > first,
                    live, channel, scale, GROUP, MODE, BLOCK,
                )  # fmt: skip
        a, b, c = b, c, value
        e, f, g = f, g, e


@triton.jit
def segment_forward(
    x, weight, bias, skip, pooled, skipped,
    channel, batch, length, groups, group, width, inner, part, parts, scale,
    x_strides, out_strides,
    MODE: tl.constexpr, UNROLL: tl.constexpr, NEAR: tl.constexpr,
    BLOCK: tl.constexpr, PACKED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Convolve, pool `groups` groups of `group` consecutive tokens into one, weight for the skip.

    A program takes UNROLL tokens of `part` groups and pools each of them in registers; the six
    tokens around come from the cache. Moves x and skipped once; twice the loads and conversions of
    `slide_forward`. NEAR: a group lies on one line and a token's neighbours on the next group at
    most, so that a few divisions a group suffice.

    pooled is (2, batch, step above the groups, parts, group, channel).
    """
    pid = tl.program_id(0)
    blocks, segments = tl.cdiv(channel, BLOCK), tl.cdiv(group, UNROLL)
    rows = length // group // groups
    column = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    live = column < channel
    word, there = _words(pid % blocks, channel, BLOCK, PACKED)
    pid = pid // blocks
    low = pid % segments * UNROLL
    pid = pid // segments
    index = pid % (rows * parts)
    image = tl.cast(pid // (rows * parts), tl.int64)
    first = index // parts * groups + index % parts * part
    last = tl.minimum(first + part, (index // parts + 1) * groups)

    x += image * x_strides[0]
    skipped += image * out_strides[0]
    pooled0 = pooled + image * rows * parts * group * channel + column
    pooled1 = pooled0 + tl.cast(batch, tl.int64) * rows * parts * group * channel
    before = _half_filter(weight, bias, 0, column, channel, live)
    after = _half_filter(weight, bias, 1, column, channel, live)
    skip0 = tl.load(skip + column, mask=live, other=0.0)
    skip1 = tl.load(skip + channel + column, mask=live, other=0.0)
    out_column = column * out_strides[4]

    empty, nowhere = _start(MODE, BLOCK)
    totals0, totals1, places0, places1 = (), (), (), ()
    for _ in tl.static_range(UNROLL):
        totals0, totals1 = totals0 + (empty,), totals1 + (empty,)
        places0, places1 = places0 + (nowhere,), places1 + (nowhere,)

    for place in range(first, last):
        start = place * group
        here = _offset(start, width, inner, x_strides)
        previous = _offset(start - group, width, inner, x_strides)
        following = _offset(start + group, width, inner, x_strides)
        values = ()
        for k in tl.static_range(UNROLL + 6):
            token = start + low + k - 3
            if NEAR:
                on_line = low + k - 3
                at = here + on_line * x_strides[3]
                if k < 3:
                    at = tl.where(on_line < 0, previous + (on_line + group) * x_strides[3], at)
                else:
                    at = tl.where(on_line < group, at, following + (on_line - group) * x_strides[3])
            else:
                at = _offset(token, width, inner, x_strides)
            mask = _where(there, (token >= 0) & (token < length))
            values = values + (tl.load(x + at + word * x_strides[4], mask=mask, other=0),)
        out_at = _offset(start, width, inner, out_strides)
        more0, more1, where0, where1 = (), (), (), ()
        for k in tl.static_range(UNROLL):
            a = _unpack(values[k], PACKED)
            b = _unpack(values[k + 1], PACKED)
            c = _unpack(values[k + 2], PACKED)
            d = _unpack(values[k + 3], PACKED)
            e = _unpack(values[k + 4], PACKED)
            f = _unpack(values[k + 5], PACKED)
            g = _unpack(values[k + 6], PACKED)
            u0 = _silu(_convolve(before, a, b, c, d), FAST)
            u1 = _silu(_convolve(after, g, f, e, d), FAST)
            if MODE != PLACE:
                at = out_at + (low + k) * out_strides[3]
                if not NEAR:
                    at = _offset(start + low + k, width, inner, out_strides)
                out = skip0 * u0 + skip1 * u1
                tl.store(skipped + at + out_column, out, mask=_where(live, low + k < group))
            position = place % groups
            total0, place0 = _include(totals0[k], places0[k], u0, position, MODE)
            total1, place1 = _include(totals1[k], places1[k], u1, position, MODE)
            more0, more1 = more0 + (total0,), more1 + (total1,)
            where0, where1 = where0 + (place0,), where1 + (place1,)
        totals0, totals1, places0, places1 = more0, more1, where0, where1

    for k in tl.static_range(UNROLL):
        mask = _where(live, low + k < group)
        at = index * group + low + k
        _finish(pooled0, at, totals0[k], places0[k], mask, channel, scale, MODE)
        _finish(pooled1, at, totals1[k], places1[k], mask, channel, scale, MODE)


@triton.jit
def _load_share(dpooled, places, offset, column, mask, scale, TIES: tl.constexpr):
    """Load what a step's tokens get of its gradient, and the place of its maximum if TIES."""
    share = scale * tl.load(dpooled + offset + column, mask=mask, other=0.0).to(tl.float32)
    place = share
    if TIES:
        place = tl.load(places + offset + column, mask=mask, other=0)
    return share, place


@triton.jit
def _add(sums, gradient, a, b, c, d, dout, u):
    """Add a token to the sums of a direction: gradients of taps, bias and skip."""
    return (
        sums[0] + gradient * a,
        sums[1] + gradient * b,
        sums[2] + gradient * c,
        sums[3] + gradient * d,
        sums[4] + gradient,
        sums[5] + dout * u,
    )


@triton.jit
def _retreat(
    value, dout, share0, share1, window, douts, grads0, grads1, sums0, sums1,
    before, after, skip0, skip1, counts, COUNTED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Take in token t and its gradient; return the gradient of token t - 3.

    window, douts : of the last three tokens. grads0, grads1 : twice the gradients before SiLU of
    the last three tokens of direction 0, and of direction 1, three tokens behind. `counts`: whether
    token t - 3 adds to direction 1's sums; looked at if not COUNTED, in which case it does.
    """
    a, b, c = window
    u0, slope0 = _silu_and_slope(_convolve(before, a, b, c, value), FAST)
    u1, slope1 = _silu_and_slope(_convolve(after, value, c, b, a), FAST)
    dout1 = douts[0]
    grad0 = (dout * skip0 + share0) * slope0
    grad1 = (dout1 * skip1 + share1) * slope1
    # halved taps times doubled gradients
    dvalue = after[0] * grads1[0] + after[1] * grads1[1] + after[2] * grads1[2] + after[3] * grad1
    dvalue += before[3] * grads0[0]
    dvalue += before[2] * grads0[1]
    dvalue += before[1] * grads0[2]
    dvalue += before[0] * grad0
    sums0 = _add(sums0, grad0, a, b, c, value, dout, u0)
    if COUNTED:
        sums1 = _add(sums1, grad1, value, c, b, a, dout1, u1)
    else:
        counted = tl.where(counts, grad1, 0.0)
        sums1 = _add(sums1, counted, value, c, b, a, tl.where(counts, dout1, 0.0), u1)
    return (
        dvalue,
        (b, c, value),
        (douts[1], douts[2], dout),
        (grads0[1], grads0[2], grad0),
        (grads1[1], grads1[2], grad1),
        sums0,
        sums1,
    )


@triton.jit
def _zeros(BLOCK: tl.constexpr):
    zero = tl.zeros([BLOCK], tl.float32)
    return zero, zero, zero, zero, zero, zero


@triton.jit
def _part_of(share, place, position, TIES: tl.constexpr):
    """Return what a token gets of its step's gradient."""
    if TIES:
        return tl.where(place == position, share, 0.0)
    return share


@triton.jit
def slide_backward(
    dpooled, places, dskipped, x, weight, bias, skip, dx, sums,
    channel, length, width, inner, pooled, beneath, run, runs, scale, opposite,
    x_strides, dout_strides, dx_strides, step_strides,
    TIES: tl.constexpr, EACH: tl.constexpr, UNROLL: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, PACKED: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Gradients of tokens, and of parameters as sums over a run.

    Moves x, dskipped and dx once: 50 M elements take 70 us at 4.3 TB/s; about 50 instructions an
    element, 12 sums and 12 values of the windows in registers, so that occupancy is low and the
    chunk loaded ahead must hide the latency.

    A token's gradient needs those before SiLU of both directions at seven tokens: direction 0 at
    the token itself and three later ones, direction 1 at itself and three earlier ones. All of
    them pass by while the run and three more tokens are walked.

    dpooled : seen as one of the grid's tensors, whose pooled axes have stride 0; direction 1 lies
    `opposite` elements on. Without EACH the last axis is pooled, and its gradient is loaded once a
    line. With TIES (maxima) a step's gradient goes to the token whose place among the `pooled`
    ones is in `places`; the grid has `beneath` tokens inside the pooled axes.
    sums : (program of a channel block, 12, channel).
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(channel, BLOCK)
    column = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    live = column < channel
    word, there = _words(pid % blocks, channel, BLOCK, PACKED)
    first = pid // blocks % runs * run
    last = tl.minimum(first + run, length)
    limit = tl.minimum(last + 3, length)
    image = tl.cast(pid // blocks // runs, tl.int64)

    x += image * x_strides[0]
    dskipped += image * dout_strides[0]
    dx += image * dx_strides[0]
    dpooled += image * step_strides[0]
    places += image * step_strides[0]
    before = _half_filter(weight, bias, 0, column, channel, live)
    after = _half_filter(weight, bias, 1, column, channel, live)
    skip0 = tl.load(skip + column, mask=live, other=0.0)
    skip1 = tl.load(skip + channel + column, mask=live, other=0.0)
    dx_column = column * dx_strides[4]

    window = _load_before(x, first, width, inner, x_strides, word, there, PACKED)
    douts = _load_before(dskipped, first, width, inner, dout_strides, word, there, PACKED)
    x_at = _offset(first, width, inner, x_strides)
    dout_at = _offset(first, width, inner, dout_strides)
    chunk, dchunk = (), ()
    for k in tl.static_range(UNROLL):
        at = x_at + k * x_strides[3]
        chunk = chunk + (_load_raw(x, at, first + k, limit, x_strides, word, there),)
        at = dout_at + k * dout_strides[3]
        dchunk = dchunk + (_load_raw(dskipped, at, first + k, limit, dout_strides, word, there),)
    zero = tl.zeros([BLOCK], tl.float32)
    grads0 = (zero, zero, zero)
    grads1 = (zero, zero, zero)
    sums0 = _zeros(BLOCK)
    sums1 = _zeros(BLOCK)
    dx_at = _offset(first, width, inner, dx_strides)
    dx_back = dx_at  # of the token three before, which lies before the run
    step_at = _offset(first, width, inner, step_strides)
    step_back = _offset(first - 3, width, inner, step_strides)
    left = width - first % width  # tokens left in the line
    if not EACH:
        line0, place0 = _load_share(dpooled, places, step_at, column, live, scale, TIES)
        line1, place1 = _load_share(
            dpooled + opposite,
            places + opposite,
            step_back,
            column,
            _where(live, first > 0),
            scale,
            TIES,
        )

    for start in range(first, last, UNROLL):
        following = start + UNROLL
        fresh = left == width
        x_next = x_at + UNROLL * x_strides[3]
        dout_next = dout_at + UNROLL * dout_strides[3]
        dx_next = dx_at + UNROLL * dx_strides[3]
        back_next = dx_next - 3 * dx_strides[3]
        step_next = step_at + UNROLL * step_strides[3]
        step_back_next = step_next - 3 * step_strides[3]
        left -= UNROLL
        if not ALIGNED or left == 0:
            left = tl.where(left == 0, width, left)
            x_next = _offset(following, width, inner, x_strides)
            dout_next = _offset(following, width, inner, dout_strides)
            dx_next = _offset(following, width, inner, dx_strides)
            back_next = _offset(following - 3, width, inner, dx_strides)
            step_next = _offset(following, width, inner, step_strides)
            step_back_next = _offset(following - 3, width, inner, step_strides)

        if EACH:
            shares0, shares1 = (), ()
            for k in tl.static_range(UNROLL):
                if k < 3:
                    at = step_back + k * step_strides[3]
                else:
                    at = step_at + (k - 3) * step_strides[3]
                shares0 = shares0 + (
                    _load_share(
                        dpooled, places, step_at + k * step_strides[3], column, live, scale, TIES
                    ),
                )
                shares1 = shares1 + (
                    _load_share(
                        dpooled + opposite, places + opposite, at, column,
                        _where(live, start + k >= 3), scale, TIES,
                    ),
                )  # fmt: skip
        elif fresh:
            line0, place0 = _load_share(dpooled, places, step_at, column, live, scale, TIES)

        ahead, dahead = (), ()
        for k in tl.static_range(UNROLL):
            token, later = start + k, following + k
            value, dout = _unpack(chunk[k], PACKED), _unpack(dchunk[k], PACKED)
            at = x_next + k * x_strides[3]
            ahead = ahead + (_load_raw(x, at, later, limit, x_strides, word, there),)
            at = dout_next + k * dout_strides[3]
            dahead = dahead + (_load_raw(dskipped, at, later, limit, dout_strides, word, there),)
            if EACH:
                line0, place0 = shares0[k]
                line1, place1 = shares1[k]
            share0 = _part_of(line0, place0, token // beneath % pooled, TIES)
            share1 = _part_of(line1, place1, (token - 3) // beneath % pooled, TIES)
            mine = token - 3 >= first
            dvalue, window, douts, grads0, grads1, sums0, sums1 = _retreat(
                value, dout, share0, share1,
                window, douts, grads0, grads1, sums0, sums1,
                before, after, skip0, skip1, mine, ALIGNED, FAST,
            )  # fmt: skip
            if k < 3:
                at = dx_back + k * dx_strides[3]
                tl.store(dx + at + dx_column, dvalue, mask=_where(live, mine))
            else:
                at = dx_at + (k - 3) * dx_strides[3]
                tl.store(dx + at + dx_column, dvalue, mask=live)
            if ALIGNED and k == 2:
                if start == first:  # so far they are other programs' tokens
                    sums1 = _zeros(BLOCK)
                if not EACH:  # noqa: SIM102 - Triton decides this one while it compiles
                    if fresh:
                        line1, place1 = _load_share(
                            dpooled + opposite,
                            places + opposite,
                            step_at,
                            column,
                            live,
                            scale,
                            TIES,
                        )

        if not ALIGNED or not PACKED:
            window, douts = _copy(window), _copy(douts)
        if not ALIGNED:
            grads0, grads1 = _copy(grads0), _copy(grads1)
        chunk, dchunk = ahead, dahead
        x_at, dout_at, dx_at, dx_back = x_next, dout_next, dx_next, back_next
        step_at, step_back = step_next, step_back_next

    if not EACH:  # noqa: SIM102
        if left == width:
            line0, place0 = _load_share(
                dpooled, places, step_at, column, _where(live, last < length), scale, TIES
            )
    for k in tl.static_range(3):
        token = last + k
        mine = token - 3 >= first
        if ALIGNED:
            value, dout = _unpack(chunk[k], PACKED), _unpack(dchunk[k], PACKED)
            at, step = dx_back + k * dx_strides[3], step_at + k * step_strides[3]
            back = step_back + k * step_strides[3]
        else:
            exists = _where(there, token < length)
            value = _load_token(x, token, width, inner, x_strides, word, exists, PACKED)
            dout = _load_token(dskipped, token, width, inner, dout_strides, word, exists, PACKED)
            at = _offset(token - 3, width, inner, dx_strides)
            step = _offset(token, width, inner, step_strides)
            back = _offset(token - 3, width, inner, step_strides)
        if EACH:
            line0, place0 = _load_share(
                dpooled, places, step, column, _where(live, token < length), scale, TIES
            )
            line1, place1 = _load_share(
                dpooled + opposite, places + opposite, back, column,
                _where(live, token >= 3), scale, TIES,
            )  # fmt: skip
        share0 = _part_of(line0, place0, token // beneath % pooled, TIES)
        share1 = _part_of(line1, place1, (token - 3) // beneath % pooled, TIES)
        # direction 0 has left the run, and its sums go no further
        dvalue, window, douts, grads0, grads1, _, sums1 = _retreat(
            value, dout, share0, share1,
            window, douts, grads0, grads1, sums0, sums1,
            before, after, skip0, skip1, mine, ALIGNED, FAST,
        )  # fmt: skip
        tl.store(dx + at + dx_column, dvalue, mask=_where(live, mine))

    sums += tl.cast(pid // blocks, tl.int64) * 12 * channel + column
    for k in tl.static_range(4):
        tl.store(sums + k * channel, 0.5 * sums0[k], mask=live)
        tl.store(sums + (4 + k) * channel, 0.5 * sums1[k], mask=live)
    tl.store(sums + 8 * channel, 0.5 * sums0[4], mask=live)
    tl.store(sums + 9 * channel, 0.5 * sums1[4], mask=live)
    tl.store(sums + 10 * channel, sums0[5], mask=live)
    tl.store(sums + 11 * channel, sums1[5], mask=live)
