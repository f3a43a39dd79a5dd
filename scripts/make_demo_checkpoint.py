"""Make the checkpoint that comes with the package, by the recipe `demo` from the embedded photos.

    python scripts/make_demo_checkpoint.py demo-run    # trains in demo-run (a finished run there is taken as it is)
    python scripts/make_demo_checkpoint.py             # writes the card anew, after a change of the cards' text

Weights are kept in half precision, biases and all of batch norm in single; config.json says float32, so that the model
opens in that. Beside them lie what the run recorded (without its paths), its log and its card.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcl_hf.cli import main as mcl_hf_command
from mcl_hf.hub.card import render_card
from mcl_hf.hub.card_data import without_private_parts
from mcl_hf.remote.checkpoints import demo_checkpoint


def half(tensor: torch.Tensor) -> torch.Tensor:
    """Kernels and matrices in float16; vectors, of which statistics may be small, as they are."""
    return tensor.half() if tensor.dim() > 1 else tensor


def write_checkpoint(run: Path, folder: Path) -> None:
    """The slim model of a finished run, as small as it can be, with its record."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json", "log.jsonl"):
        shutil.copyfile(run / name, folder / name)
    tensors = {name: half(tensor) for name, tensor in load_file(run / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    state = without_private_parts(json.loads((run / "training_state.json").read_text(encoding="utf-8")))
    (folder / "training_state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def demo_card(folder: Path, pictures: Path) -> str:
    """The card of the folder, whose Python code opens it where the package lies; curves go into `pictures`."""
    card = render_card(folder, title="demo", license="apache-2.0", pictures=pictures)
    card = re.sub(r'\("demo"([,)])', r"(mcl_hf.demo_checkpoint()\1", card)
    return card.replace("```python\nfrom mcl_hf import", "```python\nimport mcl_hf\nfrom mcl_hf import")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run; made where it is not there")
    run, folder = parser.parse_args().run, demo_checkpoint()
    if run is not None:
        code = mcl_hf_command(["pretrain", "--recipe", "demo", "--output-dir", str(run), "--resume", "auto"])
        if code:
            return code
        write_checkpoint(run, folder)
    (folder / "README.md").write_text(demo_card(folder, folder), encoding="utf-8")
    print(f"checkpoint: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
