"""The pages are true: commands and code run, outputs are those printed, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.newcomer import written
from tests.support.snapshot_maker import Recorder
from tests.support.truth import NOT_RUN, troubles, why_not_run
from tools.pages import DOCS, ROOT, blocks, code, commands, outputs, pages, part
from tools.reference.markdown import GENERATED
from tools.typed import Desk, Printed, set_up

from willfit.units import MIB

WRITTEN = [
    page
    for page in pages()
    if not page.read_text(encoding="utf-8").startswith(GENERATED) and page.name != "adding.md"
]
"""Pages by hand; test_reference.py has the others, test_docs_adding.py the one that adds things."""
SOURCE_LIKE = re.compile(
    r"`((?:src|tests|tools|benchmarks|examples|docs)/[\w./-]+|[A-Z]{6,}\.md|pyproject\.toml)`"
)

HOME = ROOT / "src" / "willfit"
READERS = ("tests/memory/",)
"""Files of a reader's project, not of this one."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


RUN: dict[str, Printed] = {}
"""What pages have in common is run once."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A reader's folder, with a snapshot of a run that failed."""
    made = set_up(tmp_path / "desk", RUN)
    recorder = Recorder(capacity=64 * MIB)
    recorder.alloc("weights", 40 * MIB)
    assert not recorder.alloc("activations", 32 * MIB)
    (made.folder / "snapshot.pickle").write_bytes(recorder.pickled())
    return made


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_a_page_is_true(page: Path, desk: Desk) -> None:
    assert not (found := troubles(page, desk)), "\n".join(found)


def test_every_reason_not_to_run_something_is_needed() -> None:
    lines = [line for page in WRITTEN for block in blocks(page) for line in commands(block)]
    for pattern, why in NOT_RUN:
        assert any(re.search(pattern, line) for line in lines), (pattern, why)
    assert sum(why_not_run(line) is None for line in lines) > len(lines) / 2


def test_a_wrong_page_is_found(desk: Desk, tmp_path: Path) -> None:
    """The test above can fail, for each kind of block."""
    page = tmp_path / "wrong.md"
    page.write_text(
        "```bash\nwillfit models no-such-model-anywhere --jsn\nls\n```\n"
        "```bash\nwillfit models qwen3-0.6b\n```\n<!-- output -->\n```text\nnothing\n```\n"
        "```python\n1 / 0\n```\n```yaml\nstages: {a: {modle: x}}\n```\n```json\n{\n```\n",
        encoding="utf-8",
    )
    lines = [trouble.partition(": ")[0] for trouble in troubles(page, desk)]
    assert lines == [f"wrong.md:{number}" for number in (2, 2, 10, 13, 16, 19)]


PAGE = """
1. In a list:

    ```bash
    # a comment
    .venv/bin/willfit models qwen3 \\
      --json # another
    cat <file
    ```

    <!-- output 1 from "two" to "four" -->
    ```text
    two
    ```

<!-- given: x = 1 -->
```python
print(x)
```

<!-- output, numbers vary -->
```text
1
```
"""


def test_a_page_is_cut_into_blocks(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    bash, first, python, second = blocks(tmp_path / "page.md")
    assert commands(bash) == ["willfit models qwen3 --json", "cat <file"]
    assert (first.text, first.line, python.line) == ("two\n", 13, 18)
    (_, a), (_, b) = outputs([bash, first, python, second])
    assert a.source == "willfit models qwen3 --json" and not a.varies
    assert b.source == code(python) == "x = 1\nprint(x)\n" and b.varies
    assert part("one\ntwo a\nthree\nfour b\nfive\n", a) == "two a\nthree\nfour b\n"
    with pytest.raises(ValueError, match="no line with 'two'"):
        part("one\n", a)


def test_files_and_modules_that_a_page_names_are_there() -> None:
    for page in WRITTEN:
        text = page.read_text(encoding="utf-8")
        for name in SOURCE_LIKE.findall(text):
            there = (ROOT / name).exists() or name.startswith(READERS)
            assert there, f"{name_of(page)} names {name}"
        for name in re.findall(r"python -m ((?:benchmarks|tools)(?:\.\w+)*)", text):
            path = ROOT.joinpath(*name.split("."))
            found = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            assert found, f"{name_of(page)} names {name}"


def test_contributing_has_the_layers_that_the_imports_are_held_to() -> None:
    rules = (ROOT / ".importlinter").read_text(encoding="utf-8")
    layers = re.findall(r"willfit\.(\w+)", rules.partition("layers =")[2].partition("\n\n")[0])
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| layer | what is in it |")[2].partition("\n\n")[0]
    named = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])
    ]
    assert named == layers


def test_contributing_names_what_is_there() -> None:
    """Paths below the package: of a file, of a folder, of a module without its suffix."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    changes = text.partition("## Common changes")[2]
    names = re.findall(r"`((?:\w+/)+\w+(?:\.py)?)`", changes)
    assert len(names) > 10
    for name in names:
        places = [root / f"{name}{end}" for root in (ROOT, HOME) for end in ("", ".py")]
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_outside_of_the_site_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        assert link.startswith(("https://", "#")) or (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS))
        assert name in nav or re.match(r"decisions/\d{4}-|run-on-h200", name), name


def test_outputs_are_marked_in_the_long_pages() -> None:
    """Those that newcomers read show outputs, and no output is shown without its command."""
    for name in ("tour.md", "memory.md", "index.md"):
        found = blocks(DOCS / name)
        texts = [block for block in found if block.language == "text"]
        assert texts and len(list(outputs(found))) == len(texts), name


def test_the_newcomers_times_are_put_into_the_tour() -> None:
    tour = (DOCS / "tour.md").read_text(encoding="utf-8")
    new = written(tour, {"git clone": 0.84, "first estimate": 12.0})
    assert "|---|---|\n| git clone | 0.8 |\n| first estimate | 12.0 |\n\nMost of it" in new
    assert new.partition("| step |")[0] == tour.partition("| step |")[0]
    assert written(new, {"git clone": 0.84, "first estimate": 12.0}) == new


def test_the_readme_has_the_ledgers_figures():
    """Tier A today, tier A before, tier A by formula, tier B: sources, expressed, median, p95."""
    page = (ROOT / "docs" / "accuracy.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = [_cells(line) for line in page.splitlines() if line.startswith("| tier ")]
    said = [_cells(line) for line in readme.splitlines() if line.startswith(("| torch's counters", "| other stacks, dev"))]  # fmt: skip
    assert [row[1:] for row in said] == [[row[1], *row[3:]] for row in rows[:4]]
    inside = re.findall(r"memory (\d+) % are inside; .* half-width is ([\d.]+) %", page)
    (formula, half), (trace, wider) = inside
    assert f"it holds {formula} % by formula and {trace} % by trace" in readme.replace("\n", " ")
    assert f"half of it is {half} and {wider} % in the median" in readme.replace("\n", " ")
    for tool, words in (
        ("accelerate_estimate", "`estimate-memory` is {} % off"),
        ("eleutherai", "calculator {} %"),
        ("hf_mem", "hf-mem {} %"),
    ):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {tool} | all |")]
        median = float(_cells(row)[4].split()[0])
        assert words.format(round(median)) in readme


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
