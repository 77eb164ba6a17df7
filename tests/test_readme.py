"""The README's Python runs, in order, in one namespace; its commands are those of the CI script."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 3
    namespace: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    shown = re.search(r"```text\n(.*?)\n\.\.\.\n```", text, re.S)
    assert shown is not None and shown.group(1) in printed, "the output shown is not what is printed"
    for block in blocks[1:]:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["fit"].converged  # type: ignore[attr-defined]


def test_the_ci_runs_the_readmes_test_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- test-command -->\n```sh\n(.*?)\n```\n<!-- end -->", text, re.S)
    assert command is not None and "pytest" in command.group(1) and ".venv" in command.group(1)
    assert "test-command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
