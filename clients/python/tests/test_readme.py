"""Runs the README's examples, and compares its tables with the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from hub import TOKEN, Hub
from oddswire import Options, Stats

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_readme_runs(example: str, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "http://localhost:8000" in example
    code = example.replace("http://localhost:8000", hub.url).replace("dev-token", TOKEN)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - running it is the purpose.
    assert "8301/1x2/betpawa" in hub.state()
    said = re.findall(r"print\(error\)  # (.*) …", example)
    assert all(line in capsys.readouterr().out for line in said)


def test_table_of_options_has_all_options_and_defaults() -> None:
    table = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", README, re.MULTILINE)
    options = {option.name: option.default for option in dataclasses.fields(Options)}
    assert {name: eval(default) for name, default in table} == options  # noqa: S307 - our own text.
    assert all(type(eval(default)) is type(options[name]) for name, default in table)  # noqa: S307


def test_readme_names_every_count() -> None:
    counts = [field.name for field in dataclasses.fields(Stats)][:7]
    assert f"({', '.join(counts)})" in README
