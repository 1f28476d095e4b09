"""Triton kernels of `conv_pool` forward, which pool as the window of `conv_pool_window` passes."""

import triton
import triton.language as tl

from fastvim_kernels.gpu.conv_pool_window import (
    convolve,
    copy,
    half_filter,
    load_before,
    load_raw,
    load_token,
    silu_of_half,
    token_at,
    unpack,
    where,
    words_of,
)

# what a kernel writes to `pooled`: every token, the rows' means, maxima or their places
EACH, MEAN = tl.constexpr(0), tl.constexpr(1)
MAX, PLACE = tl.constexpr(2), tl.constexpr(3)


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
        mask = where(live, stored)
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
    word, there = words_of(pid % blocks, channel, BLOCK, PACKED)
    part = pid // blocks % runs
    image = tl.cast(pid // blocks // runs, tl.int64)
    first = part // per_span * span + part % per_span * run
    last = tl.minimum(first + run, (part // per_span + 1) * span)
    limit = tl.minimum(last + 3, length)

    x += image * x_strides[0]
    skipped += image * out_strides[0]
    pooled0 = pooled + image * count * channel + column
    pooled1 = pooled0 + tl.cast(batch, tl.int64) * count * channel
    before = half_filter(weight, bias, 0, column, channel, live)
    after = half_filter(weight, bias, 1, column, channel, live)
    skip0 = tl.load(skip + column, mask=live, other=0.0)
    skip1 = tl.load(skip + channel + column, mask=live, other=0.0)
    out_column = column * out_strides[4]

    a, b, c = load_before(x, first, width, inner, x_strides, word, there, PACKED)
    x_at = token_at(first, width, inner, x_strides)
    chunk = ()
    for k in tl.static_range(UNROLL):
        at = x_at + k * x_strides[3]
        chunk = chunk + (load_raw(x, at, first + k, limit, x_strides, word, there),)
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
    out_at = token_at(first, width, inner, out_strides)
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
                x_next = token_at(following, width, inner, x_strides)
                out_next = token_at(following, width, inner, out_strides)
                back_next = token_at(following - 3, width, inner, out_strides)
        else:
            position_next = following % row
            x_next = token_at(following, width, inner, x_strides)
            out_next = out_at
            back_next = token_at(following - 3, width, inner, out_strides)
        row_ends = position_next == 0

        ahead = ()
        for k in tl.static_range(UNROLL):
            value = unpack(chunk[k], PACKED)
            at = x_next + k * x_strides[3]
            ahead = ahead + (load_raw(x, at, following + k, limit, x_strides, word, there),)
            u0 = silu_of_half(convolve(before, a, b, c, value), FAST)
            u1 = silu_of_half(convolve(after, value, c, b, a), FAST)
            at, mine = out_at + (k - 3) * out_strides[3], live
            if k < 3:
                at = back_at + k * out_strides[3]
                mine = where(live, start + k - 3 >= first)
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
            a, b, c = copy((a, b, c))
        if not ALIGNED:
            e, f, g = copy((e, f, g))
        chunk = ahead
        x_at, out_at, back_at, position = x_next, out_next, back_next, position_next

    for k in tl.static_range(3):
        token = last + k
        if ALIGNED:
            value = unpack(chunk[k], PACKED)
            at = back_at + k * out_strides[3]
        else:
            mask = where(there, token < length)
            value = load_token(x, token, width, inner, x_strides, word, mask, PACKED)
            at = token_at(token - 3, width, inner, out_strides)
        mine = token - 3 >= first
        u1 = silu_of_half(convolve(after, value, c, b, a), FAST)
        if MODE != PLACE:
            tl.store(skipped + at + out_column, e + skip1 * u1, mask=where(live, mine))
        if MODE == EACH:
            tl.store(pooled1 + (tl.cast(token, tl.int64) - 3) * channel, u1, mask=where(live, mine))
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
    word, there = words_of(pid % blocks, channel, BLOCK, PACKED)
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
    before = half_filter(weight, bias, 0, column, channel, live)
    after = half_filter(weight, bias, 1, column, channel, live)
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
        here = token_at(start, width, inner, x_strides)
        previous = token_at(start - group, width, inner, x_strides)
        following = token_at(start + group, width, inner, x_strides)
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
                at = token_at(token, width, inner, x_strides)
            mask = where(there, (token >= 0) & (token < length))
            values = values + (tl.load(x + at + word * x_strides[4], mask=mask, other=0),)
        out_at = token_at(start, width, inner, out_strides)
        more0, more1, where0, where1 = (), (), (), ()
        for k in tl.static_range(UNROLL):
            a = unpack(values[k], PACKED)
            b = unpack(values[k + 1], PACKED)
            c = unpack(values[k + 2], PACKED)
            d = unpack(values[k + 3], PACKED)
            e = unpack(values[k + 4], PACKED)
            f = unpack(values[k + 5], PACKED)
            g = unpack(values[k + 6], PACKED)
            u0 = silu_of_half(convolve(before, a, b, c, d), FAST)
            u1 = silu_of_half(convolve(after, g, f, e, d), FAST)
            if MODE != PLACE:
                at = out_at + (low + k) * out_strides[3]
                if not NEAR:
                    at = token_at(start + low + k, width, inner, out_strides)
                out = skip0 * u0 + skip1 * u1
                tl.store(skipped + at + out_column, out, mask=where(live, low + k < group))
            position = place % groups
            total0, place0 = _include(totals0[k], places0[k], u0, position, MODE)
            total1, place1 = _include(totals1[k], places1[k], u1, position, MODE)
            more0, more1 = more0 + (total0,), more1 + (total1,)
            where0, where1 = where0 + (place0,), where1 + (place1,)
        totals0, totals1, places0, places1 = more0, more1, where0, where1

    for k in tl.static_range(UNROLL):
        mask = where(live, low + k < group)
        at = index * group + low + k
        _finish(pooled0, at, totals0[k], places0[k], mask, channel, scale, MODE)
        _finish(pooled1, at, totals1[k], places1[k], mask, channel, scale, MODE)
