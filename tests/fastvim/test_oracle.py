"""Every model and option against an oracle: the papers' equations, one token at a time.

The oracle is numpy in float64 and plain loops, and takes nothing from the package but a model's
options and the numbers in its state dict. It is written to be read as the specification.
"""

import inspect
import itertools
import math
import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastvim
from fastvim.channel_model import SCAN_ORDERS
from fastvim.encoder import Encoder, EncoderOptions
from fastvim.head import FINAL_POOLS
from fastvim.trunk import CLASS_TOKENS, SCAN_PATHS

# --- the oracle -----------------------------------------------------------------------------------
# Tokens are a dictionary from place to vector, in the order of the sequence. A place is a tuple
# (row, column, channel), or CLASS; models that do not part channels have channel 0 alone. `w` is
# the state dict, or the part of it that a block owns, and `o` holds the options.

ROW, COLUMN, CHANNEL = 0, 1, 2
CLASS = "class token"
STATE, TAPS, EPS = 16, 4, 1e-5

DEFAULTS = {
    "collapse_method": "mean",
    "scaling_factor": 1.0,
    "use_norm_after_ssm": True,
    "init_layer_scale": None,
    "rms_norm": True,
    "rotate_every_block": True,
    "compress_2d": False,
    "scan_order": "channel-first",
    "scanpath_type": "rowwise",
    "if_abs_pos_embed": True,
    "class_token": "none",
    "final_pool_type": "mean",
    "norm_pix_loss": True,
    "mirrored_rows": False,
    "residual_stream": False,
}
DEFAULTS_OF = {
    "Vim": {"class_token": "middle"},
    "ChannelVim": {"class_token": "middle"},
    "DenseFastVim": {"rms_norm": False},
    "DenseVim": {"rms_norm": False},
}


def with_defaults(name, options):
    o = SimpleNamespace(**DEFAULTS | DEFAULTS_OF.get(name, {}) | options)
    o.pools = "Fast" in name  # Vim scans every token
    o.scales = [1.0] * options.get("depth", 0)  # of blocks' outputs, where paths are dropped
    return o


def silu(v):
    return v / (1 + np.exp(-v))


def layer_norm(v, w, name):
    return (v - v.mean()) / np.sqrt(v.var() + EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]


def norm(v, w, name, o):
    """The norm before a block and at the end."""
    if o.rms_norm:
        return v / np.sqrt((v**2).mean() + EPS) * w[f"{name}.weight"]
    return layer_norm(v, w, name)


def linear(v, w, name):
    return w[f"{name}.weight"] @ v + w[f"{name}.bias"]


def cut(image, patch):
    """Patches (channel, patch, patch) of an image (channel, height, width), by row and column."""
    rows, columns = (math.ceil(side / patch) for side in image.shape[1:])
    padded = np.zeros((len(image), rows * patch, columns * patch))  # to the right and below
    padded[:, : image.shape[1], : image.shape[2]] = image
    return {
        (r, c): padded[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
        for r, c in np.ndindex(rows, columns)
    }


def trained_grid(o):
    height, width = (o.img_size,) * 2 if isinstance(o.img_size, int) else o.img_size
    rows, columns = math.ceil(height / o.patch_size), math.ceil(width / o.patch_size)
    return (columns, rows) if o.scanpath_type == "colwise" else (rows, columns)


def sincos(grid, dim):
    """Positions of MAE: the first half encodes the column, the second the row."""
    rates = [10000 ** (-4 * k / dim) for k in range(dim // 4)]
    return np.array(
        [
            [wave(at * rate) for at in (c, r) for wave in (math.sin, math.cos) for rate in rates]
            for r, c in np.ndindex(*grid)
        ]
    )


def resized(positions, trained, wanted):
    """Stored positions (row * column, dim) on another grid, (row, column, dim): bicubic."""
    grid = positions.reshape(*trained, -1)
    if trained == wanted:
        return grid
    # torch's own: a = -0.75, corners not aligned, no smoothing where the grid shrinks
    planes = torch.from_numpy(grid).permute(2, 0, 1)[None]
    return F.interpolate(planes, wanted, mode="bicubic")[0].permute(1, 2, 0).numpy()


def grid_of(tokens):
    places = [place for place in tokens if place != CLASS]
    return tuple(1 + max(place[axis] for place in places) for axis in (ROW, COLUMN, CHANNEL))


def insert_class(tokens, vector, where):
    """Put a class token before the middle token (of an even number: the later one) or first."""
    items = list(tokens.items())
    items.insert(len(items) // 2 if where == "middle" else 0, (CLASS, vector))
    return dict(items)


def embed(o, w, image, identities=None):
    """Tokens of an image (channel, height, width), of every channel its own with `identities`."""
    kernel, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    kernel = kernel.reshape(len(kernel), -1, o.patch_size, o.patch_size)
    tokens = {}
    for (r, c), patch in cut(image, o.patch_size).items():
        # column by column: the whole model sees the grid transposed, but no patch is
        at = (c, r) if o.scanpath_type == "colwise" else (r, c)
        if identities is None:
            tokens[*at, 0] = (kernel * patch).sum((1, 2, 3)) + bias
            continue
        for channel, identity in enumerate(identities):
            vector = (kernel[:, 0] * patch[channel]).sum((1, 2)) + bias
            tokens[*at, channel] = vector + w["patch_embed.channel_embed.weight"][identity]
    axes = (ROW, COLUMN, CHANNEL)
    if o.scan_order == "spatial-first":
        axes = (CHANNEL, ROW, COLUMN)
    return {p: tokens[p] for p in sorted(tokens, key=lambda p: [p[a] for a in axes])}


def add_positions(tokens, grid):
    """Channels share positions (row, column, dim)."""
    return {(r, c, k): vector + grid[r, c] for (r, c, k), vector in tokens.items()}


def embed_image(o, w, image):
    """Tokens of an image model, positions and class token included."""
    tokens = embed(o, w, image)
    class_token = w["cls_token"][0, 0] if o.class_token != "none" else None
    if o.if_abs_pos_embed:
        positions = w["pos_embed"][0]
        if class_token is not None:  # its position lies where the token itself is put
            row = (len(positions) - 1) // 2 if o.class_token == "middle" else 0
            class_token = class_token + positions[row]
            positions = np.delete(positions, row, 0)
        tokens = add_positions(tokens, resized(positions, trained_grid(o), grid_of(tokens)[:2]))
    if class_token is not None:
        tokens = insert_class(tokens, class_token, o.class_token)
    return tokens


def traversals(o):
    """What blocks do in turn: the axes in the order of the walk, slowest first, and the scanned.

    All other axes are pooled. None: the sequence as it is, nothing pooled.
    """
    if not o.pools:
        return [None]

    def walk(slow, fast):
        return (CHANNEL, slow, fast) if o.scan_order == "spatial-first" else (slow, fast, CHANNEL)

    second = (COLUMN, ROW) if o.rotate_every_block else (ROW, COLUMN)
    also = set() if o.compress_2d else {CHANNEL}
    cycle = [(walk(slow, fast), {slow} | also) for slow, fast in ((ROW, COLUMN), second)]
    return [*cycle, (walk(ROW, COLUMN), {CHANNEL})] if o.compress_2d else cycle


def direction(x, step_of, steps, share, w, suffix, o):
    """One direction of a mixer, over a sequence of vectors; `step_of` each, of all `steps`."""
    conv, conv_bias = w[f"conv1d{suffix}.weight"], w[f"conv1d{suffix}.bias"]
    u = []
    for t in range(len(x)):
        total = conv_bias
        for tap in range(TAPS):  # causal: the last tap is the token itself
            if (source := t - (TAPS - 1) + tap) >= 0:
                total = total + conv[:, 0, tap] * x[source]
        u.append(silu(total))

    members = {step: [] for step in steps}
    for step, vector in zip(step_of, u, strict=True):
        members[step].append(vector)
    rates = -np.exp(w[f"A{suffix}_log"])
    h, y = np.zeros_like(rates), {}
    for step in steps:  # also those whose tokens are all masked
        if o.collapse_method == "max":
            pooled = np.max(members[step], axis=0)
        else:  # a masked token counts as zero
            pooled = o.scaling_factor * sum(members[step], np.zeros(len(rates))) / share
        projected = w[f"x_proj{suffix}.weight"] @ pooled
        rank = len(projected) - 2 * STATE
        dt, b, c = np.split(projected, [rank, rank + STATE])
        dt = np.logaddexp(0, linear(dt, w, f"dt_proj{suffix}"))  # softplus
        h = np.exp(dt[:, None] * rates) * h + np.outer(dt * pooled, b)
        y[step] = h @ c
    return [y[step] + w[f"D{suffix}"] * vector for step, vector in zip(step_of, u, strict=True)]


def mix(tokens, traversal, grid, w, o):
    """A mixer: project, both directions, norm, gate, project."""
    places = list(tokens)
    if traversal is None:
        step_of, steps, share = places, places, 1
    else:
        axes, scanned = traversal
        places.sort(key=lambda place: [place[axis] for axis in axes])
        kept = [axis for axis in axes if axis in scanned]
        step_of = [tuple(place[axis] for axis in kept) for place in places]
        steps = list(itertools.product(*(range(grid[axis]) for axis in kept)))
        share = math.prod(grid) // len(steps)  # tokens a step, were none masked
    xz = [w["in_proj.weight"] @ tokens[place] for place in places]
    x, z = zip(*(np.split(both, 2) for both in xz), strict=True)
    forward = direction(x, step_of, steps, share, w, "", o)
    # the same on the reversed sequence; mirrored, its tokens take the forward sequence's steps
    order = 1 if o.mirrored_rows else -1
    backward = direction(x[::-1], step_of[::order], steps[::order], share, w, "_b", o)[::-1]
    mixed = {}
    for place, ahead, back, gate in zip(places, forward, backward, z, strict=True):
        out = (ahead + back) / 2
        if o.use_norm_after_ssm:
            out = layer_norm(out, w, "layernorm")
        mixed[place] = w["out_proj.weight"] @ (out * silu(gate))
        if o.init_layer_scale is not None:
            mixed[place] = mixed[place] * w["gamma"]
    return {place: mixed[place] for place in tokens}


def blocks(tokens, w, o, grid=None, stack="layers"):
    """Each block's own output, and the residual stream that it is yet to be added to."""
    grid = grid or grid_of(tokens)
    cycle = traversals(o)
    hidden, residual, states = tokens, dict.fromkeys(tokens, 0.0), []
    for number in range(o.depth):
        prefix = f"{stack}.{number}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        mixer = {k.removeprefix("mixer."): v for k, v in own.items()}
        scale = o.scales[number - 1] if number else 1.0
        residual = {place: residual[place] + scale * hidden[place] for place in tokens}
        normed = {place: norm(v, own, "norm", o) for place, v in residual.items()}
        hidden = mix(normed, cycle[number % len(cycle)], grid, mixer, o)
        states.append((hidden, residual))
    return states


def finish(state, w, o, name="norm_f"):
    """Tokens after the final norm."""
    hidden, residual = state
    summed = {place: residual[place] + o.scales[-1] * hidden[place] for place in hidden}
    return {place: norm(v, w, name, o) for place, v in summed.items()}


def classify(tokens, w, o):
    """Logits; of every token, (token, class), for final pooling "all"."""
    vectors = list(tokens.values())
    head = (lambda v: linear(v, w, "head")) if o.num_classes else (lambda v: v)
    if o.final_pool_type == "all":
        return np.array([head(v) for v in vectors])
    if o.class_token != "none":
        return head(tokens[CLASS])
    if o.final_pool_type == "max":
        return np.max([head(v) for v in vectors], axis=0)
    return head(np.mean(vectors, axis=0) if o.final_pool_type == "mean" else vectors[-1])


def image_map(tokens, o):
    """Patch tokens (row, column, dim), as they lie in the image."""
    rows, columns, _ = grid_of(tokens)
    grid = np.array([[tokens[r, c, 0] for c in range(columns)] for r in range(rows)])
    return grid.swapaxes(0, 1) if o.scanpath_type == "colwise" else grid


def oracle_classifier(o, w, image):
    """FastVim and Vim."""
    states = blocks(embed_image(o, w, image), w, o)
    tokens = finish(states[-1], w, o)
    if o.pools:  # tokens leave FastVim row by row, also where the blocks saw columns
        features = image_map(tokens, o)
        tokens = {place: features[place] for place in np.ndindex(features.shape[:2])}
    else:
        features = np.array(list(tokens.values()))
    outputs = {"logits": classify(tokens, w, o), "features": features}
    for number, (hidden, residual) in enumerate(states):
        sums = {place: hidden[place] + residual[place] for place in hidden}
        outputs[f"intermediate {number}"] = image_map(sums, o).transpose(2, 0, 1)
    return outputs


def oracle_dense(o, w, image):
    """DenseFastVim and DenseVim: maps of the blocks' own outputs, or of the residual stream."""
    states = blocks(embed_image(o, w, image), w, o)
    outputs = {}
    for number, block in enumerate(sorted(index % o.depth for index in o.out_indices)):
        hidden, residual = states[block]
        if o.residual_stream:
            hidden = {place: hidden[place] + residual[place] for place in hidden}
        normed = {place: layer_norm(v, w, f"outnorm_{number}") for place, v in hidden.items()}
        outputs[f"map {number}"] = image_map(normed, o).transpose(2, 0, 1)
    return outputs


def oracle_channels(o, w, image, identities):
    """FastChannelVim and ChannelVim; `identities` are the trained channels of the image's."""
    tokens = embed(o, w, image, identities)
    if o.if_abs_pos_embed:
        grid = resized(w["pos_embed"][0], trained_grid(o), grid_of(tokens)[:2])
        tokens = add_positions(tokens, grid)
    if o.class_token != "none":  # which has no position here
        tokens = insert_class(tokens, w["cls_token"][0, 0], o.class_token)
    tokens = finish(blocks(tokens, w, o)[-1], w, o)
    # for "all" by rows, columns and channels of the image, whatever the walk
    across = (1, 0, 2) if o.scanpath_type == "colwise" else (0, 1, 2)
    patches = sorted(set(tokens) - {CLASS}, key=lambda p: tuple(p[axis] for axis in across))
    listed = {p: tokens[p] for p in [*patches, CLASS] if p in tokens}
    logits = classify(listed, w, o)
    rows, columns, channels = grid_of(tokens)
    features = []
    for channel in range(channels):
        own = {(r, c, 0): tokens[r, c, channel] for r, c in np.ndindex(rows, columns)}
        features.append(image_map(own, o))
    per_channel = np.mean(features, axis=(1, 2))
    whole = tokens[CLASS] if o.class_token != "none" else per_channel.mean(0)
    return {"logits": logits, "features": np.array(features),
            "embedding": whole, "per channel": per_channel}  # fmt: skip


def oracle_masked(o, w, image, noise, mask_ratio):
    """FastMaskVim and MaskVim: reconstruct the patches with the most noise from the others."""

    def positions(name):
        stored, row = w[name][0], None
        if not o.pools:  # a class token's position lies first
            row, stored = stored[0], stored[1:]
        return row, resized(stored, trained_grid(o), grid[:2])

    everything = embed(o, w, image)
    grid = grid_of(everything)
    class_position, encoder_positions = positions("pos_embed")
    count = max(1, int(len(everything) * (1 - mask_ratio)))
    places = list(everything)
    kept = sorted(places[index] for index in np.argsort(noise)[:count])
    everything = add_positions(everything, encoder_positions)
    tokens = {place: everything[place] for place in kept}
    if not o.pools:
        tokens = insert_class(tokens, w["cls_token"][0, 0] + class_position, "middle")
    latent = finish(blocks(tokens, w, o, grid)[-1], w, o)

    # the decoder: plain Vim blocks on all patches, a class token behind them
    plain = with_defaults("decoder", {"rms_norm": o.rms_norm, "depth": o.decoder_depth})
    class_position, decoder_positions = positions("decoder_pos_embed")
    narrowed = {place: linear(v, w, "decoder_embed") for place, v in latent.items()}
    tokens = {place: narrowed.get(place, w["mask_token"][0, 0]) for place in places}
    tokens = add_positions(tokens, decoder_positions)
    if not o.pools:
        tokens[CLASS] = narrowed[CLASS] + class_position
    decoded = blocks(tokens, w, plain, stack="decoder_blocks")[-1]
    decoded = finish(decoded, w, plain, "decoder_norm")
    predicted = [linear(decoded[place], w, "decoder_pred") for place in places]

    error = []
    for patch, guess in zip(cut(image, o.patch_size).values(), predicted, strict=True):
        pixels = patch.transpose(1, 2, 0).reshape(-1)  # channel fastest
        if o.norm_pix_loss:
            pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
        error.append(((guess - pixels) ** 2).mean())
    mask = np.array([place not in kept for place in places], float)
    loss = (error * mask).sum() / max(1, mask.sum())
    return {"latent": np.array(list(latent.values())), "prediction": np.array(predicted),
            "mask": mask, "loss": loss}  # fmt: skip


# --- the cases -----------------------------------------------------------------------------------

TINY = {"img_size": (12, 8), "patch_size": 4, "embed_dim": 8, "depth": 3}
CLASSIFIER = TINY | {"num_classes": 5}
BASE = {
    "FastVim": CLASSIFIER,
    "Vim": CLASSIFIER | {"depth": 2},
    "DenseFastVim": TINY | {"out_indices": (0, 1, 2)},
    "DenseVim": TINY | {"depth": 2, "out_indices": (0, 1)},
    "FastChannelVim": CLASSIFIER | {"in_chans": 3},
    "ChannelVim": CLASSIFIER | {"in_chans": 3, "depth": 2},
    "FastMaskVim": TINY | {"decoder_embed_dim": 12, "decoder_depth": 1},
    "MaskVim": TINY | {"depth": 2, "decoder_embed_dim": 12, "decoder_depth": 1},
}


@dataclass(frozen=True)
class Case:
    """A model, its options where they differ from BASE, and what it is called with."""

    name: str
    options: dict = field(default_factory=dict)
    size: tuple | list = (12, 8)
    """Height and width of the images, or of each image if they differ."""
    channels: list | None = None
    """Trained channel of each image channel, shared or for each image its own."""
    mask_ratio: float = 0.5
    kept: list | None = None
    """Indices of the tokens that the masking keeps, of every image; None draws them."""
    batch: int = 2

    def __str__(self):
        own = {k: v for k, v in vars(self).items() if v != getattr(Case, k, None)} | self.options
        given = [f"{k}={v}" for k, v in own.items() if k not in ("name", "options")]
        return "-".join([self.name, *given]).replace(" ", "")

    @property
    def all_options(self):
        return BASE[self.name] | self.options

    def build(self):
        """The model, with random weights that hide nothing behind a zero or a one."""
        torch.manual_seed(0)
        model = getattr(fastvim, self.name)(**self.all_options).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += 0.2 * torch.randn_like(parameter)
                if "x_proj" in name:
                    parameter *= 3 / self.all_options.get("scaling_factor", 1)
                if "dt_proj" in name and name.endswith("bias"):
                    parameter += 2
        return model

    def inputs(self):
        """Images and the masking's noise."""
        torch.manual_seed(1)
        mixed = isinstance(self.size, list)
        sizes = self.size if mixed else [self.size] * self.batch
        count = self.all_options.get("in_chans", 3)
        own = self.channels or range(count)
        own = own if isinstance(own[0], list) else [own] * len(sizes)
        images = [torch.randn(len(k), *s) for k, s in zip(own, sizes, strict=True)]
        noise = None
        if "Mask" in self.name:
            patch = self.all_options["patch_size"]
            tokens = math.prod(math.ceil(side / patch) for side in self.size)
            noise = torch.rand(len(images), tokens)
            for row, keep in zip(noise, self.kept or [], strict=bool(self.kept)):
                row[keep] -= 1
        return images if mixed else torch.stack(images), noise

    def run(self, model, images, noise):
        """The model's own outputs."""
        if "Mask" in self.name:
            loss, prediction, mask = model(images, self.mask_ratio, noise)
            latent, _ = model.forward_encoder(images, self.mask_ratio, noise)
            return {"latent": latent, "prediction": prediction, "mask": mask, "loss": loss}
        if "Dense" in self.name:
            return {f"map {number}": tokens for number, tokens in enumerate(model(images))}
        if "Channel" not in self.name:
            outputs = {"logits": model(images)}
            outputs["features"], maps = model.forward_intermediates(images)
            return outputs | {f"intermediate {k}": tokens for k, tokens in enumerate(maps)}
        outputs = {"logits": model(images, self.channels)}
        if not isinstance(images, list):
            outputs["features"] = model.forward_features(images, self.channels)
            outputs["embedding"], outputs["per channel"] = model.embed(images, self.channels)
        return outputs

    def expect(self, state, images, noise):
        """The oracle's outputs from a float64 state dict and images."""
        o = with_defaults(self.name, self.all_options)
        results = []
        for number, image in enumerate(images):
            if "Mask" in self.name:
                result = oracle_masked(o, state, image, noise[number].numpy(), self.mask_ratio)
            elif "Dense" in self.name:
                result = oracle_dense(o, state, image)
            elif "Channel" in self.name:
                own = self.channels or range(len(image))
                own = own[number] if isinstance(own[0], list) else own
                result = oracle_channels(o, state, image, own)
            else:
                result = oracle_classifier(o, state, image)
            results.append(result)
        names = ["logits"] if isinstance(self.size, list) else results[0]
        outputs = {name: np.array([result[name] for result in results]) for name in names}
        if "loss" in outputs:  # of the whole batch, whose images lose equally many patches
            outputs["loss"] = outputs["loss"].mean()
        return outputs


def float64(tensors):
    return {name: value.detach().double().numpy() for name, value in tensors.items()}


def vary(name, options, **call):
    """Cases for every combination of the options' values."""
    return [
        Case(name, dict(zip(options, values, strict=True)), **call)
        for values in itertools.product(*options.values())
    ]


ON_OFF = [True, False]
PATHS = ["rowwise", "colwise"]
POOLS = ["mean", "max", "none", "all"]
SIZES = [(12, 20), (9, 14), (4, 4), (16, 24)]
"""Of images, in px: more columns, partial patches, a single patch, twice the trained grid."""


def encoder_cases(name, layer_norm_is_default=False):
    """Options that every encoder has, one at a time and together; also those of pooling."""
    pools = "Fast" in name
    together = {"use_norm_after_ssm": False, "init_layer_scale": 0.3}
    options = [
        {},
        {"use_norm_after_ssm": False},
        {"init_layer_scale": 0.3},
        {"rms_norm": layer_norm_is_default},
        {"drop_path_rate": 0.5},  # in training only
        {"embed_dim": 20},  # two numbers pass from x_proj to dt_proj
        {"depth": 4 if "Dense" in name else 1},
        {"patch_size": 3},
        {**together, "rms_norm": layer_norm_is_default},
    ]
    if pools:
        options += [{"scaling_factor": 0.25}, {**together, "scaling_factor": 0.25}]
    if pools and "Mask" not in name:
        options += [{"collapse_method": "max"}, {**together, "collapse_method": "max"}]
        options += [{"collapse_method": "max", "scaling_factor": 0.25}]  # which is for means
    return [Case(name, chosen) for chosen in options]


def size_cases(name, **options):
    """Sizes trained on and sizes given."""
    cases = [Case(name, options, size=size) for size in SIZES]
    cases += [Case(name, {**options, "img_size": side}, size=(12, 12)) for side in (12, 8)]
    # the trained size is no multiple of the patch
    return [*cases, Case(name, {**options, "img_size": (10, 7)}, size=(10, 7))]


def image_cases(name):
    cases = encoder_cases(name, layer_norm_is_default="Dense" in name)
    cases += size_cases(name) + size_cases(name, scanpath_type="colwise")
    if name in ("FastVim", "DenseFastVim"):
        axes = {"collapse_method": ["mean", "max"], "rotate_every_block": ON_OFF}
    else:
        axes = {"class_token": ["middle", "head", "none"]} if name == "Vim" else {}
    cases += vary(name, {**axes, "scanpath_type": PATHS, "if_abs_pos_embed": ON_OFF})
    if "Dense" in name:
        cases += vary(name, {"out_indices": [(1,), (-1,), (-1, 0)], "scanpath_type": PATHS})
        cases += vary(name, {"residual_stream": [True], "scanpath_type": PATHS})
    else:
        cases += vary(name, {"final_pool_type": POOLS, "scanpath_type": PATHS})
        cases += [Case(name, {"num_classes": 0})]
    if name == "Vim":
        cases += vary(name, {"class_token": ["head", "none"], "final_pool_type": POOLS})
        cases += size_cases(name, class_token="head") + size_cases(name, class_token="none")
    return [*cases, Case(name, {"in_chans": 1})]


def channel_cases(name):
    cases = encoder_cases(name) + size_cases(name)
    cases += size_cases(name, scanpath_type="colwise", scan_order="spatial-first")
    walks = {"scan_order": ["channel-first", "spatial-first"], "scanpath_type": PATHS}
    if name == "FastChannelVim":
        walks |= {"collapse_method": ["mean", "max"], "rotate_every_block": ON_OFF}
        cases += vary(name, {**walks, "compress_2d": ON_OFF})
        cases += vary(name, {"compress_2d": [True], "depth": [4], "scaling_factor": [0.25]})
        cases += vary(name, {"final_pool_type": POOLS, "scan_order": walks["scan_order"]})
    else:
        cases += vary(name, {**walks, "class_token": ["middle", "head"]})
    for order, path in itertools.product(*list(walks.values())[:2]):
        options = {"in_chans": 4, "scan_order": order, "scanpath_type": path}
        sizes = [(12, 8), (5, 9), (5, 9), (12, 8)]
        cases += [
            Case(name, options, channels=[3, 0]),
            Case(name, options, channels=[2]),
            Case(name, options, channels=[[3, 0, 1], [1, 2, 0]]),
            Case(name, options, size=sizes, channels=[[0, 3], [2], [1], [1, 2]]),
            Case(name, options, size=[(12, 8), (5, 9)], channels=[1, 3]),
        ]
    options = [{"if_abs_pos_embed": False}, {"num_classes": 0}]
    # how channels are drawn in training, and how their embeddings start: nothing changes here
    options += [{"hcs": False}, {"channel_std": 1.0}]
    return cases + [Case(name, chosen) for chosen in options]


def masked_cases(name):
    cases = encoder_cases(name) + size_cases(name)
    walks = {}
    if name == "FastMaskVim":
        walks = {"mirrored_rows": ON_OFF, "rotate_every_block": ON_OFF}
    for ratio in (0.0, 0.5, 0.75):
        cases += vary(name, walks, size=(12, 20), mask_ratio=ratio)
    # rows and columns of the three by two grid that are left empty: first, last, in between
    cases += vary(name, walks, kept=[[0, 1, 4], [2, 3, 5]])
    cases += vary(name, walks, kept=[[0, 2, 4], [1, 3, 5]])
    cases += vary(name, walks, kept=[[0, 5], [1, 2]], mask_ratio=0.6)
    cases += vary(name, {"norm_pix_loss": ON_OFF, "in_chans": [1, 3]})
    options = [{"decoder_depth": 2}, {"decoder_embed_dim": 16}]
    # one token is kept, whatever the ratio
    return [*(Case(name, chosen) for chosen in options), *cases, Case(name, mask_ratio=0.95)]


MAKERS = {
    "FastVim": image_cases,
    "Vim": image_cases,
    "DenseFastVim": image_cases,
    "DenseVim": image_cases,
    "FastChannelVim": channel_cases,
    "ChannelVim": channel_cases,
    "FastMaskVim": masked_cases,
    "MaskVim": masked_cases,
}
CASES = {str(case): case for name, make in MAKERS.items() for case in make(name)}


def deviation(got, want):
    """Largest error relative to the largest value."""
    got = got.detach().double().numpy()
    assert got.shape == want.shape
    return np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)


def silenced(state):
    """The state dict with scans that give zero, and the skips alone left."""
    silent = dict(state)
    for name, value in state.items():
        if "x_proj" in name:  # the last rows make C, which all of a scan's output goes through
            silent[name] = np.concatenate([value[:-STATE], np.zeros_like(value[-STATE:])])
    return silent


@torch.no_grad()
def prepare(case):
    """A model, its inputs, their copies in float64 and what the oracle makes of them.

    The scan's inputs and outputs are enlarged until it makes a tenth of the outputs, as it would
    drown in the skip else; but not beyond, as every scan enlarges rounding errors.
    """
    model = case.build()
    images, noise = case.inputs()
    pixels = [image.double().numpy() for image in images]
    for _ in range(12):
        state = float64(model.state_dict())
        expected = case.expect(state, pixels, noise)
        silent = case.expect(silenced(state), pixels, noise)
        name = next(name for name in ("logits", "map 0", "latent") if name in expected)
        share = np.abs(silent[name] - expected[name]).max() / np.abs(expected[name]).max()
        if share > 0.1:
            return model, images, noise, state, pixels, expected
        for name, parameter in model.named_parameters():
            if "x_proj" in name:
                parameter *= 1.5
    raise AssertionError(f"the scans make only {share:.3f} of the outputs")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs(case):
    model, images, noise, _, _, expected = prepare(case)
    got = case.run(model, images, noise)
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        error = deviation(got[name], want)
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def scalar(outputs):
    """What gradients are taken of: the loss, or the mean square of logits or of each map."""
    if "loss" in outputs:
        return outputs["loss"]
    return sum((v**2).mean() for k, v in outputs.items() if k == "logits" or k.startswith("map"))


GRADIENTS = [
    Case("FastVim"),
    Case("FastVim", {"collapse_method": "max", "rms_norm": False, "init_layer_scale": 0.3}),
    Case("FastVim", {"scaling_factor": 0.25, "final_pool_type": "max"}, size=(9, 14)),
    Case("Vim", {"use_norm_after_ssm": False}, size=(12, 20)),
    Case("DenseFastVim", {"out_indices": (0, 2), "scanpath_type": "colwise"}),
    Case("FastChannelVim", {"compress_2d": True}, channels=[2, 0]),
    Case("FastChannelVim", {"compress_2d": True, "scan_order": "spatial-first",
                            "collapse_method": "max"}, channels=[1, 2]),
    Case("ChannelVim", {"in_chans": 2}),
    Case("FastMaskVim", kept=[[0, 1, 4]]),
    Case("FastMaskVim", {"mirrored_rows": True, "norm_pix_loss": False}, kept=[[0, 1, 4]]),
    Case("MaskVim"),
]  # fmt: skip


@pytest.mark.parametrize("case", GRADIENTS, ids=map(str, GRADIENTS))
def test_gradients(case):
    """Of every kind of parameter, in all blocks at once, and of the images."""
    case = replace(case, batch=1)
    model, images, noise, state, pixels, _ = prepare(case)
    leaves = {name: v for name, v in model.named_parameters() if v.requires_grad}
    leaves["image"] = images.requires_grad_()
    scalar(case.run(model, images, noise)).backward()
    kinds = {}
    for name in leaves:
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    everything = state | {"image": np.stack(pixels)}
    generator = np.random.default_rng(0)
    for kind, names in kinds.items():
        along = {name: generator.normal(size=everything[name].shape) for name in names}
        got = sum((along[name] * leaves[name].grad.double().numpy()).sum() for name in names)
        length = math.sqrt(sum(leaves[name].grad.double().square().sum() for name in names))
        either = []
        for step in (1e-5, -1e-5):
            moved = {name: everything[name] + step * along[name] for name in names}
            moved = everything | moved
            either.append(scalar(case.expect(moved, moved["image"], noise)))
        want = (either[0] - either[1]) / 2e-5
        assert abs(got - want) < 1e-4 * max(abs(want), length), f"{kind}: {got}, not {want}"


CHOICES = {
    "final_pool_type": FINAL_POOLS,
    "scanpath_type": SCAN_PATHS,
    "scan_order": SCAN_ORDERS,
    "class_token": CLASS_TOKENS,
    "collapse_method": ("mean", "max"),
}
"""All values of an option; of the others two are wanted, and of switches those are all."""

REFUSED = [
    *((name, option, value) for name in ("Vim", "DenseVim", "ChannelVim", "MaskVim")
      for option, value in (("collapse_method", "max"), ("scaling_factor", 0.25))),
    ("FastMaskVim", "collapse_method", "max"),
    ("ChannelVim", "class_token", "none"),
]  # fmt: skip
"""Values that mean nothing to a model."""


@pytest.mark.parametrize("name", MAKERS)
def test_every_option_is_among_the_cases(name):
    """So that a new option without an oracle does not pass."""
    parameters = inspect.signature(getattr(fastvim, name).__init__).parameters
    assert parameters["encoder"].kind == inspect.Parameter.VAR_KEYWORD
    options = {option: given.default for option, given in parameters.items()}
    del options["self"], options["encoder"]
    encoder = inspect.signature(Encoder.__init__).parameters
    assert set(EncoderOptions.__annotations__) <= set(encoder)
    for option in EncoderOptions.__annotations__:
        options.setdefault(option, encoder[option].default)
    given = [case.all_options for case in CASES.values() if case.name == name]
    assert set().union(*given) <= set(options)
    for option, in_signature in options.items():
        default = getattr(with_defaults(name, {}), option, in_signature)
        values = {default, *(chosen.get(option, default) for chosen in given)}
        refused = {value for model, key, value in REFUSED if (model, key) == (name, option)}
        if option in CHOICES:
            assert values == set(CHOICES[option]) - refused, option
        else:
            assert len(values | refused) > 1, option


@pytest.mark.parametrize(("name", "option", "value"), REFUSED)
def test_refused_options(name, option, value):
    with pytest.raises(ValueError, match=f"{option}|nothing is pooled"):
        Case(name, {option: value}).build()


def masked_and_plain(**options):
    """FastMaskVim that keeps everything, and FastVim with its weights and positions."""
    masked = Case("FastMaskVim", {**options.pop("masked", {})}).build()
    plain = Case("FastVim", options).build()
    missing, _ = plain.load_state_dict(masked.state_dict(), strict=False)
    assert missing == ["head.weight", "head.bias"]
    return masked, plain


@torch.no_grad()
@pytest.mark.parametrize("mirrored", ON_OFF)
def test_mask_ratio_0_is_fastvim(mirrored):
    masked, plain = masked_and_plain(masked={"mirrored_rows": mirrored})
    images, noise = Case("FastMaskVim").inputs()
    latent, _ = masked.forward_encoder(images, 0.0, noise)
    torch.testing.assert_close(latent, plain.forward_features(images).flatten(1, 2))


@torch.no_grad()
def test_scaling_factor_is_for_masked_tokens():
    """With all tokens kept, a row's sum over its length is its mean, which 1 leaves as it is."""
    images, noise = Case("FastMaskVim").inputs()
    for masked_by, plain_by in ((1.0, 1.0), (0.25, 0.25), (1.0, 0.25)):
        options = {"masked": {"scaling_factor": masked_by}, "scaling_factor": plain_by}
        masked, plain = masked_and_plain(**options)
        latent, _ = masked.forward_encoder(images, 0.0, noise)
        features = plain.forward_features(images).flatten(1, 2)
        error = (latent - features).abs().max() / features.abs().max()
        assert error < 1e-5 if masked_by == plain_by else error > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kept", [None, [[0, 1, 4], [2, 3, 5]]])
def test_mirrored_rows_matter_only_to_masked_tokens(kept):
    case = Case("FastMaskVim", mask_ratio=0.5 if kept else 0.0, kept=kept)
    images, noise = case.inputs()
    own, mirrored = (
        replace(case, options={"mirrored_rows": on})
        .build()
        .forward_encoder(images, case.mask_ratio, noise)[0]
        for on in (False, True)
    )
    assert torch.equal(own, mirrored) == (kept is None)


@torch.no_grad()
@pytest.mark.parametrize("name", MAKERS)
def test_no_path_is_dropped_in_evaluation(name):
    images, noise = Case(name).inputs()
    outputs, dropped = (
        case.run(case.build(), images, noise)
        for case in (Case(name), Case(name, {"drop_path_rate": 0.9}))
    )
    assert all(torch.equal(outputs[key], dropped[key]) for key in outputs)


@torch.no_grad()
def test_drop_path_in_training():
    """Of every image, each block's output is zero or enlarged; rates rise from 0 to the last's."""
    case = Case("FastVim", {"drop_path_rate": 0.6}, batch=1)
    model, images, _, state, pixels, _ = prepare(case)
    o = with_defaults("FastVim", case.all_options)
    possible = {}
    for second, third in itertools.product((0, 1 / 0.7), (0, 1 / 0.4)):
        o.scales = [1.0, second, third]
        possible[second, third] = oracle_classifier(o, state, pixels[0])["logits"]
    seen = dict.fromkeys(possible, 0)
    for logits in model.train()(images.expand(500, -1, -1, -1)):
        errors = {scales: deviation(logits, want) for scales, want in possible.items()}
        nearest = min(errors, key=errors.get)
        assert errors[nearest] < 1e-5
        seen[nearest] += 1
    for (second, third), count in seen.items():
        share = (0.7 if second else 0.3) * (0.4 if third else 0.6)
        assert count / 500 == pytest.approx(share, abs=0.08)  # over three standard deviations


@pytest.mark.parametrize("size", [(12, 8), (12, 20), 16])
@pytest.mark.parametrize("name", ["FastMaskVim", "MaskVim"])
def test_new_positions_are_sincos(name, size):
    """After a zero row for a class token, and of the decoder's width for the decoder."""
    o = with_defaults(name, BASE[name] | {"img_size": size})
    model = getattr(fastvim, name)(**BASE[name] | {"img_size": size})
    for got, dim in ((model.pos_embed, 8), (model.decoder_pos_embed, 12)):
        want = sincos(trained_grid(o), dim)
        if not o.pools:
            want = np.concatenate([np.zeros((1, dim)), want])
        assert not got.requires_grad
        assert deviation(got[0], want) < 1e-6


@pytest.mark.parametrize("name", ["FastChannelVim", "ChannelVim"])
def test_channel_std_is_that_of_new_channel_embeddings(name):
    for deviation_wanted in (0.02, 1.0):
        torch.manual_seed(0)
        options = {**BASE[name], "in_chans": 200, "channel_std": deviation_wanted}
        drawn = getattr(fastvim, name)(**options).patch_embed.channel_embed.weight.std().item()
        assert drawn == pytest.approx(deviation_wanted, rel=0.1)
