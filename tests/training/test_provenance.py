"""What a run records of its machine, start and recipe: enough for a card, and nothing of the person or the host."""

import json
import platform
import socket
from dataclasses import asdict

import pytest
import torch
from torchvision.models import get_model_weights

from mcl_hf.data.sources.licences import describe_sources
from mcl_hf.engine.provenance import _cpu_name, join_machines, machine, recipe_record, start_record
from mcl_hf.engine.resume import continue_from
from mcl_hf.engine.state import RECORD, TrainingState
from mcl_hf.pretraining.arguments import load_arguments
from mcl_hf.pretraining.pretrain import RULES
from tests.data.shard_files import write_parquet
from tests.data.stream_server import serving


def test_the_machine_is_described_without_its_name():
    found = machine(torch.device("cpu"))
    assert found["device"] == found["cpu"] and found["kind"] == "cpu" and found["cores"] >= 1
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or "+" in found["packages"]["torch"]
    assert socket.gethostname() not in json.dumps(found)


def test_a_run_that_goes_on_elsewhere_has_two_machines():
    one, other = {"device": "a", "from_step": 0}, {"device": "b", "from_step": 0}
    assert join_machines([], [one], 0) == [one]
    assert join_machines([one], [one], 5) == [one]
    assert join_machines([one], [other], 5) == [one, {"device": "b", "from_step": 5}]
    assert join_machines([one, {"device": "b", "from_step": 5}], [other], 7)[1:] == [{"device": "b", "from_step": 5}]
    state = TrainingState(machines=[other], start={"kind": "hub"})
    continue_from(state, TrainingState(step=3, machines=[one], start={"kind": "random"}), RULES)
    assert [place["from_step"] for place in state.machines] == [0, 3] and state.start == {"kind": "random"}
    old = TrainingState(machines=[other], start={"kind": "hub"})
    continue_from(old, TrainingState(step=3), RULES)  # of a release that recorded neither
    assert old.start == {"kind": "hub"} and old.machines == [{"device": "b", "from_step": 3}]


def test_keys_in_addresses_are_written_nowhere_and_may_change(tiny_run, tmp_path, capfd):
    write_parquet(tmp_path / "a.parquet", range(12))
    with serving(tmp_path) as server:
        address = server.address.replace("://", "://me:hush-hush@") + "/a.parquet?signature=hush-hush"
        tiny_run(data=address, max_steps=2, save_every_steps=1)
        tiny_run(data=address.replace("hush-hush", "psst"), max_steps=2, save_every_steps=1, resume="auto")
    said = "".join(capfd.readouterr())
    assert "with another data" not in said
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    state = json.loads((tmp_path / "run" / RECORD).read_text())
    assert state["arguments"]["data"] == [f"{server.address}/a.parquet"] and len(written) > 8
    for text in (said.encode(), *(path.read_bytes() for path in written)):
        assert b"hush-hush" not in text and b"psst" not in text


def test_starts(tmp_path):
    assert start_record(None) == start_record("random") == {"kind": "random"}
    assert start_record("timm:resnet18.a1_in1k")["repository"] == "timm/resnet18.a1_in1k"
    assert start_record("timm:hf-hub:user/name-timm@v2")["repository"] == "user/name-timm"
    assert start_record("timm:no_such_network") == {"kind": "timm", "name": "no_such_network"}
    assert start_record("torchvision:maskrcnn_resnet50_fpn_v2") == {
        "kind": "torchvision", "name": "maskrcnn_resnet50_fpn_v2", "licence": None,  # which torchvision states for none
    }  # fmt: skip
    assert start_record("user/name/pretraining@v2")["repository"] == "user/name"
    assert start_record("user/name@v2") == {"kind": "hub", "name": "user/name@v2", "repository": "user/name"}
    folder = tmp_path / "my-run"
    folder.mkdir()
    assert start_record(str(folder)) == {"kind": "folder", "name": "my-run"}
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Of the Hub\n")
    (folder / "weights.pth").touch()
    for start in (folder, folder / "weights.pth"):
        assert start_record(str(start)) == {"kind": "folder", "name": start.name, "licence": "cc-by-nc-4.0"}
    state = TrainingState(
        step=4, data={"sources": [{"kind": "files", "name": "images"}]}, recipe={"name": "demo", "changed": []}
    )
    (folder / RECORD).write_text(json.dumps(asdict(state)))
    run = start_record(str(folder))["run"]
    assert (run["recipe"], run["steps"], run["data"]) == ("demo", 4, ["images"])
    assert str(tmp_path) not in json.dumps(start_record(str(folder)))


def test_a_licence_that_torchvision_states_is_recorded(monkeypatch):
    weights = get_model_weights("retinanet_resnet50_fpn").DEFAULT
    monkeypatch.setitem(weights.meta, "license", "cc-by-nc-4.0")
    assert start_record("torchvision:retinanet_resnet50_fpn")["licence"] == "cc-by-nc-4.0"


def test_what_differs_from_a_recipe_is_known(tmp_path):
    same = load_arguments("demo", max_steps="120", temperature=0.2)
    assert same.recipe == {"name": "demo", "changed": []}
    other = load_arguments("demo", max_steps=3, num_workers=0, output_dir="x")
    assert set(other.recipe["changed"]) == {"max_steps", "num_workers", "output_dir"}
    assert recipe_record(other.recipe, RULES.without_influence) == {"name": "demo", "changed": ["max_steps"]}
    assert set(load_arguments("demo", epochs=2).recipe["changed"]) == {"epochs", "max_steps"}  # replaced the recipe's
    assert load_arguments(data="x", seed=0).recipe == {"name": None, "changed": ["data"]}
    own = tmp_path / "own.yaml"
    own.write_text("max_steps: 7\nmontage_fractions: [1, 1/4, 1/16, 1/32]\n")
    assert load_arguments(str(own), montage_fractions="1,1/4,1/16,1/32").recipe == {"name": "own.yaml", "changed": []}
    assert recipe_record(None, ()) == {}


def test_sources_are_named_without_folders_servers_and_secrets(tmp_path, monkeypatch):
    (tmp_path / "secret" / "images").mkdir(parents=True)
    folder = str(tmp_path / "secret" / "images")
    assert describe_sources([folder]) == [{"kind": "files", "name": "images", "licence": None}]
    found = describe_sources([f"{folder}=0.7", "https://me:key@host/a/b-{000..127}.tar?sig=1=0.3"])
    assert [source["name"] for source in found] == ["images", "b-{000..127}.tar"]
    assert [source["weight"] for source in found] == [0.7, 0.3]
    assert "CC0" in describe_sources(["photos"])[0]["licence"]
    assert describe_sources(["hf://datasets/user/set@main/data/*.parquet"])[0]["name"] == "user/set"
    assert describe_sources(["user/set"]) == [{"kind": "hub", "name": "user/set", "licence": None}]
    assert describe_sources(["/nowhere/*.parquet"])[0] == {"kind": "files", "name": "*.parquet", "licence": None}


def test_the_licence_of_a_hub_data_set_is_that_of_its_cached_card(tmp_path, monkeypatch):
    card = tmp_path / "README.md"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(card))
    for header, expected in [
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: [mit, apache-2.0]", "mit, apache-2.0"),
        ("license: other\nlicense_name: my-terms", "my-terms"),
        ("language: en", None),
    ]:
        card.write_text(f"---\n{header}\n---\n# Set\n")
        assert describe_sources(["user/set"])[0]["licence"] == expected


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 26, model 2)"),
        ("cpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Intel(R) Xeon(R) 8375C\n", "Intel(R) Xeon(R) 8375C"),
        ("model name\t: Fast CPU\n\nmodel name\t: \n", "Fast CPU"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", platform.processor() or platform.machine()),
    ],
)
def test_a_cpu_whose_name_is_its_lines_is_known_by_its_generation(tmp_path, told, name):
    (tmp_path / "cpuinfo").write_text(told)
    assert _cpu_name(tmp_path / "cpuinfo") == name
