"""Models to and from a folder: options as config.json, weights as safetensors."""

import json
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """A constructor's options from its `locals()`, those of the encoder among the others."""
    options = {k: v for k, v in arguments.items() if k not in ("self", "__class__", "encoder")}
    return options | arguments.get("encoder", {})


class Pretrained(nn.Module):
    """A model that its constructor's `options` rebuild.

    Nothing is pickled, so that loading a foreign folder runs none of its code.
    """

    options: dict[str, Any]
    grid: tuple[int, int]
    """Rows and columns of the trained positions, as the blocks see them."""
    load_report: Any = None
    """What `load_published` found, if the model is from there."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; makes the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model": type(self).__name__, **self.options}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Rebuild a saved model of this class or a subclass, on the CPU, in evaluation mode.

        Raises FileNotFoundError where a file is absent and ValueError for another model's folder.
        """
        folder = Path(folder)
        options = json.loads((folder / CONFIG).read_text())
        name = options.pop("model", None)
        known = {known.__name__: known for known in _with_subclasses(cls)}
        if name not in known:
            raise ValueError(
                f"{folder / CONFIG}: expected model {cls.__name__!r}, got {name!r}. "
                f"Load it with that class, or with fastvim.from_pretrained"
            )
        model = known[name](**options)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model.eval()


def _with_subclasses(cls: type[Any]) -> list[type[Any]]:
    return [cls, *(known for sub in cls.__subclasses__() for known in _with_subclasses(sub))]


from_pretrained = Pretrained.from_pretrained
