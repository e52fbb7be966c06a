"""What each installation is and what surrounds it here: asked once, and kept while it is true.

Asking takes a second, for a cluster is made and thrown away.  Answers are kept in files, each
with the state of everything it depends on: a package that was installed, upgraded or removed
since makes it void.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from applier.compat import CollationVersion, HostFacts, used_collations
from applier.standby.host_facts import ICU, MOST_ASKED, Learnt, Locale, learn, versions_of
from applier.standby.packages import digest, state_of
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.environment import Environment
from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.postgres.installations import Installation
from logship.postgres.probe import (
    build_key,
    keep_answer,
    known_profile,
    learn_profile,
    throw_away_cluster,
)
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

FORMAT = 1

MORE_PER_HOUR = 10
"""How often installations are asked for more locales: no shipper has clusters made at will."""
_HOUR_SECONDS = 3600.0
ASK_AGAIN_SECONDS = 60.0
"""An installation that did not answer is not asked again before."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file of one installation's host."""

    format: int = FORMAT
    state: str
    watched: tuple[str, ...]
    facts: HostFacts
    versions: tuple[CollationVersion, ...]
    asked: frozenset[str]
    """Locales of ICU that were asked for, known there or not."""


class _Known(NamedTuple):
    """In memory: an answer, and what it is true of."""

    state: str
    learnt: Learnt
    asked: frozenset[str]


class Surroundings:
    """Describes installations; one for all instances of a recovery server."""

    def __init__(self, run_as: RunAs, cache_directory: Path) -> None:
        self._run_as = run_as
        self._cache = cache_directory
        self._known: dict[str, _Known] = {}
        self._failed_at: dict[str, float] = {}
        """When an installation did not answer, by its key."""
        self._taken_at: dict[str, float] = {}
        """For which of these times `take_unanswered` named it."""
        self._asked_more_at: deque[float] = deque(maxlen=MORE_PER_HOUR)
        self._turns: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held while an installation is asked: whoever waited finds the answer kept."""
        self._making = asyncio.Lock()
        """Held while a cluster is made: one at a time, as it takes a whole core.  Who asks for
        what is known does not wait for it."""

    @property
    def watched(self) -> set[Path]:
        """The files and directories that the answers given so far depend on."""
        # A copy: threads add to it.
        return {path for known in list(self._known.values()) for path in known.learnt.watched}

    def take_unanswered(self, installations: Iterable[Installation]) -> list[Installation]:
        """Those that did not answer and may be asked again by now: each once for each time that
        it did not, so that nothing is asked for ever where nobody needs the answer."""
        taken = []
        for installation in installations:
            with contextlib.suppress(LogshipError):  # it is gone
                key = build_key(installation)
                failed_at = self._failed_at.get(key)
                if failed_at is None or self._taken_at.get(key) == failed_at:
                    continue
                if self._may_ask(installation):
                    self._taken_at[key] = failed_at
                    taken.append(installation)
        return taken

    async def describe(
        self, installation: Installation, environment: Environment | None
    ) -> tuple[Profile, HostFacts | None]:
        """What a cluster of `installation` would be, and what it would find here.

        The versions of the collations that `environment`, the primary's, orders text by are
        among the facts.  They are None where the installation could not be asked.

        Raises LogshipError(NO_INSTALLATION): it can't make a cluster, or is gone.
        """
        locales = used_collations(environment)
        asked = frozenset(locale for provider, locale in locales if provider == ICU)
        async with self._turns[installation.bin_dir]:
            profile, before = await asyncio.to_thread(self._recall, installation)
            is_true = before is not None and await asyncio.to_thread(_is_true, before)
            known = before if is_true else None
            if profile is None or (
                self._may_ask(installation) and (known is None or self._may_ask_more(known, asked))
            ):
                everything = asked | (before.asked if before is not None else frozenset())
                profile, learnt_now = await self._ask(
                    installation, profile, frozenset(sorted(everything)[:MOST_ASKED])
                )
                known = learnt_now or known
        if known is None:
            return profile, None
        learnt = known.learnt
        versions = versions_of(locales, learnt.facts.libc, learnt.versions)
        return profile, msgspec.structs.replace(learnt.facts, collation_versions=versions)

    def _may_ask(self, installation: Installation) -> bool:
        """Whether it did not fail to answer just before."""
        failed_at = self._failed_at.get(build_key(installation))
        return failed_at is None or time.monotonic() - failed_at >= ASK_AGAIN_SECONDS

    def _may_ask_more(self, known: _Known | None, asked: frozenset[str]) -> bool:
        """Whether something was never asked for, and it is not too soon to do so."""
        if known is None or known.learnt.facts.icu == "":  # built without ICU: it has no locales
            return False
        versions = known.learnt.versions
        more = {locale for locale in asked - known.asked if (ICU, locale) not in versions}
        if not more or len(known.asked) >= MOST_ASKED:
            return False
        now, times = time.monotonic(), self._asked_more_at
        if len(times) == MORE_PER_HOUR and now - times[0] < _HOUR_SECONDS:
            return False
        times.append(now)
        return True

    async def _ask(
        self, installation: Installation, profile: Profile | None, asked: frozenset[str]
    ) -> tuple[Profile, _Known | None]:
        """profile: what is known of it already.  Raises LogshipError: nothing is, and it makes
        no cluster."""
        key = build_key(installation)
        try:
            async with self._making, throw_away_cluster(installation, self._run_as) as data:
                if profile is None:
                    profile = await asyncio.to_thread(
                        learn_profile, installation, data, self._cache
                    )
                learnt = await learn(installation, data, self._run_as, asked)
        except (LogshipError, OSError) as error:
            # A disk that is full, a package that is just being replaced.  Less can be compared
            # then; what PostgreSQL itself needs is known, and no block is lifted.
            self._failed_at[key] = time.monotonic()
            failure = error if isinstance(error, LogshipError) else _no_cluster(error)
            if profile is None:
                raise failure from error
            log.warning("an installation's host is not known", **failure.as_dict())
            return profile, None
        self._failed_at.pop(key, None)
        known = _Known(digest(state_of(learnt.watched)), learnt, asked)
        self._known[key] = known
        await asyncio.to_thread(keep_answer, self._path(key), _document(known))
        return profile, known

    def _recall(self, installation: Installation) -> tuple[Profile | None, _Known | None]:
        """What was found out before, true still or not."""
        key = build_key(installation)
        if key not in self._known:
            with contextlib.suppress(OSError, *UNREADABLE):
                kept = json_decoder(_Kept).decode(self._path(key).read_bytes())
                if kept.format == FORMAT:
                    self._known[key] = _known(kept)
        return known_profile(installation, self._cache), self._known.get(key)

    def _path(self, key: str) -> Path:
        return self._cache / f"{key}-host.json"


def _no_cluster(error: OSError) -> LogshipError:
    return LogshipError(
        Code.NO_INSTALLATION,
        f"no cluster can be made to look what an installation has: {error}",
        "look at the disk of the directory for temporary files, and at the installation",
        retryable=True,
    )


def _is_true(known: _Known) -> bool:
    return known.state == digest(state_of(known.learnt.watched))


def _document(known: _Known) -> bytes:
    learnt = known.learnt
    versions = tuple(
        CollationVersion(provider=provider, locale=locale, version=version)
        for (provider, locale), version in sorted(learnt.versions.items())
    )
    kept = _Kept(
        state=known.state,
        watched=tuple(map(str, learnt.watched)),
        facts=learnt.facts,
        versions=versions,
        asked=known.asked,
    )
    return msgspec.json.encode(kept, order="deterministic")


def _known(kept: _Kept) -> _Known:
    versions: dict[Locale, str] = {
        (each.provider, each.locale): each.version for each in kept.versions
    }
    learnt = Learnt(kept.facts, versions, tuple(map(Path, kept.watched)))
    return _Known(kept.state, learnt, kept.asked)
