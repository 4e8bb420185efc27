"""``semshare serve``, as it is called: help, warnings, a real process that answers and stops."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import semshare_integrations.serving.run
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.cli.commands import GROUP, LazyCommand
from semshare_core.errors import ConfigError
from semshare_integrations.serving.command import serve
from semshare_integrations.serving.gate import Gate
from served import ALICE, OPERATOR
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
RUN = "import typer; from semshare_integrations.serving.command import serve; typer.run(serve)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model as a folder."""
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Gate]]:
    """What the command would serve."""
    gates: list[Gate] = []
    monkeypatch.setattr(
        semshare_integrations.serving.run.DrainingServer, "serve_app", lambda self, gate: gates.append(gate)
    )
    for name in ("SEMSHARE_API_KEYS", "SEMSHARE_OPERATOR_KEY"):
        monkeypatch.delenv(name, raising=False)
    return gates


def test_the_command_comes_with_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project\.entry-points\."semshare\.commands"\]\n(?:audit = .*\n)?serve = "([^"]+)"', text)
    assert found
    command = LazyCommand("serve", [EntryPoint("serve", found[1], GROUP)], "").load()
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--host", "--port", "--api-keys", "--pool", "--vllm-metrics", "--otel"} <= options


def test_importing_the_rest_imports_no_server() -> None:
    code = (
        "import sys, semshare_core, semshare_integrations.langchain, semshare_integrations.serving.command\n"
        "import semshare_integrations.adapter, semshare_integrations.llama_index\n"
        "print([name for name in ('fastapi', 'uvicorn', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("absent", ["fastapi", "uvicorn"])
def test_a_package_that_is_absent_is_named_with_its_extra(absent: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None\n"
    code += "from semshare_integrations.serving.command import serve; serve('no such model', port=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "MissingDependencyError" in done.stderr
    assert "'.[cpu,serve]'" in done.stderr


def test_it_listens_to_this_machine_alone_and_says_nothing(
    folder: Path, served: list[Gate], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(str(folder), port=0)
    assert len(served) == 1
    assert "API keys" not in capsys.readouterr().err


def test_it_warns_where_everybody_can_reach_it_and_may_ask(
    folder: Path, served: list[Gate], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(str(folder), host="0.0.0.0", port=0)
    assert "there are no API keys" in capsys.readouterr().err
    monkeypatch.setenv("SEMSHARE_API_KEYS", ALICE)
    monkeypatch.setenv("SEMSHARE_OPERATOR_KEY", OPERATOR)
    serve(str(folder), host="0.0.0.0", port=0, name="mine")
    assert "API keys" not in capsys.readouterr().err
    server = served[1]._app.state.server  # type: ignore[attr-defined]
    assert server.engine.pool.config.public_namespace == "public"
    assert server.settings.model == "mine"


def test_an_address_that_is_taken_is_known_before_the_model_is_loaded(served: list[Gate]) -> None:
    taken = semshare_integrations.serving.run.DrainingServer("127.0.0.1", 0, 1)
    taken._socket.listen()
    with pytest.raises(ConfigError, match="name another --port"):
        serve("there-is-no-such-model", port=taken.port)
    taken._socket.close()


def test_a_process_answers_stops_and_keeps_its_pool(folder: Path, tmp_path: Path) -> None:
    arguments = ["--port", "0", "--pool", str(tmp_path / "pool"), "--name", "tiny"]
    environment = {**os.environ, "SEMSHARE_API_KEYS": ALICE, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"answers at (http://\S+)", line)))
        import httpx

        headers = {"Authorization": f"Bearer {ALICE}"}
        ready = httpx.get(f"{url}/ready", headers=headers)  # it answers when it says so, not before
        assert ready.text == "ready\n"
        body = {"model": "tiny", "prompt": "Where is Vinga? " * 9, "max_tokens": 2}
        assert httpx.post(f"{url}/v1/completions", json=body, headers=headers).status_code == 200
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
    assert "outcome=miss" in rest
    assert ALICE not in rest
    engine = SemShareEngine.from_pretrained(folder, pool=PoolConfig(path=tmp_path / "pool"))
    assert engine.pool.stats().entries == 1
    engine.pool.close()
