"""The documents are in step with the program: links, commands, settings, codes, modules."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from applier.commands import PROGRAM as APPLIER
from applier.compat import OVERRIDABLE_RULES, RULES
from applier.settings import ApplierSettings
from logship.commandline import CommandModule, Program
from logship.errors import Code
from logship.rehearsal.plan.reading import load_plan
from logship.rehearsal.plan.schema import DatabaseSection, PlanSection, StartSection, StepSection
from logship.settings import parse_settings
from logship.settings_schema import Section, keys_of
from shipper.commands import PROGRAM as SHIPPER
from shipper.settings import ShipperSettings

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, Program] = {"shipper": SHIPPER, "applier": APPLIER}
SETTINGS: dict[str, type[Section]] = {"shipper": ShipperSettings, "applier": ApplierSettings}

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("ops/*.md")])
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)

_FENCE = re.compile(r"^( *)```(.*)$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced or indented block of code.  language: "" if it is not said."""

    language: str
    text: str


def blocks_and_prose(text: str) -> tuple[list[Block], str]:
    """Blocks in order, and everything outside of them."""
    blocks: list[Block] = []
    prose: list[str] = []
    inside: list[str] | None = None
    language = ""
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if fence and inside is None:
            inside, language = [], fence[2].strip()
        elif fence and inside is not None:
            blocks.append(Block(language, "\n".join(inside)))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif line.startswith("    "):
            blocks.append(Block("", line.strip()))
        else:
            prose.append(line)
    assert inside is None, "a fenced block is not closed"
    return blocks, "\n".join(prose)


def anchors(document: Path) -> set[str]:
    """Names of the headings as forges make them."""
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    _, prose = blocks_and_prose(document.read_text(encoding="utf-8"))
    broken = []
    for target in _LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_document_is_listed() -> None:
    listed = set(_LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    there = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert there <= listed


def test_make_has_one_rule_for_each_of_its_targets() -> None:
    """To one that is only declared it says that nothing is to be done."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (declared,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    rules = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert sorted(rules) == sorted(declared.split())


def test_every_error_code_is_explained_once_and_none_is_invented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z-]+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    assert sorted(explained) == sorted(Code)


def test_every_version_rule_is_explained_in_its_order() -> None:
    text = (ROOT / "docs" / "version-check.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \| .+ \| (yes|no)? ?\|$", text, re.MULTILINE)
    assert [name for name, _ in explained] == [rule.name for rule in RULES]
    assert {name for name, word in explained if word == "yes"} == OVERRIDABLE_RULES


def test_the_settings_page_is_what_the_program_says() -> None:
    script = runpy.run_path(str(ROOT / "ops" / "write_settings_docs.py"))
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == script["document"](), "run: python ops/write_settings_docs.py"


def command_lines(blocks: list[Block]) -> Iterator[list[str]]:
    """[program, command, argument …] of each call of ours in a block of shell."""
    for block in blocks:
        if block.language not in ("", "sh"):
            continue
        for line in block.text.splitlines():
            with contextlib.suppress(ValueError):  # quotes of something that is not shell
                yield from _calls(shlex.split(line.removeprefix("$ "), comments=True))


def _calls(words: list[str]) -> Iterator[list[str]]:
    if words[:2] == ["sudo", "-u"]:
        words = words[3:]
    if ">" in words:
        words = words[: words.index(">")]
    if words and Path(words[0]).name in PROGRAMS and len(words) > 1:
        yield [Path(words[0]).name, *words[1:]]


def parser_of(program: Program, command: str) -> argparse.ArgumentParser:
    """The command's own parser."""
    module = importlib.import_module(program.commands[command].module)
    parser = argparse.ArgumentParser(prog=f"{program.name} {command}", allow_abbrev=False)
    cast(CommandModule, module).add_arguments(parser)
    return parser


def complaint(call: list[str], *, whole: bool) -> str:
    """What our command line has against a call; "" if nothing.

    whole: else it is only mentioned, and may leave arguments out.
    """
    program, command, *arguments = call
    if command in ("--help", "--version"):
        return ""
    if command not in PROGRAMS[program].commands:
        return f"{program} has no command {command}"
    parser = parser_of(PROGRAMS[program], command)
    if not whole:
        known = set(parser._option_string_actions)
        used = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        return f"no option {used - known} in {' '.join(call)}" if used - known else ""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(arguments)
    except SystemExit as end:
        return said.getvalue() if end.code else ""
    return ""


@each_document
def test_command_lines_are_ones_that_we_take(document: Path) -> None:
    blocks, prose = blocks_and_prose(document.read_text(encoding="utf-8"))
    calls = list(command_lines(blocks))
    mentions = [span.strip("[]").split() for span in _SPAN.findall(prose)]
    complaints = [complaint(call, whole=True) for call in calls]
    complaints += [
        complaint([word.strip("[]…,") for word in words], whole=False)
        for words in mentions
        if len(words) > 1 and words[0] in PROGRAMS and words[1].isalpha() and words[1].islower()
    ]
    assert [one for one in complaints if one] == []


@each_document
def test_settings_are_ones_that_we_take(document: Path) -> None:
    """A block of settings is marked ```toml shipper, applier or plan, and is a whole file."""
    blocks, _ = blocks_and_prose(document.read_text(encoding="utf-8"))
    for block in blocks:
        if block.language.startswith("toml"):
            side = block.language.removeprefix("toml").strip()
            kind = PlanSection if side == "plan" else SETTINGS[side]
            parse_settings(block.text, kind, file=document)


def test_the_plans_that_are_examples_can_be_read() -> None:
    plans = [load_plan(file) for file in (ROOT / "containers" / "rehearsals").glob("*.toml")]
    assert len(plans) == 4
    assert all(plan.steps for plan in plans)


def test_every_key_of_a_plan_is_explained() -> None:
    text = (ROOT / "docs" / "rehearsals.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:start\.|database\.)?([a-z_]+)`", text))
    sections = [PlanSection, StartSection, DatabaseSection, StepSection]
    keys = {key.name for section in sections for key in keys_of(section)}
    assert keys - {"start", "database", "steps"} <= named


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parent, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(parent), last)
    return True


def test_modules_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:logship|shipper|applier)(?:\.\w+)+)`", text))
    assert len(names) > 20
    assert [name for name in sorted(names) if not _is_there(name)] == []


def test_wrong_documentation_is_found() -> None:
    wrong = "```sh\nsudo -u logship /opt/logship/bin/shipper init --instnace main\n```\n"
    (call,) = command_lines(blocks_and_prose(wrong)[0])
    assert "--instnace" in complaint(call, whole=True)
    assert "no command" in complaint(["shipper", "sow", "main"], whole=True)
    assert "--now" in complaint(["shipper", "promote", "--now"], whole=False)
    assert complaint(["shipper", "promote", "--offline"], whole=False) == ""
