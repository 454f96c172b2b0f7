"""The project's own papers agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import tramontane

ROOT = Path(__file__).resolve().parents[1]


def test_changelog_starts_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == tramontane.__version__
    assert len(set(versions)) == len(versions)


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        broken += [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]
    assert not broken, broken


def test_every_make_target_of_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        named |= set(re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8")))
    assert named <= targets
