"""The checkpoint that comes with the package: what it is, that its recipe makes it, and that its card tells of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import mcl_hf
from mcl_hf.cli import main
from mcl_hf.hub.card_data import read_recorded
from mcl_hf.pretraining.arguments import load_arguments
from mcl_hf.recipes import load_recipe
from mcl_hf.remote.checkpoints import local_checkpoint
from scripts.make_demo_checkpoint import demo_card, half

FOLDER = mcl_hf.demo_checkpoint()


class _Enough(Exception):
    pass


class _Stop:
    """Ends a run after its first record."""

    def on_log(self, run, record):
        raise _Enough


def test_it_is_small_and_opens_in_single_precision():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 4_000_000
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if file.get_tensor(name).dim() > 1}  # noqa: SIM118
    assert kinds == {torch.float16}
    model = mcl_hf.MCLModel.from_pretrained(FOLDER)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert len(model(torch.rand(1, 3, 64, 96)).feature_maps) == 4


def test_half_precision_keeps_what_is_small():
    assert half(torch.full((3,), 1e-9)).dtype == torch.float32 and half(torch.ones(2, 2)).dtype == torch.float16


def test_its_record_is_that_of_the_recipe():
    recorded = read_recorded(FOLDER)
    expected = load_arguments("demo")
    assert {name: recorded.arguments[name] for name in load_recipe("demo")} == {
        name: getattr(expected, name) for name in load_recipe("demo")
    }
    assert recorded.state.recipe["name"] == "demo" and recorded.finished
    assert recorded.step == expected.max_steps == recorded.log[-1]["step"]
    config = expected.model_config().to_dict()
    different = {name for name, value in config.items() if recorded.config[name] != value}
    assert different <= {"architectures", "dtype", "image_mean", "image_std"}
    text = (FOLDER / "training_state.json").read_text() + (FOLDER / "log.jsonl").read_text()
    assert not re.search(r'"/\w+/', text)  # no path of the machine


@pytest.mark.slow
def test_its_recipe_trained_anew_begins_as_it_did(tmp_path):
    options = {**load_recipe("demo"), "output_dir": str(tmp_path / "run"), "device": "cpu", "num_workers": 0}
    with pytest.raises(_Enough):
        mcl_hf.pretrain(**options, callbacks=[_Stop()])
    now = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    then = read_recorded(FOLDER).log[0]
    assert now["step"] == then["step"] == 5
    for name in ("loss", "level_losses", "positive_similarity", "learning_rate", "feature_std"):
        assert np.allclose(now[name], then[name], rtol=2e-2, atol=5e-3), name


def test_its_card_is_the_one_that_is_made_and_its_code_runs(tmp_path):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert demo_card(FOLDER, tmp_path) == card
    assert "license: apache-2.0" in card and "`demo`" in card and "embedded photos" in card
    codes = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    blocks = [code for code in codes if "demo_checkpoint" in code]
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "card of demo", "exec"), {})


def test_the_name_stands_for_it_where_a_command_takes_a_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert local_checkpoint("demo", ["*.json"]) == FOLDER
    photo = Path(mcl_hf.__file__).parent / "data" / "bccd_mini" / "test" / "BloodImage_00007.jpg"
    assert main(["show", "similarity", "demo", "--image", str(photo), "--positions", "4"]) == 0
    assert (tmp_path / "similarity.png").is_file()
    assert main(["export", "demo", "--to", "timm", "timm"]) == 0
    capsys.readouterr()
    own = tmp_path / "demo"
    own.mkdir()
    assert local_checkpoint("demo", ["*.json"]).resolve() == own  # what lies here is meant
    assert main(["show", "similarity", "demo", "--image", str(photo)]) == 2


def test_it_finds_more_than_a_random_network():
    """The same region in a shrunken picture: its embedding is nearer than those of the other regions."""
    from mcl_hf.demo.subject import embedded_pictures
    from mcl_hf.viz.similarity import to_pixel_values

    picture = embedded_pictures()[0].resize((192, 192))
    boxes = torch.tensor([[x, y, x + 48.0, y + 48.0] for y in range(0, 192, 48) for x in range(0, 192, 48)])
    trained = mcl_hf.MCLModel.from_pretrained(FOLDER).eval()
    torch.manual_seed(0)
    random = mcl_hf.MCLModel(trained.config).eval()
    found = {}
    for name, model in (("trained", trained), ("random", random)):
        large, small = to_pixel_values(picture, model), to_pixel_values(picture.resize((96, 96)), model)
        with torch.no_grad():
            one = torch.nn.functional.normalize(model.embed_regions(large[None], [boxes]), dim=1)
            other = torch.nn.functional.normalize(model.embed_regions(small[None], [boxes / 2]), dim=1)
        cosines = one @ other.T
        found[name] = float(cosines.diag().mean() - cosines[~torch.eye(16, dtype=torch.bool)].mean())
    assert found["trained"] > 0.2 and found["trained"] > found["random"], found
