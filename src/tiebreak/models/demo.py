"""Demo models: the real classes at a tiny size, in the package, pre-trained without labels on the sample's language.

`demo-NAME` is a folder beside this file, loaded like any other base; pretrain_demo.py made it. `demo-NAME-random` is
the same model with a random start, written once into the cache.
"""

import shutil
from pathlib import Path

from tiebreak.config import cache_folder
from tiebreak.files import new_folder

BASES = Path(__file__).with_name("demo_bases")
RECORD = BASES / "bases.json"
"""Hash, size, held-out losses and script of each shipped base."""
RANDOM = "-random"
PRETRAINED = ("gemma2", "llama2", "llama3", "qwen2", "deberta")
FAMILIES = {f"demo-{family}{start}": family for family in PRETRAINED for start in ("", RANDOM)}
SEED = 0
VERSION = 5
STEEP = 0.1
"""Standard deviation of a random start, about 1 / sqrt(width). The families' own 0.02 suits widths of thousands: here
attention would start even over all tokens. Gemma-2 norms every block's output to size one, so its embeddings (times
10) must start as large too."""
WEIGHTS_FILE = "model.safetensors"


def is_built(name: str) -> bool:
    """Whether the folder of a demo model is there already."""
    return (demo_path(name) / WEIGHTS_FILE).is_file()


def demo_path(name: str) -> Path:
    """Where a demo model lies, or will lie once it is built."""
    if name.endswith(RANDOM):
        return cache_folder() / "models" / f"{name}-v{VERSION}"
    return BASES / FAMILIES[name]


def demo_folder(name: str) -> Path:
    """The local folder of a demo model, built if it is not there yet."""
    folder = demo_path(name)
    if not is_built(name):
        with new_folder(folder, existing="keep") as temporary:  # another process may be first; both are the same
            for file in (BASES / FAMILIES[name]).iterdir():
                if file.name != WEIGHTS_FILE:
                    shutil.copyfile(file, temporary / file.name)
            write_random_weights(temporary)
    return folder


def write_random_weights(folder: Path) -> None:
    """Write the weights of a random start beside a configuration, the same for every caller."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

    with torch.random.fork_rng():
        set_seed(SEED)
        config = AutoConfig.from_pretrained(folder)
        config.initializer_range = STEEP
        model = AutoModelForSequenceClassification.from_config(config)
    # Not save_pretrained: in a job of several ranks it writes on the first alone.
    save_file(model.state_dict(), folder / WEIGHTS_FILE, metadata={"format": "pt"})
