"""Time conv_pool on a GPU against the time its bytes take: python kernels/benchmarks/conv_pool.py.

With --sweep also over launch parameters, a line for each setting and case.
"""

import argparse
import itertools

import torch
import triton
from fastvim_kernels.gpu import conv_pool

BANDWIDTH = 4.3e12  # bytes a second, measured on an H200
# name, (batch, *grid, channel), axes that are exchanged in memory, pool
CASES = {
    "rows 64x64": ((16, 64, 64, 768), None, (1,)),
    "columns 64x64": ((16, 64, 64, 768), (1, 2), (1,)),
    "rows 14x14": ((128, 14, 14, 768), None, (1,)),
    "columns 14x14": ((128, 14, 14, 768), (1, 2), (1,)),
    "channel-first": ((32, 14, 14, 8, 768), None, (1,)),
    "channel-first, columns": ((32, 14, 14, 8, 768), (1, 2), (1,)),
    "Vim": ((8, 4096, 768), None, ()),
    "rows 128x128, batch 1": ((1, 128, 128, 768), None, (1,)),
}


def median(function):
    """Median time of a call in microseconds."""
    return 1e3 * triton.testing.do_bench(function, warmup=25, rep=150, return_mode="median")


def prepare(shape, exchanged, pool):
    """Inputs, seeds and the bytes of the forward and the backward pass."""
    channel = shape[-1]
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    if exchanged:
        x = x.transpose(*exchanged).contiguous().transpose(*exchanged)
    parameters = [
        torch.randn(s, device="cuda") for s in ((2, channel, 4), (2, channel), (2, channel))
    ]
    outputs = conv_pool.forward(x, *parameters, pool, "mean")
    seeds = [torch.randn_like(v) for v in outputs]
    size, pooled = (v.numel() * v.element_size() for v in (x, outputs[0]))
    return x, parameters, seeds, 2 * size + pooled, 3 * size + pooled


def check(x, parameters, seeds, pool):
    """Largest relative error of everything of the first image against the reference in float32."""
    from fastvim_kernels.conv_pool import _backward, _forward

    reference = [operator._init_fn.__wrapped__ for operator in (_forward, _backward)]
    exact = [x.double()[:1].float(), *parameters]
    few = [seeds[0][:, :1], seeds[1][:1]]
    want = [*reference[0](*exact, pool, "mean")]
    want += reference[1](*(v.float() for v in few), *exact, pool, "mean")
    got = [*conv_pool.forward(x[:1], *parameters, pool, "mean")]
    got += conv_pool.backward(*few, x[:1], *parameters, pool, "mean")
    return max(
        ((a.float() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want, strict=True)
    )


def times(x, parameters, seeds, pool, which="both"):
    """Microseconds of the forward pass, the backward pass, or both."""
    result = []
    if which != "backward":
        result.append(median(lambda: conv_pool.forward(x, *parameters, pool, "mean")))
    if which != "forward":
        result.append(median(lambda: conv_pool.backward(*seeds, x, *parameters, pool, "mean")))
    return result


def sweep(which, cases):
    """Time one pass over settings; the kernels of a pass are FORWARD and SEGMENT, or BACKWARD."""
    names = {"forward": ("FORWARD", "SEGMENT"), "backward": ("BACKWARD",)}[which]
    kept = {name: getattr(conv_pool, name) for name in names}
    unrolls = [(8, 7, 6, 5, 4, 3, 10, 11, 13), (4, 7, 5, 3, 6, 8, 10, 11, 13)]
    settings = itertools.product((64, 128), (None, 208, 168, 144, 128), unrolls, (8, 12, 16))
    for block, registers, unroll, programs in settings:
        for name in names:
            changed = {"block": block, "registers": registers, "programs": programs}
            changed["unrolls"] = unroll
            if name == "SEGMENT":
                changed["unrolls"] = unroll[:1]
                del changed["programs"]
            setattr(conv_pool, name, kept[name]._replace(**changed))
        row = [f"{times(*case[:3], case[3], which)[0]:7.1f}" for case in cases]
        print(which, f"{block:4} {registers!s:>5} {unroll[0]} {programs:3}", *row, flush=True)
    for name in names:
        setattr(conv_pool, name, kept[name])


def main():
    """Print the table, or the sweep."""
    torch.backends.cudnn.allow_tf32 = False  # the reference's convolution
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", choices=("forward", "backward"))
    parser.add_argument("--cases", default=",".join(CASES), help="names, separated by commas")
    arguments = parser.parse_args()
    chosen = [CASES[name] for name in CASES if name in arguments.cases or not arguments.sweep]
    if arguments.sweep:
        print(*(name for name in CASES if name in arguments.cases), sep=" | ")
        prepared = []
        for shape, exchanged, pool in chosen:
            x, parameters, seeds, *_ = prepare(shape, exchanged, pool)
            prepared.append((x, parameters, seeds, pool))
        sweep(arguments.sweep, prepared)
        return
    print(f"{'':24} {'forward':>16} {'backward':>16}   error")
    for name, (shape, exchanged, pool) in CASES.items():
        x, parameters, seeds, *moved = prepare(shape, exchanged, pool)
        row = [
            f"{time:7.1f} us {1e6 * size / BANDWIDTH / time:5.0%}"
            for time, size in zip(times(x, parameters, seeds, pool), moved, strict=True)
        ]
        print(f"{name:24}", *row, f"  {check(x, parameters, seeds, pool):.1e}", flush=True)


if __name__ == "__main__":
    main()
