"""README and docs hold what they promise: Python blocks run, commands and their options exist, links lead somewhere.

Every block marked `python` runs, page by page, in a folder that holds

    my_city/     a synthetic city in HOSER's format
    teacher.pt   a published LM-TAD checkpoint trained on it
    teachers/porto  the same, imported
    student.pth  a published HOSER checkpoint trained on it

A block that is only an outline is marked `text` or `py` and does not run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hoser_kd.cli import main
from hoser_kd.pipeline.graph import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path.relative_to(ROOT) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
MORE_PAGES = [Path("CONTRIBUTING.md"), Path("SECURITY.md")]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:make|hoser-kd) [^`]+)`(?!`)")
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the blocks of a language with the line at which each begins."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start()) + 2, match[2]) for match in BLOCK.finditer(text) if match[1] == language
    ]


WITH_TEST_OF_ITS_OWN = Path("docs/api.md")
"""tests/test_api.py runs its blocks and looks at what they print."""
WITH_CODE = [page for page in PAGES if page != WITH_TEST_OF_ITS_OWN and blocks(page, "python")]
RUNNER = """
import os, runpy, sys, traceback
import torch, hoser_kd.network, hoser_kd.hoser, hoser_kd.lmtad  # once, because it takes seconds
for folder in sys.argv[1:]:
    if os.fork() == 0:  # a process for each page
        os.chdir(folder)
        try:
            runpy.run_path("page.py", run_name="__main__")
        except BaseException:
            with open("errors", "w") as file:
                traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    _, status = os.wait()
    with open(os.path.join(folder, "status"), "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
"""


@pytest.fixture(scope="module")
def failures(golden, cases, tmp_path_factory) -> dict[Path, str]:
    """Run the Python blocks of each page in a process and a folder of its own; returns what each reports on failure."""
    from hoser_kd.teacher.importing import import_teacher

    root = tmp_path_factory.mktemp("pages")
    first = root / "first"
    shutil.copytree(golden / "hoser_city", first / "my_city")
    shutil.copy(cases / "19-libcity-dyna-long-format" / "city" / "train.csv", first / "town.dyna")
    shutil.copy(golden / "lmtad_ckpt.pt", first / "teacher.pt")
    shutil.copy(golden / "hoser_ckpt_trained.pth", first / "student.pth")
    import_teacher(first / "teacher.pt", first / "teachers" / "porto")
    folders = {page: root / page.stem for page in WITH_CODE}
    for page, folder in folders.items():
        shutil.copytree(first, folder)
        # blank lines keep the line numbers of the page
        code = ""
        for line, block in blocks(page, "python"):
            code += "\n" * (line - 1 - code.count("\n")) + block
        (folder / "page.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, *map(str, folders.values())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {
        page: "" if (folder / "status").read_text() == "0" else (folder / "errors").read_text()
        for page, folder in folders.items()
    }


@pytest.mark.parametrize("page", WITH_CODE, ids=str)
def test_python_blocks_run(page, failures):
    assert not failures[page], failures[page]


def commands(page: Path) -> list[tuple[str, str]]:
    """Return every `make` and `hoser-kd` command of a page with its place."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [
        (f"{page}:{first + number}", line.partition("#")[0])
        for first, block in blocks(page, "sh")
        for number, line in enumerate(block.splitlines())
    ]
    lines += [(f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[1]) for match in INLINE.finditer(text)]
    return [(place, line.strip()) for place, line in lines if line.strip()]


def problem_of_script(name: str, *arguments: str) -> str | None:
    """Return what is wrong with the call of a Python script: it is missing, or does not name an option."""
    script = ROOT / name
    if not script.is_file():
        return f"{name} does not exist"
    unknown = [word for word in arguments if word.startswith("--") and f'"{word}"' not in script.read_text()]
    return f"{name} has no option {', '.join(unknown)}" if unknown else None


def problem_of_targets(words: list[str]) -> str | None:
    """Return which target or variable the Makefile lacks."""
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if not re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", makefile, re.MULTILINE):
            return f"the Makefile has no {'variable' if is_variable else 'target'} {name}"
    return None


def problem_of(command: str, capsys) -> str | None:
    """Return what is wrong with a command: an unknown target, variable, subcommand or option."""
    words = shlex.split(command.replace("\n", " "))
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words.pop(0)
    if not words or words[0] == "export":
        return None
    program, arguments = Path(words[0]).name, words[1:]
    if program == "python" and arguments[0].endswith(".py"):
        return problem_of_script(*arguments)
    if program == "make":
        return problem_of_targets(arguments)
    if program != "hoser-kd":
        return f"{program} is neither make nor hoser-kd"
    with pytest.raises(SystemExit) as ended:
        main([arguments[0], "--help"])
    screen = capsys.readouterr().out
    if ended.value.code:
        return f"hoser-kd has no command {arguments[0]}"
    unknown = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in screen]
    return f"hoser-kd {arguments[0]} has no option {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES + MORE_PAGES, ids=str)
def test_commands_exist(page, capsys):
    problems = {place: problem for place, line in commands(page) if (problem := problem_of(line, capsys))}
    assert not problems


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("make dev PORT=3900", None),
        ("make rocket", "no target rocket"),
        ("make demo TOWN=x", "no variable TOWN"),
        (".venv/bin/hoser-kd train --dataset x --seed 0", None),
        ("hoser-kd fly", "no command fly"),
        ("hoser-kd train --wings 2", "no option"),
        ("rm -r data", "neither make nor hoser-kd"),
    ],
)
def test_a_wrong_command_is_noticed(command, problem, capsys):
    result = problem_of(command, capsys)
    assert (result is None) if problem is None else (problem in result)


def test_readme_has_commands():
    assert len(commands(Path("README.md"))) >= 7


def test_the_graph_of_the_readme_has_every_stage():
    graph = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The graph\n")[2].partition("\n## ")[0]
    assert graph
    rows = [line.split("|")[1:3] for line in graph.splitlines() if line.startswith("|")]
    named = {(group.strip(), stage) for group, assets in rows for stage in re.findall(r"`(\w+)`", assets)}
    assert named == {(stage.group, stage.name) for stage in STAGES.values()}


@pytest.mark.parametrize("page", PAGES + MORE_PAGES, ids=str)
def test_links_lead_to_files(page):
    targets = {(ROOT / page).parent / target for target in LINK.findall((ROOT / page).read_text(encoding="utf-8"))}
    missing = {path.resolve().relative_to(ROOT).as_posix() for path in targets if not path.exists()}
    assert not missing
