"""The commands that README and docs show really run."""

from __future__ import annotations

import contextlib
import lzma
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from harness import LONG, REPOSITORY, SLICE, WEIR, free_port

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: pathlib.Path, language: str = "sh") -> list[str]:
    return re.findall(rf"<!-- test -->\n```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def shown_outputs(page: pathlib.Path, language: str = "sh") -> list[str]:
    """What stands behind blocks, without white space, as a pattern: any text may stand for an ellipsis."""
    texts = re.findall(rf"<!-- test -->\n```{language}\n(?:(?!```).)*```\n\n```text\n(.*?)```", page.read_text(), re.DOTALL)
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


def run_python(page, tmp_path, **environment) -> str:
    """Runs a page's Python in one process, as a notebook does; its output."""
    port, http = str(free_port()), str(free_port())
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(blocks(page, "python")).replace("6400", port).replace("6480", http))
    environment = dict(os.environ, DATA=str(tmp_path / "data"), PATH=f"{pathlib.Path(WEIR).parent}:{os.environ['PATH']}", **environment)
    # A file, since the server that a block starts would hold a pipe open where a later block fails.
    log = tmp_path / "notebook.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-u", script], cwd=REPOSITORY, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        code = process.wait(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, log.read_text()
    return log.read_text()


def purchases(tmp_path):
    """The half-year where it is at hand and time is, else the committed week."""
    whole = REPOSITORY.parent / "shared/data/purchases-2017h1.csv.xz"
    if not (LONG and whole.exists()):
        return SLICE
    path = tmp_path / "purchases.csv"
    path.write_bytes(lzma.open(whole).read())
    return path


def test_notebook(tmp_path):
    page = REPOSITORY / "docs/NOTEBOOK.md"
    # None is left out by a missing mark.
    assert len(blocks(page, "python")) == page.read_text().count("```python") > 0
    path = purchases(tmp_path)
    output = run_python(page, tmp_path, PURCHASES=str(path))
    # The model has learned something: the AUC of guessing is a half.
    assert float(re.search(r"AUC on the \d+ that follow: (\S+)", output).group(1)) > 0.6, output
    if path == SLICE:
        shown = shown_outputs(page, "python")
        assert len(shown) == 7
        assert re.search(".*?".join(shown), "".join(output.split()), re.DOTALL), output


def test_commands_are_marked():
    assert blocks(REPOSITORY / "README.md")
