"""Triton kernels of the selective scan, its states in registers.

A warp walks the steps of a block of channels of one sequence, in either direction. What it loads
does not depend on the state, so the loads of several steps are issued before the first is used.

The states of a step lie in tiles (4, EL, NL): EL channels side by side, NL lanes of the warp for
each, four consecutive states in a thread, and as many tiles as make 16 states. A 16-byte load of
float32 states fixes that layout (Triton lays a tile out as its widest load wants it), and with it
sums over states are within a thread but for NL lanes, and the states of a step are 8-byte loads.

What bounds it, for each direction, step, channel and state: one exp2 forward and two backward, at
16 a clock and multiprocessor, and about as much time for issuing the other instructions, some 13
forward and 60 backward where a clock has 128 of them. The traffic, u and dt in and y out, takes a
third of that.
"""

import math

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))


@triton.jit
def _softplus(x):
    """Return softplus(x) and exp(-|x|), both 0 at minus infinity, which absent steps load."""
    e = tl.exp2(tl.abs(x) * -LOG2E)
    # log(1 + e) / e on [0, 1] to 2e-6, relative, where the library's logarithm forgets a small e
    log = 0.1492236703634262 + e * (-0.06640171259641647 + e * 0.014141020365059376)
    log = 0.3310944139957428 + e * (-0.23503842949867249 + e * log)
    log = 0.9999987483024597 + e * (-0.4998696446418762 + e * log)
    return tl.maximum(x, 0.0) + e * log, e


@triton.jit
def _mask(present, position, end, WHOLE: tl.constexpr):
    """Mask the channels of a step."""
    here = tl.zeros(present.shape, tl.int32) + position < end
    return here if WHOLE else here & present


@triton.jit
def _load_step(rows, n, position, end, TILES: tl.constexpr, ALIGN: tl.constexpr):
    """Load one step's B or C from a pointer to it, TILES of (4, 1, NL) float32, 0 past the end."""
    mask = tl.zeros(n.shape, tl.int32) + position < end
    tiles = ()
    for g in tl.static_range(TILES):
        at = rows + (n + g * 16 // TILES)
        at = tl.max_contiguous(tl.multiple_of(at, [ALIGN, ALIGN]), [4, 1])
        tiles += (tl.load(at, mask=mask, other=0.0).to(tl.float32)[:, None, :],)
    return tiles


@triton.jit
def _load_states(rows, e, n, mask, TILES: tl.constexpr):
    """Load TILES of (4, EL, NL) from (channel, state) in memory, 0 where masked."""
    tiles = ()
    for g in tl.static_range(TILES):
        at = (e * 16)[None, :, None] + n[:, None, :] + g * 16 // TILES
        tiles += (tl.load(rows + at, mask=mask[None, :, None], other=0.0),)
    return tiles


@triton.jit
def _store_states(rows, tiles, e, n, mask, TILES: tl.constexpr):
    for g in tl.static_range(TILES):
        at = (e * 16)[None, :, None] + n[:, None, :] + g * 16 // TILES
        tl.store(rows + at, tiles[g], mask=mask[None, :, None])


@triton.jit
def _load_rates(a_log, e, n, mask, TILES: tl.constexpr):
    """Load the rates for powers of two."""
    logs = _load_states(a_log, e, n, mask, TILES)
    rates = ()
    for g in tl.static_range(TILES):
        rates += (tl.exp2(logs[g] * LOG2E) * -LOG2E,)
    return rates


@triton.jit
def _load_blocks(
    a_log, dt_bias, direction, channels, e, n,
    EL: tl.constexpr, TILES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Load which channels of each block there are, their rates and their biases."""
    presents, rates, biases = (), (), ()
    for j in tl.static_range(BLOCKS):
        channel = e + j * EL
        present = channel < channels
        presents += (present,)
        rates += (_load_rates(a_log + direction * channels * 16, channel, n, present, TILES),)
        at_bias = dt_bias + direction * channels + channel
        biases += (tl.load(at_bias, mask=present, other=0.0),)
    return presents, rates, biases


@triton.jit
def _zeros(EL: tl.constexpr, NL: tl.constexpr, TILES: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(TILES):
        tiles += (tl.zeros([4, EL, NL], tl.float32),)
    return tiles


@triton.jit
def _advance(h, step, fed, rates, b, TILES: tl.constexpr):
    """Return the states after a step, and the decay factors."""
    after, decays = (), ()
    for g in tl.static_range(TILES):
        decay = tl.exp2(step[None, :, None] * rates[g])
        after += (decay * h[g] + fed[None, :, None] * b[g],)
        decays += (decay,)
    return after, decays


@triton.jit
def _place(blocks, batch):
    """Divide a program's index into channel block, direction, image and segment."""
    index = tl.program_id(0)
    block = index % blocks
    image = index // blocks % batch
    direction = index // blocks // batch % 2
    return block, direction, image, index // blocks // batch // 2


@triton.jit
def forward(
    u,
    dt,
    dt_bias,
    a_log,
    b,
    c,
    y,
    starts,
    begins,
    batch,
    steps,
    channels,
    segment_steps,
    b_direction,
    b_image,
    b_step,
    c_direction,
    c_image,
    c_step,
    EL: tl.constexpr,
    NL: tl.constexpr,
    TILES: tl.constexpr,
    BLOCKS: tl.constexpr,
    UNROLL: tl.constexpr,
    CHUNK: tl.constexpr,
    KEEP: tl.constexpr,
    DIVIDED: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Scan one segment, BLOCKS times EL channels at a time, whose B and C are loaded once.

    Writes y and the state before each chunk but the first. EVEN: UNROLL divides all chunks.
    """
    width: tl.constexpr = BLOCKS * EL
    block, direction, image, segment = _place(tl.cdiv(channels, width), batch)
    e = block * width + tl.arange(0, EL)  # of the first block
    n = tl.arange(0, NL)[None, :] * 4 + tl.arange(0, 4)[:, None]
    sequence = (direction * batch + image).to(tl.int64)
    # the scan's step p is step origin + sign * p in memory
    origin, sign = direction * (steps - 1), (1 - 2 * direction).to(tl.int64)
    b += direction.to(tl.int64) * b_direction + image.to(tl.int64) * b_image
    c += direction.to(tl.int64) * c_direction + image.to(tl.int64) * c_image
    first = segment * segment_steps
    last = tl.minimum(first + segment_steps, steps)
    presents, rates, biases = _load_blocks(
        a_log, dt_bias, direction, channels, e, n, EL, TILES, BLOCKS
    )
    h = ()
    for j in tl.static_range(BLOCKS):
        if DIVIDED:
            begin = begins + (sequence + segment * 2 * batch) * channels * 16
            h += (_load_states(begin, e + j * EL, n, presents[j], TILES),)
        else:
            h += (_zeros(EL, NL, TILES),)
    for i in range(tl.cdiv(last - first, CHUNK)):
        start = first + i * CHUNK
        if KEEP:
            kept = starts + (sequence + (start // CHUNK - 1) * 2 * batch) * channels * 16
            for j in tl.static_range(BLOCKS):
                stored = _mask(presents[j], 0, start, False)
                _store_states(kept, h[j], e + j * EL, n, stored, TILES)
        end = tl.minimum(start + CHUNK, last)
        for p0 in range(start, end, UNROLL):
            row = origin + sign * p0
            tokens = (sequence * steps + row) * channels
            us, dts, bs, cs = (), (), (), ()
            for k in tl.static_range(UNROLL):
                # steps past the end last no time
                position, limit = (0, 1) if EVEN else (p0 + k, end)
                at = tokens + k * sign * channels
                at_b, at_c = b + (row + k * sign) * b_step, c + (row + k * sign) * c_step
                bs += (_load_step(at_b, n, position, limit, TILES, ALIGN),)
                cs += (_load_step(at_c, n, position, limit, TILES, ALIGN),)
                for j in tl.static_range(BLOCKS):
                    at_u, at_dt = u + at, dt + at
                    mask = _mask(presents[j], position, limit, WHOLE)
                    us += (tl.load(at_u + e + j * EL, mask=mask, other=0.0),)
                    dts += (tl.load(at_dt + e + j * EL, mask=mask, other=float("-inf")),)
            for k in tl.static_range(UNROLL):
                position, limit = (0, 1) if EVEN else (p0 + k, end)
                at_y = y + tokens + k * sign * channels
                after = ()
                for j in tl.static_range(BLOCKS):
                    step, _ = _softplus(dts[k * BLOCKS + j].to(tl.float32) + biases[j])
                    fed = step * us[k * BLOCKS + j].to(tl.float32)
                    state, _ = _advance(h[j], step, fed, rates[j], bs[k], TILES)
                    out = state[0] * cs[k][0]
                    for g in tl.static_range(1, TILES):
                        out += state[g] * cs[k][g]
                    out = tl.sum(tl.sum(out, 0), 1)
                    mask = _mask(presents[j], position, limit, WHOLE)
                    tl.store(at_y + e + j * EL, out, mask=mask)
                    after += (state,)
                h = after


@triton.jit
def segment(
    v,
    dt,
    dt_bias,
    a_log,
    w,
    states,
    totals,
    batch,
    steps,
    channels,
    segment_steps,
    w_direction,
    w_image,
    w_step,
    EL: tl.constexpr,
    NL: tl.constexpr,
    TILES: tl.constexpr,
    UNROLL: tl.constexpr,
    REVERSE: tl.constexpr,
    WHOLE: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Scan one segment from zero, for its last state and its total of dt.

    Reversed it is the gradient's scan, from dy and C.
    """
    block, direction, image, segment = _place(tl.cdiv(channels, EL), batch)
    e = block * EL + tl.arange(0, EL)
    n = tl.arange(0, NL)[None, :] * 4 + tl.arange(0, 4)[:, None]
    present = e < channels
    sequence = (direction * batch + image).to(tl.int64)
    w += direction.to(tl.int64) * w_direction + image.to(tl.int64) * w_image
    rates = _load_rates(a_log + direction * channels * 16, e, n, present, TILES)
    bias = tl.load(dt_bias + direction * channels + e, mask=present, other=0.0)
    first = segment * segment_steps
    last = tl.minimum(first + segment_steps, steps)
    if REVERSE:
        origin, sign = last - 1, 2 * direction - 1
    else:
        origin, sign = first, 1 - 2 * direction
    origin = tl.where(direction == 0, origin, steps - 1 - origin).to(tl.int64)
    sign = sign.to(tl.int64)
    h = _zeros(EL, NL, TILES)
    total = tl.zeros([EL], tl.float32)
    for p0 in range(0, last - first, UNROLL):
        row = origin + sign * p0
        tokens = (sequence * steps + row) * channels
        vs, dts, ws = (), (), ()
        for k in tl.static_range(UNROLL):
            at, at_w = tokens + k * sign * channels, w + (row + k * sign) * w_step
            mask = _mask(present, p0 + k, last - first, WHOLE)
            vs += (tl.load(v + at + e, mask=mask, other=0.0),)
            dts += (tl.load(dt + at + e, mask=mask, other=float("-inf")),)
            ws += (_load_step(at_w, n, p0 + k, last - first, TILES, ALIGN),)
        for k in tl.static_range(UNROLL):
            step, _ = _softplus(dts[k].to(tl.float32) + bias)
            total += step
            if REVERSE:
                dh = ()
                for g in tl.static_range(TILES):
                    grown = h[g] + vs[k].to(tl.float32)[None, :, None] * ws[k][g]
                    dh += (tl.exp2(step[None, :, None] * rates[g]) * grown,)
                h = dh
            else:
                h, _ = _advance(h, step, step * vs[k].to(tl.float32), rates, ws[k], TILES)
    at = sequence + segment * 2 * batch
    _store_states(states + at * channels * 16, h, e, n, present, TILES)
    tl.store(totals + at * channels + e, total, mask=present)


@triton.jit
def combine(
    a_log,
    states,
    totals,
    batch,
    channels,
    segments,
    EL: tl.constexpr,
    NL: tl.constexpr,
    TILES: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Replace the states that segments end with from zero by those that they begin with."""
    block, direction, image, _ = _place(tl.cdiv(channels, EL), batch)
    e = block * EL + tl.arange(0, EL)
    n = tl.arange(0, NL)[None, :] * 4 + tl.arange(0, 4)[:, None]
    present = e < channels
    sequence = (direction * batch + image).to(tl.int64)
    rates = _load_rates(a_log + direction * channels * 16, e, n, present, TILES)
    h = _zeros(EL, NL, TILES)
    for i in range(segments):
        segment = segments - 1 - i if REVERSE else i
        at = sequence + segment * 2 * batch
        own = _load_states(states + at * channels * 16, e, n, present, TILES)
        total = tl.load(totals + at * channels + e, mask=present, other=0.0)
        _store_states(states + at * channels * 16, h, e, n, present, TILES)
        after = ()
        for g in tl.static_range(TILES):
            after += (tl.exp2(total[None, :, None] * rates[g]) * h[g] + own[g],)
        h = after


@triton.jit
def backward(
    dy,
    u,
    dt,
    dt_bias,
    a_log,
    b,
    c,
    starts,
    ends,
    states,
    du,
    ddt,
    dmaps,
    drates,
    batch,
    steps,
    channels,
    segment_steps,
    items,
    programs,
    slots,
    dy_direction,
    b_direction,
    b_image,
    b_step,
    c_direction,
    c_image,
    c_step,
    EL: tl.constexpr,
    NL: tl.constexpr,
    TILES: tl.constexpr,
    BLOCKS: tl.constexpr,
    UNROLL: tl.constexpr,
    CHUNK: tl.constexpr,
    DIVIDED: tl.constexpr,
    WHOLE: tl.constexpr,
    EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Walk back through segments of images, BLOCKS times EL channels at a time.

    The states of a chunk are scanned again from the stored one before it, and the state before
    every UNROLL steps is laid aside; those steps' own states and decay factors stay in registers.
    """
    index = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCKS * EL)
    block = index % blocks
    direction = index // blocks % 2
    program = index // blocks // 2
    n = tl.arange(0, NL)[None, :] * 4 + tl.arange(0, 4)[:, None]
    origin, sign = direction * (steps - 1), 1 - 2 * direction
    states += index.to(tl.int64) * slots * (BLOCKS * EL * 16)
    within = tl.arange(0, EL)
    everywhere = within >= 0
    e = block * BLOCKS * EL + within  # of the first block
    presents, rates, biases = _load_blocks(
        a_log, dt_bias, direction, channels, e, n, EL, TILES, BLOCKS
    )
    da, dbiases = (), ()
    for _j in tl.static_range(BLOCKS):
        da += (_zeros(EL, NL, TILES),)
        dbiases += (tl.zeros([EL], tl.float32),)

    for item in range(program, items, programs):
        image = item % batch
        segment = item // batch
        sequence = (direction * batch + image).to(tl.int64)
        of_b = b + direction.to(tl.int64) * b_direction + image.to(tl.int64) * b_image
        of_c = c + direction.to(tl.int64) * c_direction + image.to(tl.int64) * c_image
        of_dy = dy + direction.to(tl.int64) * dy_direction
        # what a sequence has fits 32 bits, and such offsets are added in one instruction
        of_dy += image.to(tl.int64) * steps * channels
        of_u, of_dt = u + sequence * steps * channels, dt + sequence * steps * channels
        of_du, of_ddt = du + sequence * steps * channels, ddt + sequence * steps * channels
        place = block * 4 * batch + sequence  # in a block first B, of both directions
        of_b_sums = dmaps + place * steps * 16
        of_c_sums = dmaps + (place + 2 * batch) * steps * 16
        first = segment * segment_steps
        last = tl.minimum(first + segment_steps, steps)
        carried = ()  # the gradient of the state, less what comes of this step's y
        for j in tl.static_range(BLOCKS):
            if DIVIDED:
                beyond = ends + (sequence + segment * 2 * batch) * channels * 16
                carried += (_load_states(beyond, e + j * EL, n, presents[j], TILES),)
            else:
                carried += (_zeros(EL, NL, TILES),)
        chunks = tl.cdiv(last - first, CHUNK)
        for i in range(chunks):
            start = first + (chunks - 1 - i) * CHUNK
            end = tl.minimum(start + CHUNK, last)
            h = ()
            for j in tl.static_range(BLOCKS):
                before = sequence + (start // CHUNK - 1) * 2 * batch
                at_start = starts + before * channels * 16
                stored = _mask(presents[j], 0, start, False)
                h += (_load_states(at_start, e + j * EL, n, stored, TILES),)
            parts = tl.cdiv(end - start, UNROLL)
            for part in range(parts - 1):
                row = origin + sign * (start + part * UNROLL)
                tokens = row * channels
                us, dts, bs = (), (), ()
                for k in tl.static_range(UNROLL):
                    at = tokens + k * sign * channels
                    at_b = of_b + (row + k * sign) * b_step
                    bs += (_load_step(at_b, n, 0, 1, TILES, ALIGN),)
                    for j in tl.static_range(BLOCKS):
                        at_u, at_dt = of_u + at, of_dt + at
                        mask = _mask(presents[j], 0, 1, WHOLE)
                        us += (tl.load(at_u + e + j * EL, mask=mask, other=0.0),)
                        dts += (tl.load(at_dt + e + j * EL, mask=mask, other=float("-inf")),)
                for j in tl.static_range(BLOCKS):
                    slot = states + (part * BLOCKS + j) * (EL * 16)
                    _store_states(slot, h[j], within, n, everywhere, TILES)
                for k in tl.static_range(UNROLL):
                    after = ()
                    for j in tl.static_range(BLOCKS):
                        raw = dts[k * BLOCKS + j].to(tl.float32) + biases[j]
                        step, _ = _softplus(raw)
                        fed = step * us[k * BLOCKS + j].to(tl.float32)
                        state, _ = _advance(h[j], step, fed, rates[j], bs[k], TILES)
                        after += (state,)
                    h = after
            for j in tl.static_range(BLOCKS):
                slot = states + ((parts - 1) * BLOCKS + j) * (EL * 16)
                _store_states(slot, h[j], within, n, everywhere, TILES)
            tl.debug_barrier()  # what is loaded next, other threads may have stored

            for back in range(parts):
                part = parts - 1 - back
                p0 = start + part * UNROLL
                row = origin + sign * p0
                tokens = row * channels
                us, dts, dys, bs, cs = (), (), (), (), ()
                for k in tl.static_range(UNROLL):
                    position, limit = (0, 1) if EVEN else (p0 + k, end)
                    at = tokens + k * sign * channels
                    at_b, at_c = of_b + (row + k * sign) * b_step, of_c + (row + k * sign) * c_step
                    bs += (_load_step(at_b, n, position, limit, TILES, ALIGN),)
                    cs += (_load_step(at_c, n, position, limit, TILES, ALIGN),)
                    for j in tl.static_range(BLOCKS):
                        at_u, at_dt, at_dy = of_u + at, of_dt + at, of_dy + at
                        mask = _mask(presents[j], position, limit, WHOLE)
                        us += (tl.load(at_u + e + j * EL, mask=mask, other=0.0),)
                        dts += (tl.load(at_dt + e + j * EL, mask=mask, other=float("-inf")),)
                        dys += (tl.load(at_dy + e + j * EL, mask=mask, other=0.0),)
                history, decays, inputs, dt_steps, slopes = (), (), (), (), ()
                for j in tl.static_range(BLOCKS):
                    slot = states + (part * BLOCKS + j) * (EL * 16)
                    history += (_load_states(slot, within, n, everywhere, TILES),)
                for k in tl.static_range(UNROLL):
                    for j in tl.static_range(BLOCKS):
                        raw = dts[k * BLOCKS + j].to(tl.float32) + biases[j]
                        step, small = _softplus(raw)
                        value = us[k * BLOCKS + j].to(tl.float32)
                        state, decay = _advance(
                            history[k * BLOCKS + j], step, step * value, rates[j], bs[k], TILES
                        )
                        history += (state,)
                        decays += (decay,)
                        inputs += (value,)
                        dt_steps += (step,)
                        slopes += (tl.where(raw >= 0, 1.0, small) / (1 + small),)
                for k in tl.static_range(UNROLL - 1, -1, -1):
                    position, limit = (0, 1) if EVEN else (p0 + k, end)
                    at = tokens + k * sign * channels
                    of_k_b = _zeros(EL, NL, TILES)
                    of_k_c = _zeros(EL, NL, TILES)
                    carried_on, da_on, dbiases_on = (), (), ()
                    for j in tl.static_range(BLOCKS):
                        value, step = inputs[k * BLOCKS + j], dt_steps[k * BLOCKS + j]
                        seed = dys[k * BLOCKS + j].to(tl.float32)[None, :, None]
                        fed = (step * value)[None, :, None]
                        dfed = tl.zeros([4, EL, NL], tl.float32)
                        dstep = tl.zeros([4, EL, NL], tl.float32)
                        lefts, das, dbs, dcs = (), (), (), ()
                        for g in tl.static_range(TILES):
                            dh = carried[j][g] + cs[k][g] * seed
                            dcs += (of_k_c[g] + seed * history[(k + 1) * BLOCKS + j][g],)
                            dbs += (of_k_b[g] + fed * dh,)
                            dfed += bs[k][g] * dh
                            left = decays[k * BLOCKS + j][g] * dh
                            exponent = left * history[k * BLOCKS + j][g]
                            dstep += exponent * rates[j][g]
                            das += (da[j][g] + step[None, :, None] * exponent,)
                            lefts += (left,)
                        of_k_b, of_k_c = dbs, dcs
                        carried_on += (lefts,)
                        da_on += (das,)
                        dfed = tl.sum(tl.sum(dfed, 0), 1)
                        dstep = tl.sum(tl.sum(dstep, 0), 1) * LN2
                        draw = (dfed * value + dstep) * slopes[k * BLOCKS + j]
                        dbiases_on += (dbiases[j] + draw,)
                        at_du, at_ddt = of_du + at, of_ddt + at
                        mask = _mask(presents[j], position, limit, WHOLE)
                        tl.store(at_du + e + j * EL, dfed * step, mask=mask)
                        tl.store(at_ddt + e + j * EL, draw, mask=mask)
                    carried, da, dbiases = carried_on, da_on, dbiases_on
                    of_b_sum = of_b_sums + (row + k * sign) * 16
                    of_c_sum = of_c_sums + (row + k * sign) * 16
                    for g in tl.static_range(TILES):
                        # the first channel's lanes write: a whole tile keeps the layout
                        of_n = tl.broadcast_to(n[:, None, :], [4, EL, NL]) + g * 16 // TILES
                        mask = _mask(within == 0, position, limit, False)[None, :, None]
                        sum_b = tl.sum(of_k_b[g], 1, keep_dims=True)
                        sum_c = tl.sum(of_k_c[g], 1, keep_dims=True)
                        tl.store(of_b_sum + of_n, tl.broadcast_to(sum_b, [4, EL, NL]), mask=mask)
                        tl.store(of_c_sum + of_n, tl.broadcast_to(sum_c, [4, EL, NL]), mask=mask)

    drates += program.to(tl.int64) * 2 * channels * 17
    for j in tl.static_range(BLOCKS):
        of_log = ()
        for g in tl.static_range(TILES):
            of_log += (rates[j][g] * da[j][g] * LN2,)
        row = direction * channels
        _store_states(drates + row * 16, of_log, e + j * EL, n, presents[j], TILES)
        tl.store(drates + 2 * channels * 16 + row + e + j * EL, dbiases[j], mask=presents[j])
