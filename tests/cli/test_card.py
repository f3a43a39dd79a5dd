"""`mcl-hf card`: where it writes, what it does not replace, and that runs end with a card."""

from pathlib import Path

import pytest

import mcl_hf
from mcl_hf.callbacks import CardWriter
from mcl_hf.cli import main
from mcl_hf.hub.card import check_card
from tests.cli.test_run_and_show import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    options = {TINY[i][2:].replace("-", "_"): TINY[i + 1] for i in range(0, len(TINY), 2)}
    mcl_hf.pretrain(**options, max_steps=2, output_dir=str(folder), callbacks=())
    return folder


def test_a_card_takes_the_place_of_the_short_readme_but_not_of_somebodys(run, tmp_path, capsys):
    assert "`mcl-hf card FOLDER`" in (run / "README.md").read_text()
    for _ in range(2):  # the second time in place of a card
        assert main(["card", str(run)]) == 0, capsys.readouterr().err
    text = (run / "README.md").read_text()
    check_card(text)
    (run / "README.md").write_bytes(text.replace("\n", "\r\n").encode())  # as some editors do
    assert main(["card", str(run)]) == 0 and (run / "README.md").read_text() == text
    (run / "README.md").write_text(text.replace("## Limitations", "## Limits, as I see them"))
    assert main(["card", str(run)]) == 2 and "was written by somebody: name it" in capsys.readouterr().err
    old = "\n".join(line for line in text.split("\n") if "as written by mcl_hf" not in line)  # of earlier versions
    (run / "README.md").write_text(old.replace("## Limitations", "## Limits"))
    assert main(["card", str(run)]) == 0 and (run / "README.md").read_text() == text
    assert "Recipe `demo` with these options changed" in text and (run / "pictures" / "training.png").exists()
    (run / "README.md").write_text("# My own words\n")
    assert main(["card", str(run)]) == 2
    assert "was written by somebody: name it with --out" in capsys.readouterr().err
    (run / "README.md").write_bytes(b"# My own w\xf6rds\n")  # Latin-1
    assert main(["card", str(run)]) == 2
    assert "was written by somebody: name it with --out" in capsys.readouterr().err
    assert main(["card", str(run), "--out", str(run / "README.md"), "--title", "T", "--data-name", "P"]) == 0
    assert "\n# T\n" in (run / "README.md").read_text() and "| P: " in (run / "README.md").read_text()
    assert main(["card", str(run / "checkpoints" / "last"), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "README.md").exists() and (tmp_path / "new" / "pictures" / "training.png").exists()
    assert not (run / "checkpoints" / "last" / "README.md").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of the two"),
        (["RUN", "--recipe", "demo"], "give one of the two"),
        (["absent"], "there is no folder absent"),
        (["RUN", "--evaluation", "absent.json"], "absent.json cannot be read"),
        (["RUN", "--license", "My Own"], "no identifier of the Hub"),
        (["--recipe", "dem0"], "did you mean 'demo'"),
        (["--recipe", "demo", "auto", "--out", "one.md"], "is one file, for 2 recipes"),
        (["--recipe", "demo", "--data-license", "mit"], "--data-license is for the card of a model"),
    ],
)
def test_what_cannot_be_is_one_line(run, capsys, words, said):
    words = [str(run / "pretraining") if word == "RUN" else word for word in words]
    assert main(["card", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_cards_of_recipes_are_printed_or_written(tmp_path, capsys):
    assert main(["card", "--recipe", "demo"]) == 0
    printed = capsys.readouterr().out
    assert main(["card", "--recipe", "demo", "auto", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "demo.md").read_text() == printed and (tmp_path / "auto.md").exists()


def test_without_matplotlib_the_card_has_no_pictures_and_says_why(run, tmp_path, monkeypatch, capsys):
    for place in ("mcl_hf.cli.card", "mcl_hf.hub.card"):
        monkeypatch.setattr(f"{place}.find_spec", lambda name: None)
    assert main(["card", str(run), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("drawn with matplotlib") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert "matplotlib, which was not installed" in (tmp_path / "README.md").read_text()


class Ended:
    """As much of a run as the callback asks for."""

    def __init__(self, folder):
        self.output_dir, self.said = folder, []
        self.accelerator = self.tracking = self
        self.is_main_process = True

    def print(self, line):
        self.said.append(line)


def test_a_run_ends_with_its_card_and_not_for_want_of_one(run, tmp_path):
    ended = Ended(run)
    CardWriter().on_end(ended)
    assert "This card was rendered" in (run / "README.md").read_text() and ended.said == []
    (run / "probe.json").write_text("{")
    CardWriter().on_end(ended)
    (run / "probe.json").unlink()
    assert "no card was written" in ended.said[0] and "probe.json is no JSON" in ended.said[0]


class Notes:
    """What somebody writes while the run goes on."""

    def on_log(self, run, record):
        (run.output_dir / "README.md").write_text("# My notes\n")


def test_a_readme_that_somebody_wrote_beside_a_run_stays(tmp_path, capsys):
    options = {TINY[i][2:].replace("-", "_"): TINY[i + 1] for i in range(0, len(TINY), 2)}
    mcl_hf.pretrain(**options, max_steps=1, output_dir=str(tmp_path / "run"), callbacks=[Notes(), CardWriter()])
    assert (tmp_path / "run" / "README.md").read_text() == "# My notes\n"
    assert "was written by somebody, and stays" in "".join(capsys.readouterr())
