"""Models to and from a folder: options as config.json, weights as safetensors."""

import json
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Pretrained(nn.Module):
    """A model that its constructor's `options` rebuild.

    Nothing is pickled, so that loading a foreign folder runs none of its code.
    """

    options: dict[str, Any]

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
        """Rebuild a saved model on the CPU, in evaluation mode.

        Raises FileNotFoundError where a file is absent and ValueError for another model's folder.
        """
        folder = Path(folder)
        options = json.loads((folder / CONFIG).read_text())
        name = options.pop("model", None)
        if name != cls.__name__:
            raise ValueError(
                f"{folder / CONFIG}: expected model {cls.__name__!r}, got {name!r}. "
                f"Load it with that class"
            )
        model = cls(**options)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model.eval()
