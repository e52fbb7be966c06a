"""The version check for a person."""

from __future__ import annotations

from typing import Any

from logship.compat_view import render_compat


def finding(rule: str, outcome: str, primary: str, standby: str, **more: Any) -> dict[str, Any]:
    return {"rule": rule, "outcome": outcome, "primary": primary, "standby": standby, **more}


def test_a_row_per_rule_then_the_reasons_worst_first_then_the_outcome() -> None:
    document = {
        "name": "orders",
        "primary": "17.9",
        "installation": {"version": "17.7", "directory": "/usr/lib/postgresql/17/bin"},
        "outcome": "block",
        "findings": [
            finding("major", "pass", "17", "17", why="WAL is of one major."),
            finding(
                "minor-order", "warn", "17.9", "17.7", why="Older.", remedy="Up.", overridden=True
            ),
            finding("block-size", "block", "8192", "", why="Other pages.", remedy="Rebuild."),
        ],
    }
    assert render_compat(document) == "\n".join(
        [
            "orders: the primary's PostgreSQL 17.9 with 17.7 in /usr/lib/postgresql/17/bin",
            "",
            "rule         outcome            primary  standby",
            "major        pass               17       17",
            "minor-order  warn (overridden)  17.9     17.7",
            "block-size   block              8192     -",
            "",
            "block-size: Other pages. Remedy: Rebuild.",
            "",
            "minor-order: Older. Remedy: Up.",
            "",
            "3 rules: block",
        ]
    )


def test_a_primary_that_is_given_is_told_with_what_its_shipper_would_find() -> None:
    document = {"given": True, "succeeds": "7-17", "refused": None, "findings": []}
    assert render_compat(document).splitlines()[1:3] == [
        "  the primary is the one of the profile that was given",
        "  it takes the place of cluster 7-17",
    ]
    refused = {"what": "it is another one", "hint": "look at conninfo"}
    document = {"given": True, "succeeds": None, "refused": refused, "findings": []}
    assert "  refused: it is another one; look at conninfo" in render_compat(document)


def test_a_long_value_is_cut_in_the_table_and_told_below_it() -> None:
    long = ", ".join(f"extension_{number}" for number in range(9))
    document = {"findings": [finding("extensions", "warn", long, "none", why="They fail.")]}
    table, reason = render_compat(document, width=1000).split("\n\n")[1:3]
    assert "…" in table and "extension_8" not in table
    assert reason == f"extensions: They fail. Primary: {long}. Standby: none."


def test_a_document_of_another_version_is_shown_all_the_same() -> None:
    assert render_compat({}).endswith("0 rules: ?")
    assert "warn" in render_compat({"findings": [{"outcome": "warn"}]})
