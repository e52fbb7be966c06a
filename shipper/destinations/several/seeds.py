"""Which members a seed goes to, and when it is over for all of them.  No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from shipper.destinations import SeedFinished


class SeveralSeeds:
    """One seed at a time, for those that want one: the chains of the others go on."""

    def __init__(self) -> None:
        self.seed_id = ""
        self.targets: list[str] = []
        """They have not said yet what became of it."""
        self.failure = ""
        """What the first of them said that gave it up."""
        self._wants: dict[str, str] = {}
        self._told: set[str] = set()
        """Whose wish was passed on."""
        self._began: set[str] = set()
        """Who was given the beginning of the seed."""
        self._doubtful: set[str] = set()

    @property
    def wanted(self) -> bool:
        return bool(self._wants)

    def accepted(self, name: str, *, wanted: bool) -> bool:
        """What a far end's welcome says of it.  Returns as `asked`."""
        if wanted:
            return self.asked(name, "it has no seed")
        if name not in self.targets:
            self._wants.pop(name, None)
        return False

    def asked(self, name: str, why: str) -> bool:
        """Whether to pass the wish on now: not while a seed is on its way, see `next_wish`."""
        self._wants[name] = why
        self._told.discard(name)
        if not self.targets:
            self._told.add(name)
        return not self.targets

    def begin(
        self, seed_id: str, all_members: Iterable[str], standing: Collection[str]
    ) -> list[str]:
        """The members that the seed goes to: without a wish, all but those that take nothing:
        it would lead their logs to what may be another's WAL."""
        self.seed_id = seed_id
        self._began.clear()
        self._doubtful.clear()
        names = list(all_members)
        wishing = [name for name in names if name in self._wants]
        self.targets = wishing or [name for name in names if name not in standing]
        self.failure = "" if self.targets else "no destination takes one now"
        self._told.update(self.targets)
        return list(self.targets)

    def abort(self) -> None:
        """Its maker gave it up."""
        self.seed_id = ""
        self.targets = []

    def began(self, name: str) -> None:
        """The member was given the beginning of the seed."""
        self._began.add(name)

    def refused(self, name: str, why: str) -> None:
        """The member can't begin with it, and will say nothing of it."""
        if name in self.targets:
            self.targets.remove(name)
            self.failure = self.failure or why

    def doubt(self, name: str) -> None:
        """The member takes no seed any more: that it has said what became of it, or soon will,
        is to be expected."""
        if name in self.targets and name in self._began:
            self._doubtful.add(name)

    def settle_doubts(self) -> SeedFinished | None:
        """A moment after `doubt`: who has said nothing is waited for no more.  Returns as
        `finished`."""
        last_word = None
        for name in sorted(self._doubtful):
            lost = SeedFinished(self.seed_id, f"{name} takes it no more, and did not say why")
            last_word = self.finished(name, lost) or last_word
        self._doubtful.clear()
        return last_word

    def finished(self, name: str, event: SeedFinished) -> SeedFinished | None:
        """A member has it in place, or gave it up.  Returns the last word on it, if it is said."""
        if event.seed_id != self.seed_id or name not in self.targets:
            return None
        self.targets.remove(name)
        if event.error:
            self.failure = self.failure or event.error
        else:
            self._wants.pop(name, None)
        if self.targets:
            return None
        return SeedFinished(event.seed_id, self.failure)

    def next_wish(self) -> str:
        """Why a seed is still wanted by one that asked while another was on its way, or ""."""
        if self.targets:
            return ""
        waiting = [name for name in self._wants if name not in self._told]
        self._told.update(waiting)
        return self._wants[waiting[0]] if waiting else ""
