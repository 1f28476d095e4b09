"""Triton kernel of `conv_pool` backward: the window of `conv_pool_window`, and one of gradients."""

import triton
import triton.language as tl

from fastvim_kernels.gpu.conv_pool_window import (
    convolve,
    copy,
    half_filter,
    load_before,
    load_raw,
    load_token,
    silu_and_slope_of_half,
    token_at,
    unpack,
    where,
    words_of,
)


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
    u0, slope0 = silu_and_slope_of_half(convolve(before, a, b, c, value), FAST)
    u1, slope1 = silu_and_slope_of_half(convolve(after, value, c, b, a), FAST)
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
    word, there = words_of(pid % blocks, channel, BLOCK, PACKED)
    first = pid // blocks % runs * run
    last = tl.minimum(first + run, length)
    limit = tl.minimum(last + 3, length)
    image = tl.cast(pid // blocks // runs, tl.int64)

    x += image * x_strides[0]
    dskipped += image * dout_strides[0]
    dx += image * dx_strides[0]
    dpooled += image * step_strides[0]
    places += image * step_strides[0]
    before = half_filter(weight, bias, 0, column, channel, live)
    after = half_filter(weight, bias, 1, column, channel, live)
    skip0 = tl.load(skip + column, mask=live, other=0.0)
    skip1 = tl.load(skip + channel + column, mask=live, other=0.0)
    dx_column = column * dx_strides[4]

    window = load_before(x, first, width, inner, x_strides, word, there, PACKED)
    douts = load_before(dskipped, first, width, inner, dout_strides, word, there, PACKED)
    x_at = token_at(first, width, inner, x_strides)
    dout_at = token_at(first, width, inner, dout_strides)
    chunk, dchunk = (), ()
    for k in tl.static_range(UNROLL):
        at = x_at + k * x_strides[3]
        chunk = chunk + (load_raw(x, at, first + k, limit, x_strides, word, there),)
        at = dout_at + k * dout_strides[3]
        dchunk = dchunk + (load_raw(dskipped, at, first + k, limit, dout_strides, word, there),)
    zero = tl.zeros([BLOCK], tl.float32)
    grads0 = (zero, zero, zero)
    grads1 = (zero, zero, zero)
    sums0 = _zeros(BLOCK)
    sums1 = _zeros(BLOCK)
    dx_at = token_at(first, width, inner, dx_strides)
    dx_back = dx_at  # of the token three before, which lies before the run
    step_at = token_at(first, width, inner, step_strides)
    step_back = token_at(first - 3, width, inner, step_strides)
    left = width - first % width  # tokens left in the line
    if not EACH:
        line0, place0 = _load_share(dpooled, places, step_at, column, live, scale, TIES)
        line1, place1 = _load_share(
            dpooled + opposite,
            places + opposite,
            step_back,
            column,
            where(live, first > 0),
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
            x_next = token_at(following, width, inner, x_strides)
            dout_next = token_at(following, width, inner, dout_strides)
            dx_next = token_at(following, width, inner, dx_strides)
            back_next = token_at(following - 3, width, inner, dx_strides)
            step_next = token_at(following, width, inner, step_strides)
            step_back_next = token_at(following - 3, width, inner, step_strides)

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
                        where(live, start + k >= 3), scale, TIES,
                    ),
                )  # fmt: skip
        elif fresh:
            line0, place0 = _load_share(dpooled, places, step_at, column, live, scale, TIES)

        ahead, dahead = (), ()
        for k in tl.static_range(UNROLL):
            token, later = start + k, following + k
            value, dout = unpack(chunk[k], PACKED), unpack(dchunk[k], PACKED)
            at = x_next + k * x_strides[3]
            ahead = ahead + (load_raw(x, at, later, limit, x_strides, word, there),)
            at = dout_next + k * dout_strides[3]
            dahead = dahead + (load_raw(dskipped, at, later, limit, dout_strides, word, there),)
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
                tl.store(dx + at + dx_column, dvalue, mask=where(live, mine))
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
            window, douts = copy(window), copy(douts)
        if not ALIGNED:
            grads0, grads1 = copy(grads0), copy(grads1)
        chunk, dchunk = ahead, dahead
        x_at, dout_at, dx_at, dx_back = x_next, dout_next, dx_next, back_next
        step_at, step_back = step_next, step_back_next

    if not EACH:  # noqa: SIM102
        if left == width:
            line0, place0 = _load_share(
                dpooled, places, step_at, column, where(live, last < length), scale, TIES
            )
    for k in tl.static_range(3):
        token = last + k
        mine = token - 3 >= first
        if ALIGNED:
            value, dout = unpack(chunk[k], PACKED), unpack(dchunk[k], PACKED)
            at, step = dx_back + k * dx_strides[3], step_at + k * step_strides[3]
            back = step_back + k * step_strides[3]
        else:
            exists = where(there, token < length)
            value = load_token(x, token, width, inner, x_strides, word, exists, PACKED)
            dout = load_token(dskipped, token, width, inner, dout_strides, word, exists, PACKED)
            at = token_at(token - 3, width, inner, dx_strides)
            step = token_at(token, width, inner, step_strides)
            back = token_at(token - 3, width, inner, step_strides)
        if EACH:
            line0, place0 = _load_share(
                dpooled, places, step, column, where(live, token < length), scale, TIES
            )
            line1, place1 = _load_share(
                dpooled + opposite, places + opposite, back, column,
                where(live, token >= 3), scale, TIES,
            )  # fmt: skip
        share0 = _part_of(line0, place0, token // beneath % pooled, TIES)
        share1 = _part_of(line1, place1, (token - 3) // beneath % pooled, TIES)
        # direction 0 has left the run, and its sums go no further
        dvalue, window, douts, grads0, grads1, _, sums1 = _retreat(
            value, dout, share0, share1,
            window, douts, grads0, grads1, sums0, sums1,
            before, after, skip0, skip1, mine, ALIGNED, FAST,
        )  # fmt: skip
        tl.store(dx + at + dx_column, dvalue, mask=where(live, mine))

    sums += tl.cast(pid // blocks, tl.int64) * 12 * channel + column
    for k in tl.static_range(4):
        tl.store(sums + k * channel, 0.5 * sums0[k], mask=live)
        tl.store(sums + (4 + k) * channel, 0.5 * sums1[k], mask=live)
    tl.store(sums + 8 * channel, 0.5 * sums0[4], mask=live)
    tl.store(sums + 9 * channel, 0.5 * sums1[4], mask=live)
    tl.store(sums + 10 * channel, sums0[5], mask=live)
    tl.store(sums + 11 * channel, sums1[5], mask=live)
