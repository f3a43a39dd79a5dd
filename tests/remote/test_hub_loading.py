"""Every class and command opens a model by repository and revision, and says in one line why it cannot."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mcl_hf import MCLForPreTraining, MCLImageProcessor
from mcl_hf.engine.state import RECORD, TrainingState
from mcl_hf.remote.checkpoints import HubSource, hub_source
from mcl_hf.transfer import export_checkpoint
from tests.models.tiny import tiny_config

DOORS = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForPreTraining
import mcl_hf
from mcl_hf import *
pixels = load_file({pixels!r})["pixels"]
found = {{}}
with torch.no_grad():
    for revision in ("v1", "main"):
        kind = dict(revision=revision)
        for name in {names}:
            model = eval(name).from_pretrained("alice/net", **kind).eval()
            found[f"{{name}} {{revision}}"] = model(pixels).feature_maps[-1].contiguous()
        detector = MCLForObjectDetection.from_pretraining(f"alice/net@{{revision}}", num_labels=2, detector="retinanet")
        found[f"detector {{revision}}"] = detector.state_dict()["backbone.conv1.0.weight"]
        model = MCLModel(MCLConfig.from_pretrained("alice/net", **kind))
        load_starting_weights(model, f"alice/net@{{revision}}")
        found[f"init {{revision}}"] = model.state_dict()["backbone.conv1.0.weight"]
    whole = {whole}
    found["target"] = whole.target.state_dict()["backbone.conv1.0.weight"]
    MCLImageProcessor.from_pretrained("alice/net")
save_file(found, {out!r})
"""


@pytest.fixture(scope="module")
def models() -> list[MCLForPreTraining]:
    """The model of the tag v1, and the newer one of main."""
    torch.manual_seed(0)
    return [MCLForPreTraining(tiny_config()).eval() for _ in range(2)]


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory) -> list[Path]:
    made = []
    for model in models:
        folder = tmp_path_factory.mktemp("run")
        model.mcl.save_pretrained(folder)
        MCLImageProcessor.from_config(model.config).save_pretrained(folder)
        with torch.no_grad():
            model.target.backbone.conv1[0].weight.add_(1)
        model.save_pretrained(folder / "pretraining")
        made.append(folder)
    return made


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(hub, folders, private: bool = False) -> None:
    """The first model as alice/net@v1, the second as its main."""
    hub.store.add("alice/net", read(folders[0]), private=private)
    hub.store.set_ref(hub.store.repos["model", "alice/net"], "refs/tags/v1", "main")
    hub.store.add("alice/net", read(folders[1]))


def assert_opened(found: dict[str, torch.Tensor], models, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        for revision, model in zip(("v1", "main"), models, strict=True):
            maps = model.mcl(pixels)
            weight = model.mcl.backbone.conv1[0].weight
            for name, value in found.items():
                if name.endswith(f" {revision}"):
                    expected = weight if name.startswith(("detector", "init")) else (
                        maps.backbone_feature_maps if "Backbone" in name else maps.feature_maps)[-1]  # fmt: skip
                    assert torch.equal(value, expected), name
        assert torch.equal(found["target"], models[1].target.backbone.conv1[0].weight)


def test_every_class_opens_a_private_repository_by_revision_and_offline_again(hub, client, models, folders, tmp_path):
    publish(hub, folders, private=True)
    pixels = torch.rand(1, 3, 64, 64)
    save_file({"pixels": pixels}, tmp_path / "pixels")
    paths = {"pixels": str(tmp_path / "pixels"), "out": str(tmp_path / "found")}
    done = client(
        DOORS.format(names=["MCLModel", "MCLBackbone", "AutoModel", "AutoBackbone"], **paths,
                     whole="AutoModelForPreTraining.from_pretrained('alice/net', subfolder='pretraining')"),
        token="hf_alice",
    )  # fmt: skip
    assert done.code == 0 and "hf_alice" not in done.text, done.text
    assert_opened(load_file(tmp_path / "found"), models, pixels)

    (tmp_path / "found").unlink()
    asked = len(hub.requests)
    done = client(
        DOORS.format(names=["MCLModel", "MCLBackbone"], **paths,
                     whole="MCLForPreTraining.from_pretrained('alice/net', subfolder='pretraining')"),
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert done.code == 0 and len(hub.requests) == asked, done.text
    assert_opened(load_file(tmp_path / "found"), models, pixels)


def test_timm_opens_its_export_by_name_and_it_starts_a_run(hub, client, models, folders, tmp_path):
    export_checkpoint(folders[1], tmp_path / "timm", "timm")
    hub.store.add("alice/net-timm", read(tmp_path / "timm"))
    done = client(f"""
import timm, torch
from safetensors.torch import save_file
from mcl_hf import *
from tests.models.tiny import tiny_config
network = timm.create_model("hf-hub:alice/net-timm", pretrained=True)
model = MCLModel(tiny_config())
print(load_starting_weights(model, "timm:hf-hub:alice/net-timm@main"))
save_file({{"timm": network.state_dict()["conv1.0.weight"], "ours": model.backbone.conv1[0].weight.detach()}},
          {str(tmp_path / "found")!r})
""")
    assert done.code == 0, done.text
    expected = models[1].mcl.backbone.conv1[0].weight
    for found in load_file(tmp_path / "found").values():
        assert torch.equal(found, expected)


def test_the_licence_of_a_start_is_that_of_its_card_or_of_what_its_run_recorded(hub, client, folders, tmp_path):
    recorded = json.dumps(asdict(TrainingState(step=4, start={"kind": "timm", "name": "x", "licence": "of-its-start"})))
    for name, card, more in [
        ("card", "license: cc-by-nc-4.0", {RECORD: recorded}),
        ("named", "license: other\nlicense_name: own-terms", {}),
        ("run", "library_name: transformers", {RECORD: recorded}),
        ("silent", "license: unknown", {}),
        ("broken", "license: [mit", {}),
    ]:
        files = read(folders[0]) | {name: text.encode() for name, text in more.items()}
        hub.store.add(f"alice/{name}", files | {"README.md": f"---\n{card}\n---\n# Net\n".encode()})
    hub.store.add("alice/bare", read(folders[0]))
    starts = ["alice/card", "alice/card@main", "alice/card/pretraining", *(
        f"alice/{name}" for name in ("named", "run", "silent", "broken", "bare"))]  # fmt: skip
    code = f"""
from mcl_hf.engine.provenance import start_record
from mcl_hf.transfer.starting_weights import check_start
for start in {starts}:
    check_start(start)
    print("found", start_record(start).get("licence"))
"""
    expected = ["cc-by-nc-4.0"] * 3 + ["own-terms", "of-its-start", "None", "None", "None"]
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):  # the second time all of it is in the cache
        done = client(code, **offline)
        assert done.code == 0, done.text
        assert [line.split()[1] for line in done.out.splitlines() if line.startswith("found")] == expected


def test_commands_take_a_revision_a_folder_and_the_last_checkpoint_of_an_unfinished_run(
    hub, command, folders, tmp_path
):
    publish(hub, folders)
    for step, folder in ((2, folders[0]), (10, folders[1])):
        files = {**read(folder), "manifest.json": b'{"files": {}}'}
        hub.store.add("alice/run", {f"checkpoints/step-{step:08d}/{name}": data for name, data in files.items()})
    for number, (source, folder) in enumerate(
        [("alice/net@v1", folders[0]), ("alice/net", folders[1]), ("alice/run", folders[1]),
         ("alice/run/checkpoints/step-00000002@main", folders[0]), ("alice/net/pretraining@v1", folders[0])]
    ):  # fmt: skip
        out = tmp_path / f"out{number}"
        done = command("export", source, "--to", "timm", str(out))
        assert done.code == 0, done.text
        expected = load_file(folder / "model.safetensors")
        found = load_file(out / "model.safetensors")
        assert all(torch.equal(tensor, expected[f"backbone.{name}"]) for name, tensor in found.items()) and found, (
            source
        )


ONE_LINE = [
    ("alice/none", "hf_alice", {}, "no repository alice/none on the Hub that can be seen"),
    ("alice/net", None, {}, "log in with 'hf auth login' if it is private"),
    ("alice/net", "hf_bob", {}, "check the token in HF_TOKEN if it is private"),
    ("alice/net", "hf_wrong", {}, "the Hub does not know your token; mend or unset HF_TOKEN"),
    ("alice/net@v9", "hf_alice", {}, "the repository alice/net on the Hub has no revision v9"),
    ("alice/net", "hf_alice", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set and the cache"),
    ("alice/bare", "hf_alice", {}, "alice/bare holds no "),
    ("alice/slim/pretraining", "hf_alice", {}, "holds no *.safetensors or *.json in pretraining"),
    ("alice", "hf_alice", {}, "neither "),
]


@pytest.mark.parametrize(("source", "token", "more", "words"), ONE_LINE)
def test_what_the_hub_does_not_give_is_one_line_and_exit_code_2(
    hub, command, folders, tmp_path, source, token, more, words
):
    publish(hub, folders, private=True)
    hub.store.add("alice/bare", {"notes.txt": b"none"})
    hub.store.add("alice/slim", {"config.json": b"{}"})
    commands = [
        ("export", source, "--to", "timm", "out"),
        ("pretrain", "--recipe", "demo", "--init", source, "--output-dir", "run"),
        ("probe", source, "--data", "none"),
    ]
    for arguments in commands[: 3 if source == "alice/net" else 1]:
        done = command(*arguments, token=token, **more)
        assert done.code == 2, done.text
        last = done.err.splitlines()[-1]
        assert last.startswith("mcl-hf: error: ") and words in last, done.text
        assert "allow_patterns" not in done.err
        assert "Traceback" not in done.text and (token is None or token not in done.text)
    assert not (tmp_path / "client" / "out").exists()


FAULTS = {
    "model info: 503": ("GET", "/revision/", {"kind": "status"}),
    "model info: 500": ("GET", "/revision/", {"kind": "status", "status": 500}),
    "model info: 429, to wait 7 s": ("GET", "/revision/", {"kind": "status", "status": 429, "retry_after": 7}),
    "model info: reset, three times": ("GET", "/revision/", {"kind": "reset", "count": 3}),
    "model info: closed": ("GET", "/revision/", {"kind": "close"}),
    "listing: 503": ("GET", "/tree/", {"kind": "status"}),
    "listing: cut off": ("GET", "/tree/", {"kind": "truncate"}),
    "file's head: 503": ("HEAD", "model.safetensors", {"kind": "status"}),
    "file's head: reset": ("HEAD", "model.safetensors", {"kind": "reset"}),
    "file's head: closed": ("HEAD", "model.safetensors", {"kind": "close"}),
    "file: 503": ("GET", "model.safetensors", {"kind": "status"}),
    "file: reset": ("GET", "model.safetensors", {"kind": "reset"}),
    "file: closed": ("GET", "model.safetensors", {"kind": "close"}),
    "file: half, closed": ("GET", "model.safetensors", {"kind": "truncate"}),
    "file: half, reset": ("GET", "model.safetensors", {"kind": "truncate", "reset": True}),
    "configuration: reset": ("GET", "config.json", {"kind": "reset"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_pass_cost_a_line_at_most(hub, client, models, folders, tmp_path, name):
    publish(hub, folders, private=True)
    method, path, fault = FAULTS[name]
    for number, code in enumerate(
        [
            "model = MCLModel(tiny_config()); load_starting_weights(model, 'alice/net')",
            "model = MCLModel.from_pretrained('alice/net')",
        ]
    ):
        if number and path in ("/revision/", "/tree/"):
            continue  # from_pretrained asks for neither
        set_fault = hub.fault(method=method, path=path, **fault)
        done = client(
            f"from mcl_hf import *\nfrom tests.models.tiny import tiny_config\n{code}\n"
            "from safetensors.torch import save_file\nsave_file({'w': model.fpn.output[0].conv.weight.detach()}, 'w')",
            token="hf_alice",
            home=tmp_path / str(number),
        )
        assert done.code == 0 and set_fault not in hub.waiting_faults(), done.text
        assert torch.equal(load_file(tmp_path / str(number) / "w")["w"], models[1].mcl.fpn.output[0].conv.weight)
        assert "hf_alice" not in done.text
        said = [line for line in done.err.splitlines() if "trying again" in line]
        assert len(said) <= fault.get("count", 1)
        if "7 s" in name:
            assert "trying again in 7 s" in said[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_bytes_that_are_not_those_of_the_hub_are_fetched_again_and_else_refused(hub, command, folders, tmp_path, name):
    publish(hub, folders)
    fault = hub.fault("corrupt", "GET", rf"/resolve/.*/{name}")
    done = command("export", "alice/net", "--to", "timm", "once")
    assert done.code == 0 and fault not in hub.waiting_faults(), done.text
    expected, found = (load_file(path / "model.safetensors") for path in (folders[1], tmp_path / "client" / "once"))
    assert all(torch.equal(tensor, expected[f"backbone.{name}"]) for name, tensor in found.items())
    hub.fault("corrupt", "GET", rf"/resolve/.*/{name}", count=-1)
    done = command("export", "alice/net", "--to", "timm", "never", home=tmp_path / "other")
    assert done.code == 2 and len(done.err.splitlines()) == 1, done.text
    assert f"{name} of alice/net has not the hash that the Hub gives for it" in done.err


MISSPELT = ("./my-rum", "/nowhere/my-rum", "~/my-rum", "runs/of/my-rum", "my-rum")


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_folder_is_not_looked_for_on_the_hub(hub, client, name):
    done = client(f"import mcl_hf\nmcl_hf.MCLModel.from_pretrained({name!r})")
    assert f"OSError: there is no folder {name} here" in done.err.splitlines()[-1] and not hub.requests, done.text


@pytest.mark.parametrize("line", [
    "finetune --data bccd-mini --output-dir run --init NAME", "pretrain --recipe demo --output-dir run --init NAME",
    "compare --data bccd-mini --output-dir run --dry-run --starts NAME", "export NAME --to timm out",
    "probe NAME --data photos", "predict NAME photo.png", "evaluate NAME --data bccd-mini",
    "show similarity NAME --image photo.png", "push NAME user/name", "card NAME",
], ids=lambda line: line.split()[0])  # fmt: skip
def test_commands_do_not_look_for_a_misspelt_folder_on_the_hub(hub, command, tmp_path, line):
    (tmp_path / "client").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "client" / "photo.png")
    done = command(*line.replace("NAME", MISSPELT[0]).split())
    assert done.code == 2 and not hub.requests, done.text
    last = done.err.splitlines()[-1]
    assert last.startswith("mcl-hf: error: ") and "my-rum" in last and "Traceback" not in done.text, done.text


def test_a_hub_that_sends_round_in_circles_is_one_line(hub, command):
    hub.fault("status", "GET", "/api/models/alice/net", status=302, location="/api/models/alice/net", count=-1)
    done = command("export", "alice/net", "--to", "timm", "out")
    assert done.code == 2 and len(done.err.splitlines()) == 1 and "redirects" in done.err, done.text


def test_a_hub_that_stays_away_ends_in_one_line_and_a_cached_model_still_opens(hub, client, command, folders):
    publish(hub, folders)
    done = client("from mcl_hf.remote.checkpoints import *\nlocal_checkpoint('alice/net', MODEL_FILES)")
    assert done.code == 0, done.text
    hub.go_away()
    code = "from mcl_hf.remote.checkpoints import *\nprint(local_checkpoint({!r}, MODEL_FILES))"
    assert client(code.format("alice/net")).code == 0
    done = command("export", "alice/other", "--to", "timm", "out", waits=0.001)
    assert done.code == 2
    *lines, last = done.err.splitlines()
    assert "cannot be reached or is busy (ConnectError" in last and "try again later" in last
    assert [line.partition(": ")[0] for line in lines] == ["fetching alice/other"] * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user/name", HubSource("user/name")),
        ("user/na.me-1_2@refs/pr/3", HubSource("user/na.me-1_2", "", "refs/pr/3")),
        ("user/name/checkpoints/step-00000030", HubSource("user/name", "checkpoints/step-00000030")),
        *(
            (text, None)
            for text in ("name", "a/b/c", "../a/b", "/a/b", "~/a", "user/name@", "a@b/c", "user/na..me", "a/b.git")
        ),
    ],
)
def test_names_of_repositories(text, expected):
    assert hub_source(text) == expected


def test_what_lies_here_is_never_asked_for(tmp_path, monkeypatch):
    (tmp_path / "user" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_source("user/name") is None
