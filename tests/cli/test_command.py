"""From exceptions to exit codes, and from a command's name to its file."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mcl_hf.cli import COMMANDS, main
from mcl_hf.cli.command import check_can_be_written, run_command, save_picture, say
from mcl_hf.errors import InputError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException):
    def run(argv: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such\n  folder"), 2, "mcl-hf: error: no such folder\n"),
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), 2, "mcl-hf: error: no disk space left for run/x"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 2, "mcl-hf: error: no disk space left: free some"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xxx"), 2, "mcl-hf: error: File name too long: xxx\n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2, "mcl-hf: error: a process that"),
        (KeyboardInterrupt(), 130, "mcl-hf: interrupted\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys, error, code, said):
    assert run_command(raising(error), []) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(said) and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError(errno.EIO, "broken disk"), ValueError("a fault")])
def test_faults_of_the_library_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_command(raising(error), [])


def test_exit_code_is_the_commands_own():
    assert run_command(lambda argv: 7, []) == 7 and run_command(lambda argv: None, []) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["pretain"], "mcl-hf: error: unknown command 'pretain': did you mean 'pretrain'?\n"),
        (["--recipe"], "mcl-hf: error: unknown option '--recipe': choose from"),
        (["show", "runn"], "mcl-hf: error: mcl-hf show has no 'runn': choose from data, run, montages, similarity\n"),
        (["pretrain", "--bogus"], "mcl-hf: error: unrecognized arguments: --bogus (see mcl-hf pretrain --help)\n"),
        (
            ["pretrain", "--recipe", "demo", "--bacth-size=4", "stray"],
            "mcl-hf: error: unrecognized arguments: --bacth-size=4 stray: did you mean --batch-size? (see mcl-hf",
        ),
        (
            ["evaluate", "det", "--thershold", "1", "--splitt", "x"],
            "mcl-hf: error: unrecognized arguments: --thershold",
        ),
        (
            ["push", "run", "user/name", "--pubilc"],
            "mcl-hf: error: unrecognized arguments: --pubilc: did you mean --pub",
        ),
        (
            ["pretrain", "--recipe", "demoo"],
            "mcl-hf: error: argument --recipe: there is no recipe 'demoo': did you mean 'demo'?",
        ),
        (["pretrain", "--recipe", "demo"], "mcl-hf: error: output_dir is not set"),
        (["pretrain", "--recipe", "demo", "--output-dir", "x", "--epochs", "ten"], "mcl-hf: error: epochs must be a"),
        (["show", "run", "nowhere"], "mcl-hf: error: there is no log at nowhere"),
    ],
)
def test_wrong_input_ends_with_code_2(capsys, argv, said):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said) and captured.err.count("\n") == 1


def test_help_lists_every_command_and_version_prints(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main([]) == 2 and "usage" in capsys.readouterr().err
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("mcl-hf 0.")
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "--help"])
    assert left.value.code == 0 and "--output-dir" in capsys.readouterr().out


def test_module_runs_like_the_script():
    done = subprocess.run(
        [sys.executable, "-m", "mcl_hf.cli", "show"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "usage: mcl-hf show" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("words", [
    ["data", "--data", "photos"], ["montages", "--recipe", "demo"], ["run", "nowhere"],
    ["similarity", "nowhere", "--image", "nowhere.png"],
])  # fmt: skip
def test_a_picture_that_cannot_be_written_is_refused_before_it_is_drawn(words, tmp_path, capsys):
    for out, said in ((tmp_path / "new" / "a.txt", "an ending such as .png"), (tmp_path / "file" / "a.png", "cannot")):
        (tmp_path / "file").write_text("")
        assert main(["show", *words, "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "new").exists()


def test_pictures_are_saved_with_their_folder_or_refused_by_name(tmp_path, capsys):
    picture = Image.new("RGB", (4, 4))
    save_picture(picture, tmp_path / "new" / "a.png")
    assert capsys.readouterr().out == f"picture: {tmp_path / 'new' / 'a.png'}\n"
    with pytest.raises(InputError, match=r"give the file an ending such as \.png"):
        save_picture(picture, tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_picture(picture, tmp_path / "file" / "a.png")


def test_nothing_of_a_name_reaches_the_terminal_raw(capsys):
    hostile = "a\x1b]0;owned\x07\u202eb\udcff"
    assert run_command(raising(InputError(f"no image {hostile}")), []) == 2
    say(f"{hostile}\nsecond line")
    captured = capsys.readouterr()
    assert captured.err == "mcl-hf: error: no image a\\x1b]0;owned\\x07\\u202eb\\xff\n"
    assert captured.out == "a\\x1b]0;owned\\x07\\u202eb\\xff\nsecond line\n"


def test_a_link_that_is_written_through_stays(tmp_path):
    link = tmp_path / "sheet.png"
    link.symlink_to(tmp_path / "elsewhere.png")
    check_can_be_written(link)
    assert link.is_symlink() and not (tmp_path / "elsewhere.png").exists()
