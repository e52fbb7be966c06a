"""Help, keys, settings files and mistakes, with the installed programs."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from applier.commands import PROGRAM as APPLIER
from applier.settings import load_applier_settings
from logship import __version__
from logship.commandline import Program
from logship.frames import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from logship.link.keys import load_pair, load_public
from logship.objects.encryption import Identities, Recipients
from shipper.commands import PROGRAM as SHIPPER
from shipper.settings import load_shipper_settings
from tests.integration.command_runner import run, start

COMMANDS = [(each, name) for each in (SHIPPER, APPLIER) for name in each.commands]


@pytest.mark.parametrize("program", [SHIPPER, APPLIER], ids=lambda each: each.name)
async def test_help_lists_every_command(program: Program) -> None:
    outcome = await run(program.name, "--help")
    assert outcome.code == 0
    for name, command in program.commands.items():
        assert f"  {name}" in outcome.out
        assert command.summary in outcome.out


@pytest.mark.parametrize(("program", "name"), COMMANDS, ids=[f"{p.name}-{n}" for p, n in COMMANDS])
async def test_every_command_explains_itself(program: Program, name: str) -> None:
    outcome = await run(program.name, name, "--help")
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(f"usage: {program.name} {name} ")


async def test_the_version_is_printed() -> None:
    outcome = await run("shipper", "--version")
    assert (outcome.code, outcome.out.split()[0]) == (0, "shipper")
    for program in ("shipper", "applier"):
        outcome = await run(program, "--version", "--json")
        assert outcome.document == {
            "program": program,
            "version": __version__,
            "protocol": {"oldest": OLDEST_PROTOCOL_VERSION, "newest": PROTOCOL_VERSION},
        }


async def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    outcome = await run("shipper", "promot", "main")
    assert outcome.code == 2
    assert outcome.err == (
        "error: shipper has no command 'promot'\nhint: did you mean `shipper promote`?\n"
    )


async def test_keygen_makes_a_pair_that_can_be_loaded_and_keeps_an_old_one(tmp_path: Path) -> None:
    made = await run("shipper", "keygen", tmp_path / "keys", "--name", "main", "--json")
    assert made.code == 0, made
    document = made.document
    pair = load_pair(Path(document["secret_key_file"]))
    assert document["public_key"] == pair.public
    assert load_public(Path(document["public_key_file"])) == pair.public
    assert pair.secret not in made.out
    again = await run("shipper", "keygen", tmp_path / "keys", "--name", "main")
    assert again.code == 3
    assert "exists already" in again.err
    assert load_pair(Path(document["secret_key_file"])) == pair


async def test_keygen_makes_an_age_identity_and_keeps_an_old_one(tmp_path: Path) -> None:
    made = await run("applier", "keygen", tmp_path / "keys", "--age", "--name", "vault", "--json")
    assert made.code == 0, made
    file = Path(made.document["identity_file"])
    assert file == tmp_path / "keys" / "vault.identity"
    sealed = Recipients([made.document["public_key"]]).seal(b"WAL")
    assert Identities([file]).open(sealed, "here") == b"WAL"
    kept = file.read_bytes()
    again = await run("applier", "keygen", tmp_path / "keys", "--age", "--name", "vault")
    assert again.code == 3
    assert "exists already" in again.err
    assert file.read_bytes() == kept
    said = await run("applier", "keygen", tmp_path / "keys", "--age")
    assert said.code == 0, said
    assert "age1" in said.out
    assert "AGE-SECRET-KEY" not in made.out + said.out


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b"])
async def test_a_key_needs_a_plain_name(tmp_path: Path, name: str) -> None:
    outcome = await run("applier", "keygen", tmp_path, "--name", name)
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


async def test_init_writes_settings_that_load_and_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "shipper.toml"
    assert (await run("shipper", "init", "--instance", "sales", "--output", file)).code == 0
    assert load_shipper_settings(file).instance == "sales"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("mine")
    refused = await run("shipper", "init", "--output", file)
    assert refused.code == 3
    assert "exists already" in refused.err
    assert file.read_text() == "mine"


async def test_init_of_the_applier_takes_many_instances(tmp_path: Path) -> None:
    outcome = await run("applier", "init", "--instance", "a", "b", "--instance", "c")
    assert outcome.code == 0, outcome
    (tmp_path / "x.toml").write_text(outcome.out)
    settings = load_applier_settings(tmp_path / "x.toml")
    assert {name: each.port for name, each in settings.instances.items()} == {
        "a": 5433,
        "b": 5434,
        "c": 5435,
    }


@pytest.mark.parametrize(
    "arguments",
    [("window", "main"), ("restore", "main", "--latest", "--into", "/nowhere/x")],
    ids=["window", "restore"],
)
async def test_a_bucket_is_not_named_and_left_out_at_once(arguments: tuple[str, ...]) -> None:
    outcome = await run("applier", *arguments, "--from-bucket", "file:///b", "--no-bucket")
    assert outcome.code == 2
    assert "--no-bucket: not allowed with argument --from-bucket" in outcome.err


@pytest.mark.parametrize("arguments", [("Bad",), ("a", "a")])
async def test_init_refuses_names_that_can_not_be(arguments: tuple[str, ...]) -> None:
    assert (await run("applier", "init", "--instance", *arguments)).code == 2


async def test_init_says_when_it_can_not_write(tmp_path: Path) -> None:
    outcome = await run("shipper", "init", "--output", tmp_path / "none" / "x.toml")
    assert outcome.code == 1
    assert "can't be written" in outcome.err


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("program", ["shipper", "applier"])
async def test_wrong_settings_end_with_all_findings(
    program: str, command: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[link]\nadress = 'x'\nlisen = 'y'\n[log]\nlevel = 'loud'\n")
    outcome = await run(program, command, "--config", file)
    assert outcome.code == 2
    assert outcome.out == ""
    for line in (2, 3, 5):
        assert f"{file}:{line}: " in outcome.err
    assert outcome.err.endswith("hint: docs/settings.md has every setting\n")


async def test_wrong_settings_are_a_json_document_if_wanted(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("nonsense")
    outcome = await run("shipper", "check", "--config", file, "--json")
    assert outcome.code == 2
    error = outcome.document["error"]
    assert error["code"] == "settings"
    assert error["findings"][0]["line"] == 1


async def test_missing_settings_name_the_command_that_writes_them(tmp_path: Path) -> None:
    outcome = await run("applier", "run", "--config", tmp_path / "none.toml")
    assert outcome.code == 2
    assert f"{tmp_path}/none.toml: there is no such file" in outcome.err
    assert "init" in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("status", "main"), ("promote", "main"), ("promote", "main", "--json")],
)
async def test_without_an_applier_the_operator_is_told_what_to_do(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {"LOGSHIP_APPLIER": str(tmp_path / "none.sock")}
    outcome = await run("shipper", *arguments, environment=environment)
    assert outcome.code == 1
    if "--json" in arguments:
        assert outcome.document["error"]["code"] == "applier-unreachable"
    else:
        assert "the applier can't be reached" in outcome.err
        assert "--offline" in outcome.err


async def test_watching_goes_on_without_an_applier_until_it_is_interrupted(tmp_path: Path) -> None:
    process = await start("shipper", "status", "--watch", "--applier", tmp_path / "none.sock")
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"error: the applier can't be reached")
    assert (await process.stdout.readline()).startswith(b"error: the applier can't be reached")
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert b"Traceback" not in out


async def test_a_reader_that_goes_away_ends_the_program_quietly(tmp_path: Path) -> None:
    process = await start("shipper", "status", "--watch", "--applier", tmp_path / "none.sock")
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await process.wait() == 141


async def test_a_crash_of_the_interpreter_says_where_it_was(tmp_path: Path) -> None:
    process = await start("shipper", "status", "--watch", "--applier", tmp_path / "none.sock")
    assert process.stdout is not None
    await process.stdout.readline()
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))  # it is meant to crash
    process.send_signal(signal.SIGSEGV)
    _, err = await process.communicate()
    assert process.returncode == -signal.SIGSEGV
    assert err.startswith(b"Fatal Python error: Segmentation fault")
    assert b"logship/commandline.py" in err
