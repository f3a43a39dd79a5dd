"""Code of a client in a process of its own, without paying seconds of imports for each.

Flow: a test -> **hub_client** -> hub_server. The clients of the Hub read `HF_ENDPOINT` when they are imported, so that
a test cannot set it for itself. One process a session imports them with the address of the session's Hub and forks a
child for every call; `huggingface_hub.constants` is read again in the child, with the environment of the call.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUIET = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "OMP_NUM_THREADS": "1",
}


def environment(endpoint: str, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
    """Of a client that talks to `endpoint`, keeps its files in `home`, and knows nobody's own token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return {**kept, **QUIET, **own, **({"HF_TOKEN": token} if token else {}), **more}


@dataclass(frozen=True)
class Done:
    """How a client's process ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Forge:
    """Starts clients of one Hub. The first call waits for the imports, the others take a fraction of a second."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint, self.folder = endpoint, folder
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=30)

    def run(
        self, code: str, *, home: Path, token: str | None = None, waits: float = 0.01, timeout: float = 300, **more: str
    ) -> Done:
        """Run Python code.

        Args:
            code: of a whole program.
            home: `HF_HOME`; its folder is where the code runs.
            token: `HF_TOKEN`.
            waits: pauses of 0.3 s and more are shortened by this factor.
            timeout: in seconds.
            more: of the environment; None in a value's place is not possible, leave the name out.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hub_client"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env=environment(self.endpoint, self.folder),
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            order = {"code": code, "env": environment(self.endpoint, home, token, **more), "waits": waits,
                     "cwd": str(home), "out": str(out), "err": str(err), "timeout": timeout}  # fmt: skip
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            if not answer:
                raise RuntimeError("the process that starts clients has ended")
            return Done(json.loads(answer), out.read_text(), err.read_text())

    def command(self, *arguments: str, **options: object) -> Done:
        """Run `mcl-hf ARGUMENTS`; options as for `run`."""
        code = f"import sys; sys.argv = {['mcl-hf', *arguments]!r}\nfrom mcl_hf.cli import main\nsys.exit(main())"
        return self.run(code, **options)  # type: ignore[arg-type]


def _serve_orders() -> None:
    import fsspec  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.dataset
    import pyarrow.parquet  # noqa: F401  # of datasets, which copies its settings when it is imported: the child does
    import timm  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import mcl_hf.cli.push
    import mcl_hf.hub.background
    import mcl_hf.pretraining.pretrain
    import mcl_hf.viz.curves  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_client(order)
        print(_wait(child, order["timeout"]), flush=True)
    os._exit(0)  # tearing torch down takes seconds


def _wait(child: int, timeout: float) -> int:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


def _be_client(order: Mapping) -> None:
    """In the child: never returns."""
    code = 1
    try:
        for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, order["out"], os.O_WRONLY | os.O_CREAT),
                                   (2, order["err"], os.O_WRONLY | os.O_CREAT)):  # fmt: skip
            os.dup2(os.open(name, mode), number)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        _read_environment_again()
        _shorten_waits(order["waits"])
        exec(compile(order["code"], "client", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read_environment_again() -> None:
    import importlib

    from huggingface_hub import constants

    importlib.reload(constants)
    assert "datasets" not in sys.modules, "it must read the environment of the call"


def _shorten_waits(factor: float) -> None:
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds * factor if seconds >= 0.3 else seconds)


if __name__ == "__main__":
    _serve_orders()
