"""What the Triton kernels of `conv_pool` share: a window of four tokens that slides along them.

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

At the end of a loop, `copy` makes real copies: Triton 3.6 compiles a loop whose tensors change
places (`a = b; b = c`) to code that is silently wrong on the card. There is no need where the loop
gives each of them a value that it has computed.
"""

import triton
import triton.language as tl

from fastvim_kernels.gpu.math import tanh

# PACKED: how words of two channels are to be read; 0 where tokens are not packed
BF16, FP16 = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def where(live, condition):
    """Mask of channels, all false unless a scalar condition holds."""
    return (live & condition) != 0  # the interpreter takes a spread-out condition for an integer


@triton.jit
def token_at(token, width, inner, strides):
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
def half_filter(weight, bias, direction, column, channel, live):
    """Half of a direction's four taps and bias."""
    at = direction * channel + column
    a = 0.5 * tl.load(weight + at * 4, mask=live, other=0.0)
    b = 0.5 * tl.load(weight + at * 4 + 1, mask=live, other=0.0)
    c = 0.5 * tl.load(weight + at * 4 + 2, mask=live, other=0.0)
    d = 0.5 * tl.load(weight + at * 4 + 3, mask=live, other=0.0)
    return a, b, c, d, 0.5 * tl.load(bias + at, mask=live, other=0.0)


@triton.jit
def convolve(taps, a, b, c, d):
    """Half the sum that goes into SiLU, from `half_filter` and four tokens."""
    return taps[4] + taps[0] * a + taps[1] * b + taps[2] * c + taps[3] * d


@triton.jit
def silu_of_half(half, FAST: tl.constexpr):
    """SiLU of twice the argument."""
    return half * tanh(half, FAST) + half


@triton.jit
def silu_and_slope_of_half(half, FAST: tl.constexpr):
    """SiLU of twice the argument, and twice its derivative."""
    curve = tanh(half, FAST)
    silu = half * curve + half
    return silu, (silu - silu * curve) + (1.0 + curve)


@triton.jit
def words_of(block, channel, BLOCK: tl.constexpr, PACKED: tl.constexpr):
    """Return the words of a block of channels, and which of them exist."""
    SIZE: tl.constexpr = BLOCK // 2 if PACKED else BLOCK
    word = block * SIZE + tl.arange(0, SIZE)
    return word, word < (channel // 2 if PACKED else channel)


@triton.jit
def unpack(raw, PACKED: tl.constexpr):
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
def load_token(pointer, token, width, inner, strides, word, mask, PACKED: tl.constexpr):
    """Load a token wherever it lies, in float32; zero where the mask is false."""
    at = pointer + token_at(token, width, inner, strides)
    return unpack(tl.load(at + word * strides[4], mask=mask, other=0), PACKED)


@triton.jit
def load_before(pointer, first, width, inner, strides, word, live, PACKED: tl.constexpr):
    """Load the three tokens before a run; zero before the image."""
    tokens = ()
    for k in tl.static_range(3):
        token = first - 3 + k
        mask = where(live, token >= 0)
        value = load_token(pointer, token, width, inner, strides, word, mask, PACKED)
        tokens = tokens + (value,)
    return tokens


@triton.jit
def load_raw(pointer, offset, token, limit, strides, word, live):
    """Load the token at an offset as it is; zero from the token `limit` on."""
    at = pointer + offset + word * strides[4]
    return tl.load(at, mask=where(live, token < limit), other=0)


@triton.jit
def copy(values):
    """Make real copies of three tensors, as said above."""
    return values[0] + 0.0, values[1] + 0.0, values[2] + 0.0
