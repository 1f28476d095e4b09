"""Images a second of FastVim, of Vim and of timm's ViT on one GPU, in one run.

    python kernels/benchmarks/speed.py --output speed --parts inference training channels

writes speed.csv, speed.md and speed.png. Everything computes in bf16. FastVim's and Vim's inference
is recorded as a CUDA graph; ViT's runs eager and compiled. Training steps of FastVim and ViT run
eager, with recorded passes as the training engine can, and compiled. Compiled means with CUDA
graphs, and of several ways the fastest stands in table and picture. The floor is that of
`../shared/kernels.md`: bytes and multiply-adds of a block with nothing stored twice, at the rates
of a copy and a matrix product that are measured first.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timm
import torch
import triton
from torch import nn

import fastvim
from fastvim.graphed import Graphed
from fastvim.training.recorded import RecordedPasses

BATCHES = {224: 128, 512: 64, 1024: 16, 2048: 8}
WIDTHS = {"tiny": 192, "small": 384, "base": 768}
TRAINING = ("eager", "graph", "compiled")
SECONDS = 0.4  # of each measurement; --seconds changes it


@dataclass(frozen=True)
class Card:
    """What bounds every kernel: bytes a second of a copy, operations a second of a product."""

    bandwidth: float
    bf16_flops: float

    @classmethod
    def measured(cls) -> "Card":
        """Read and write 2 GiB; multiply bf16 matrices of side 8192."""
        source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
        target = torch.empty_like(source)
        copying, _ = measure(lambda: target.copy_(source))
        matrix = torch.randn(8192, 8192, device="cuda").bfloat16()
        multiplying, _ = measure(lambda: matrix @ matrix)
        return cls(2 * 2**31 / copying, 2 * 8192**3 / multiplying)

    def floor(self, depth: int, tokens: int, dim: int) -> float:
        """Images a second if a block moved 44 bytes a token and channel and did 12 D² FLOPs."""
        block = 44 * dim / self.bandwidth + 12 * dim**2 / self.bf16_flops
        return 1 / (depth * tokens * block)


@dataclass
class Row:
    """One measurement; `images` a second, `memory` at its peak in GiB."""

    part: str
    model: str
    size: str
    px: int
    batch: int
    tokens: int
    how: str
    images: float
    memory: float
    floor: float | None = None


def measure(step: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a step, and its peak memory in GiB."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, times = time.perf_counter(), []
    while len(times) < 5 or time.perf_counter() - start < SECONDS:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        step()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return statistics.median(times), torch.cuda.max_memory_allocated() / 2**30


def vit(size: str, px: int, patch: int = 16) -> nn.Module:
    """Timm's ViT, whose attention is PyTorch's fused one."""
    model = timm.create_model(
        f"vit_{size}_patch16_224", img_size=px, patch_size=patch, num_classes=1000
    )
    return model.cuda().bfloat16()


def channel_vit(patch: int) -> nn.Module:
    """ViT-S on as many tokens as 8 channels have patches: a single-channel strip of 8 images."""
    model = timm.create_model(
        "vit_small_patch16_224",
        img_size=(8 * 224, 224),
        patch_size=patch,
        in_chans=1,
        num_classes=161,
    )
    return model.cuda().bfloat16()


def inference(model: nn.Module, images: torch.Tensor, how: str) -> tuple[float, float]:
    """Time forward passes without gradients."""
    model.eval()
    if how == "graph":
        graphed = Graphed(model)
        graphed(images)  # the second call of a shape captures it
        return measure(lambda: graphed(images))
    # with CUDA graphs, without which a small ViT waits for launches
    run = torch.compile(model, mode="reduce-overhead") if how == "compiled" else model
    with torch.inference_mode():
        return measure(lambda: run(images.bfloat16()))


def training(model: nn.Module, images: torch.Tensor, how: str) -> tuple[float, float]:
    """Time forward, backward and AdamW's step, under autocast."""
    model.train()
    autocast = torch.autocast("cuda", torch.bfloat16)
    if how == "graph":  # as the training engine records them, autocast inside
        model.forward = autocast(model.forward)
        RecordedPasses(model)
        autocast = nullcontext()
    run = torch.compile(model, mode="reduce-overhead") if how == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    target = torch.randint(0, 100, (len(images),), device="cuda")

    def step() -> None:
        with autocast:
            loss = nn.functional.cross_entropy(run(images).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measure(step)


class Bench:
    """Collects rows and survives what does not fit."""

    def __init__(self, output: Path, deadline: float, card: Card) -> None:
        self.rows: list[Row] = []
        self.card = card
        self.output, self.deadline = output, deadline

    def run(self, make: Callable[[], tuple[float, float]], row: Row) -> None:
        """Measure one row; a failure is printed and left out."""
        if time.time() > self.deadline:
            print(f"out of time: {row.model} {row.px} {row.how}", flush=True)
            return
        torch.cuda.empty_cache()
        began = time.time()
        try:
            seconds, row.memory = make()
        except Exception as error:  # one model's failure must not lose the others' numbers
            print(f"failed: {row.model}-{row.size} {row.px} {row.how}: {error!r:.300}", flush=True)
            if "illegal" in str(error):  # nothing runs in this process any more
                raise
            return
        row.images = row.batch / seconds
        self.rows.append(row)
        share = f"{row.images / row.floor:.0%} of the floor, " if row.floor else ""
        print(
            f"{row.part} {row.model}-{row.size} {row.px} px, batch {row.batch}, {row.how}: "
            f"{row.images:.0f} images/s, {share}{row.memory:.1f} GiB "
            f"(took {time.time() - began:.0f} s)",
            flush=True,
        )
        self.write()

    def write(self) -> None:
        """Rewrite the CSV after each row, so that a stopped run keeps what it measured."""
        with self.output.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(self.rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)


def images_of(px: int, batch: int, channels: int = 3) -> torch.Tensor:
    """Random pixels."""
    return torch.randn(batch, channels, px, px, device="cuda")


def bench_inference(bench: Bench, sizes: list[str], pixels: list[int]) -> None:
    """FastVim, Vim and ViT without gradients."""
    for px in pixels:
        batch, tokens = BATCHES[px], (px // 16) ** 2
        images = images_of(px, batch)
        for size in sizes:
            bound = bench.card.floor(24, tokens, WIDTHS[size])

            def row(model: str, how: str, least: float | None = None) -> Row:
                return Row("inference", model, size, px, batch, tokens, how, 0, 0, least)

            def build(name: str) -> nn.Module:
                return fastvim.create_model(f"{name}_{size}_patch16_224", img_size=px).cuda()

            bench.run(
                lambda: inference(build("fastvim"), images, "graph"), row("FastVim", "graph", bound)
            )
            bench.run(lambda: inference(build("vim"), images, "graph"), row("Vim", "graph"))
            for how in ("eager", "compiled"):
                bench.run(lambda: inference(vit(size, px), images, how), row("ViT", how))
                torch.compiler.reset()


def bench_training(bench: Bench, sizes: list[str], pixels: list[int]) -> None:
    """A training step of FastVim and ViT."""
    for px in pixels:
        batch, tokens = BATCHES[px] if px == 224 else 32, (px // 16) ** 2
        images = images_of(px, batch)
        for size in sizes:
            for how in TRAINING:

                def row(model: str) -> Row:
                    return Row("training", model, size, px, batch, tokens, how, 0, 0)

                def build() -> nn.Module:
                    return fastvim.create_model(f"fastvim_{size}_patch16_224", img_size=px).cuda()

                bench.run(lambda: training(build(), images, how), row("FastVim"))
                bench.run(lambda: training(vit(size, px).float(), images, how), row("ViT"))
                torch.compiler.reset()


def bench_channels(bench: Bench) -> None:
    """FastChannelVim-S with 8 channels, and ViT-S on the same tokens."""
    for patch, batch in ((16, 32), (8, 8)):
        tokens = 8 * (224 // patch) ** 2
        images, strip = images_of(224, batch, 8), torch.randn(batch, 1, 1792, 224, device="cuda")

        def row(part: str, model: str, how: str, least: float | None = None) -> Row:
            return Row(part, model, f"small/{patch}", 224, batch, tokens, how, 0, 0, least)

        def build() -> nn.Module:
            return fastvim.create_model(f"fastchannelvim_small_patch{patch}", hcs=False).cuda()

        bound = bench.card.floor(24, tokens, 384)
        bench.run(
            lambda: inference(build(), images, "graph"),
            row("channels, inference", "FastChannelVim", "graph", bound),
        )
        for how in ("eager", "compiled"):
            bench.run(
                lambda: inference(channel_vit(patch), strip, how),
                row("channels, inference", "ViT", how),
            )
        for how in TRAINING:
            bench.run(
                lambda: training(build(), images, how),
                row("channels, training", "FastChannelVim", how),
            )
            bench.run(
                lambda: training(channel_vit(patch).float(), strip, how),
                row("channels, training", "ViT", how),
            )
            torch.compiler.reset()


def table(rows: list[Row]) -> str:
    """Markdown: the fastest way of each model, and ratios to ViT and Vim."""
    best: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        models = best.setdefault((row.part, row.size, row.px), {})
        other = models.get(row.model, row)
        # what is allocated inside a recorded graph is not counted, so the plain way's peak stands
        peak = max(row.memory, other.memory)
        models[row.model] = replace(max(row, other, key=lambda one: one.images), memory=peak)
    lines = [
        "| | size | px | batch | tokens | FastVim img/s | Vim | ViT | FastVim / ViT | / Vim "
        "| of the floor | GiB | ViT's |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (part, size, px), models in best.items():
        fast = models.get("FastVim") or models.get("FastChannelVim")
        if fast is None:
            continue
        attention, full = models.get("ViT"), models.get("Vim")
        cells = [
            part,
            size,
            px,
            fast.batch,
            fast.tokens,
            f"{fast.images:.0f} ({fast.how})",
            f"{full.images:.0f}" if full else "",
            f"{attention.images:.0f} ({attention.how})" if attention else "",
            f"{fast.images / attention.images:.2f}" if attention else "",
            f"{fast.images / full.images:.2f}" if full else "",
            f"{fast.images / fast.floor:.0%}" if fast.floor else "",
            f"{fast.memory:.1f}",
            f"{attention.memory:.1f}" if attention else "",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Inference speed over image size, one panel a size of model."""
    import matplotlib.pyplot as plt

    chosen = [row for row in rows if row.part == "inference"]
    sizes = list(dict.fromkeys(row.size for row in chosen))
    figure, axes = plt.subplots(1, max(1, len(sizes)), figsize=(4 * max(1, len(sizes)), 3.5))
    for axis, size in zip(axes if len(sizes) > 1 else [axes], sizes, strict=False):
        for model in ("FastVim", "ViT", "Vim"):
            speeds: dict[int, float] = {}
            for row in chosen:
                if (row.model, row.size) == (model, size):
                    speeds[row.px] = max(speeds.get(row.px, 0), row.images)
            axis.plot(list(speeds), list(speeds.values()), marker="o", label=model)
        axis.set(title=size, xlabel="image side, px", xscale="log", yscale="log")
        axis.set_xticks(list(BATCHES), [str(px) for px in BATCHES])
        axis.minorticks_off()
    figure.axes[0].set_ylabel("images a second")
    figure.axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("speed"), help="files, without suffix")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=["inference", "training", "channels"],
        default=["inference", "training", "channels"],
    )
    parser.add_argument("--sizes", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--pixels", nargs="+", type=int, choices=list(BATCHES), default=None)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each measurement")
    parser.add_argument("--minutes", type=float, default=60, help="start nothing after that")
    arguments = parser.parse_args()
    globals()["SECONDS"] = arguments.seconds
    torch.backends.cuda.matmul.allow_tf32 = True
    bench = Bench(arguments.output, time.time() + 60 * arguments.minutes, Card.measured())
    for part in arguments.parts:
        if part == "inference":
            bench_inference(bench, arguments.sizes, arguments.pixels or list(BATCHES))
        elif part == "training":
            bench_training(bench, arguments.sizes, arguments.pixels or [224, 512])
        else:
            bench_channels(bench)
    card = f"{torch.cuda.get_device_name()} ({bench.card.bandwidth / 1e12:.2f} TB/s, "
    card += f"{bench.card.bf16_flops / 1e12:.0f} TFLOP/s)"
    versions = f"torch {torch.__version__}, triton {triton.__version__}, timm {timm.__version__}"
    title = f"{time.strftime('%Y-%m-%d')}, {card}, {versions}"
    text = f"{title}\n\n{table(bench.rows)}\n"
    arguments.output.with_suffix(".md").write_text(text)
    plot(bench.rows, arguments.output.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
