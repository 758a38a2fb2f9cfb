"""What the pages show is what runs, and what they name exists."""

from __future__ import annotations

import ast
import re

import pytest
import yaml
from pages import ROOT, compare, run, run_commands

from depprobe import __version__, vocabulary

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in (ROOT / page).read_text()])
def test_python_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(page)


def test_commands_on_the_tutorial_of_checkpoints_print_what_is_shown(tmp_path, monkeypatch, sketched):
    monkeypatch.chdir(tmp_path)
    assert run_commands("docs/checkpoint-tutorial.md") == 7


def test_what_is_shown_is_compared():
    compare("rate -0.4702 a step\n", "rate -0.470 a  step")
    with pytest.raises(AssertionError):
        compare("rate -0.4702", "rate -0.4900")
    with pytest.raises(AssertionError):
        compare("rate 0.47", "slope 0.47")


@pytest.mark.parametrize("page", PAGES)
def test_functions_and_files_named_on_a_page_exist(page):
    import importlib

    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:depprobe|studies|tests|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\{py:\w+\}`~?(?:[^`<]*<)?([\w.]+)>?`", text):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def told():
    """Whatever text with values in it the package may put together, as patterns."""
    for path in (ROOT / "depprobe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant):
                yield template(node)


def template(node):
    """A pattern for what an expression of text may give."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ".*"


def test_messages_that_are_explained_are_those_of_the_program():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^depprobe: (.*)$", text, flags=re.MULTILINE)
    known = [re.compile(one) for one in told() if len(re.sub(r"\W", "", one)) > 9]
    assert len(messages) > 15
    for message in messages:
        assert any(one.fullmatch(message) for one in known), message


@pytest.fixture
def extensions(monkeypatch):
    """The modules that write pages, those that need no Sphinx."""
    import importlib

    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return {name: importlib.import_module(name) for name in ("bibliography", "schema_page")}


def test_the_schema_page_has_every_kind_and_every_variable(extensions):
    page = extensions["schema_page"].page()
    for kind, variable in vocabulary.KINDS.items():
        assert f"`{variable}` |" in page, kind
    assert "| `log_norm_status` | target, lag | int8 | 1 | what is known of log_norm |" in page
    assert "JSON: `command`" in page


#: surnames and year, as a docstring names a source
NAMED = re.compile(
    r"\b([A-Z][a-z]+)(?: et al\.| and [A-Z][a-z]+|(?:, [A-Z][a-z]+)+ and [A-Z][a-z]+)? ((?:19|20)\d\d)\b"
)
#: data and programs, not publications; and months
NO_PAPERS = {"Silero", "Team", "Woolf", "Slaney", "Park", "Gettysburg"}


def test_every_source_named_in_the_code_is_in_the_bibliography(extensions):
    bibliography = extensions["bibliography"]
    known = {(bibliography.plain(one.surname), one.year) for one in bibliography.sources()}
    for path in (ROOT / "depprobe").rglob("*.py"):
        for line in re.findall(r"(?:Sources?: |citation=).*", path.read_text(encoding="utf-8")):
            for surname, year in NAMED.findall(line):
                assert (surname, year) in known or surname in NO_PAPERS, (path.name, surname, year)
    for one in bibliography.sources():
        assert re.fullmatch(r"https://doi\.org/10\.\d{4,}/\S+|", one.address), one.key


def test_citation_has_what_reference_managers_ask_for():
    text = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(text)
    assert text["cff-version"] == "1.2.0"
    assert text["version"] == __version__
    assert text["type"] == "software"
    for author in text["authors"]:
        assert set(author) <= {"name"} or {"family-names", "given-names"} <= set(author)
