"""The command line: what it loads, what it refuses, and how it says so."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import llama_token_tracker
from llama_token_tracker import cli
from llama_token_tracker.cli import demo
from tests.needs import needs

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "llama_token_tracker")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused: nothing on stdout, one line on stderr, code 2."""

    def run(*arguments: object) -> str:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse leaves this way
            code = ended.code
        output = capsys.readouterr()
        assert code == 2
        assert output.out == ""
        assert output.err.startswith("llama-token-tracker: error: ")
        assert output.err.count("\n") == 1
        return output.err

    return run


def test_loading_the_command_line_loads_no_llama_index():
    """`--help` answers without waiting for LlamaIndex."""
    probe = (
        "import sys; from llama_token_tracker import cli; "
        "sys.exit(any(name.startswith('llama_index') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_help_names_every_provider(capsys: pytest.CaptureFixture[str]):
    """What `--llm` takes can be read in `--help`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(demo.INTEGRATIONS) <= set(words)


@pytest.mark.parametrize("arguments", [["nonsense"], ["demo", "--nonsense"], ["demo", "--llm"]])
def test_a_command_that_does_not_parse_is_one_line(
    arguments: list[str], refusal: Callable[..., str]
):
    """A mistyped command gets a line that leads to the help, not the usage."""
    assert "--help" in refusal(*arguments)


def test_no_command_is_the_help(capsys: pytest.CaptureFixture[str]):
    """Whoever doesn't know the commands is shown them."""
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "count" in printed


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]):
    """`--version` and `__version__` are what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    assert llama_token_tracker.__version__ == version
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (
        0,
        f"llama-token-tracker {project['version']}\n",
    )


def test_dir_shows_the_public_names():
    """Those, and nothing that the module needs for itself."""
    assert dir(llama_token_tracker) == sorted(llama_token_tracker.__all__)
    assert all(hasattr(llama_token_tracker, name) for name in dir(llama_token_tracker))


def test_a_missing_path_is_refused(tmp_path: Path, refusal: Callable[..., str]):
    """A path that isn't there is named."""
    missing = tmp_path / "missing.txt"
    assert f"{missing} does not exist" in refusal("demo", missing)


def test_a_folder_without_text_is_refused(tmp_path: Path, refusal: Callable[..., str]):
    """A folder that holds no text file is named, with the suffixes that were looked for."""
    (tmp_path / "photo.jpeg").write_bytes(b"\xff\xd8")
    assert f"{tmp_path} holds no .md, .rst, .txt file" in refusal("demo", tmp_path)


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(content: bytes, tmp_path: Path, refusal: Callable[..., str]):
    """A file without a visible character is empty, a byte order mark or not."""
    file = tmp_path / "empty.txt"
    file.write_bytes(content)
    assert f"{file} is empty" in refusal("demo", file)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n", b"nul\0byte", "UTF-16".encode("utf-16"), b"caf\xe9"]
)
def test_a_binary_file_is_refused(content: bytes, tmp_path: Path, refusal: Callable[..., str]):
    """What isn't UTF-8 text is refused, also inside a folder whose other files are fine."""
    (tmp_path / "fine.txt").write_text("Fine.", encoding="utf-8")
    file = tmp_path / "binary.txt"
    file.write_bytes(content)
    said = refusal("demo", tmp_path)
    assert f"{file}: no UTF-8 text" in said or f"{file}: binary" in said


def test_an_unreadable_file_is_refused(
    tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """A file that can't be read is named, with the reason; who tests as root can read them all."""

    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "secret.txt"
    file.touch()
    monkeypatch.setattr(os, "open", refuse)
    assert f"{file}: can't be read: Permission denied" in refusal("demo", file)


@pytest.mark.parametrize("spec", ["nobody:model", "openai", "openai:", ":", "", "OpenAI:gpt-4o"])
def test_an_unknown_provider_is_refused(spec: str, refusal: Callable[..., str]):
    """A provider that is unknown, or names no model, gets the list of those that are known."""
    error = refusal("demo", "--llm", spec)
    assert all(name in error for name in demo.INTEGRATIONS)


@pytest.mark.parametrize("name", demo.INTEGRATIONS)
def test_a_missing_extra_is_refused(
    name: str, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """An integration that isn't installed gets the command that installs it."""
    integration = demo.INTEGRATIONS[name]
    monkeypatch.setitem(sys.modules, integration.module, None)
    error = refusal("demo", "--llm", f"{name}:model")
    assert f'pip install ".[{integration.extra}]"' in error


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        pytest.param(name, variable, marks=needs(demo.INTEGRATIONS[name].module))
        for name, variable in {
            "anthropic": "ANTHROPIC_API_KEY",
            "bedrock": "AWS_DEFAULT_REGION",
            "bedrock-converse": "AWS_DEFAULT_REGION",
            "openai": "OPENAI_API_KEY",
        }.items()
    ],
)
def test_missing_credentials_are_refused(name: str, variable: str, refusal: Callable[..., str]):
    """Without credentials nothing is sent, and the variable to set is named."""
    assert f"set {variable}" in refusal("demo", "--llm", f"{name}:model")


def test_missing_aws_keys_are_refused(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """A region alone isn't enough for AWS."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert "set AWS_PROFILE" in refusal("demo", "--llm", "bedrock-converse:model")


def test_an_unknown_aws_profile_is_refused(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """A profile that doesn't exist is named."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refusal("demo", "--llm", "bedrock-converse:model")


def test_an_unknown_model_is_refused(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """What the integration itself refuses is passed on in one line."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert "Unknown model 'no-such-model'" in refusal("demo", "--llm", "openai:no-such-model")


@pytest.mark.slow
def test_a_refusal_leaves_the_process_with_code_2(tmp_path: Path):
    """The real command, in a process of its own."""
    done = subprocess.run(
        [*COMMAND, "demo", tmp_path / "missing"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_an_interrupted_run_says_nothing(monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C ends the command with the code that shells expect, and without a traceback."""

    def interrupt(paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "read_pages", interrupt)
    assert cli.main(["demo"]) == 130


@pytest.mark.slow
def test_a_reader_that_leaves_sees_no_traceback():
    """`… demo | head -1` ends in silence."""
    with subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
