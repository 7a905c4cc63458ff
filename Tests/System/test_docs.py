"""The commands that README and docs show really run."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import pytest

from harness import REPOSITORY, WEIR, free_port

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"<!-- test -->\n```sh\n(.*?)```", page.read_text(), re.DOTALL)


def shown_outputs(page: pathlib.Path) -> list[str]:
    """What stands behind each block, without white space, as a pattern: any text may stand for an ellipsis."""
    texts = re.findall(r"<!-- test -->\n```sh\n.*?```\n\n```text\n(.*?)```", page.read_text(), re.DOTALL)
    return [".*?".join(re.escape(part) for part in "".join(text.split()).split("…")) for text in texts]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_commands_of(page, tmp_path):
    # Servers take free ports, and so do those who ask them.
    port, http = str(free_port()), str(free_port())
    environment = dict(os.environ, DATA=str(tmp_path), WEIR_PORT=port, WEIR_HTTP=http, PATH=f"{pathlib.Path(WEIR).parent}:{os.environ['PATH']}")
    outputs = []
    for block in blocks(page):
        block = block.replace(":6400", f":{port}").replace(":6480", f":{http}")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout)
    if page.name == "PROTOCOL.md":
        for output, shown in zip(outputs, shown_outputs(page), strict=True):
            assert re.search(shown, "".join(output.split())), f"{output}\n{shown}"
    if page.name == "README.md":
        text = page.read_text()
        # What is shown is what comes.
        assert '"purchases_28d": 22,' in outputs[1] and '"purchases_28d": 23,' in outputs[2]
        for line in outputs[3].splitlines()[1:]:
            assert line in text, line


def test_commands_are_marked():
    assert blocks(REPOSITORY / "README.md")
