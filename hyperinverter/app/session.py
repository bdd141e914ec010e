"""What the app remembers of one person: the photos, the settings of the picture, and how they came about.

Sessions know nothing of one another, end when they were not used for a while, and live in memory only.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch import Tensor

from hyperinverter.inverters import Inversion
from hyperinverter.utils.errors import UserError

FIRST, SECOND = "first", "second"  # the photo that is edited, and the one to blend it with
MOST_STEPS = 200  # of a history; the oldest are forgotten


class EndedError(UserError):
    """A session that is not there any more."""


@dataclass(frozen=True)
class Settings:
    """What makes the picture out of the photos.

    Attributes:
        edits: direction -> strength in standard deviations; a direction that is not there was not moved.
        blend: 0 is the first photo, 1 the second.
        paste_back: the whole photo with the face in its place instead of the face alone.
    """

    edits: dict[str, float] = field(default_factory=dict)
    blend: float = 0.0
    paste_back: bool = False


@dataclass
class Loaded:
    """A photo in a session; R px.

    Attributes:
        name: its file's name, for people.
        whole: the upright photo.
        shown, small: the same, small enough for a screen, and for a moment.
        image: what the networks saw, [3, R, R] in [-1, 1].
        inversion: of one image.
        quad: where the crop lies in `whole`, [4, 2]; None where it was not aligned.
        faces: how many the photo has; `face` is the number of the one that was taken. 0: faces were not looked for.
        notes: what is to be known of it.
    """

    name: str
    whole: Image.Image
    shown: Image.Image
    small: Image.Image
    image: Tensor
    inversion: Inversion
    quad: np.ndarray | None
    faces: int
    face: int
    notes: list[str]


@dataclass
class Base:
    """What edits start from: the first photo, or a blend."""

    blend: float
    inversion: Inversion  # as it is saved
    prepared: Inversion  # with its weights, so that an edit costs one synthesis


class Session:
    """Photos, settings and their history. `lock` is held by whoever reads or changes it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.photos: dict[str, Loaded] = {}
        self.base: Base | None = None
        self.history: list[Settings] = [Settings()]
        self.at = 0

    @property
    def settings(self) -> Settings:
        return self.history[self.at]

    def put(self, slot: str, photo: Loaded) -> None:
        """A photo in its place. With another first one everything begins anew, with another second one the blend."""
        self.photos[slot] = photo
        self.base = None
        if slot == FIRST:
            self.history, self.at = [Settings()], 0
        else:
            kept = self.settings
            self.change(Settings(kept.edits, 0.0, kept.paste_back))

    def photo(self, slot: str = FIRST) -> Loaded:
        """
        Raises:
            UserError: there is none yet.
        """
        if slot not in self.photos:
            raise UserError("there is no photo yet: choose one" if slot == FIRST else "blending needs a second photo")
        return self.photos[slot]

    def change(self, settings: Settings) -> None:
        """New settings; what was undone is forgotten. The same ones again are no step."""
        if settings == self.settings:
            return
        self.history = [*self.history[: self.at + 1], settings][-MOST_STEPS:]
        self.at = len(self.history) - 1

    def undo(self) -> None:
        self.go(max(self.at - 1, 0))

    def redo(self) -> None:
        self.go(min(self.at + 1, len(self.history) - 1))

    def reset(self) -> None:
        """Back to the settings of the beginning, as a step that can be undone."""
        self.change(Settings())

    def go(self, at: int) -> None:
        """To a step of the history, from 0."""
        if not 0 <= at < len(self.history):
            raise UserError(f"the history has steps 0 to {len(self.history) - 1}, not {at}")
        self.at = at


class Sessions:
    """All sessions, by a name that cannot be guessed.

    Args:
        minutes: without use, after which a session ends.
        most: at a time.
        clock: seconds.
    """

    def __init__(self, minutes: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes, self.most, self.clock = minutes, most, clock
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[float, Session]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> str:
        """A new session's name.

        Raises:
            UserError: too many are open.
        """
        self.expire()
        with self._lock:
            if len(self._sessions) >= self.most:
                raise UserError(
                    f"{self.most} people are at work here, which is all that it takes: try again in some minutes"
                )
            name = secrets.token_urlsafe(24)
            self._sessions[name] = (self.clock(), Session())
        return name

    def get(self, name: str) -> Session:
        """
        Raises:
            EndedError: it is not there, or not any more.
        """
        self.expire()
        with self._lock:
            if name not in self._sessions:
                raise EndedError(f"this session has ended, as it was not used for {self.minutes:g} minutes: begin anew")
            session = self._sessions[name][1]
            self._sessions[name] = (self.clock(), session)
        return session

    def close(self, name: str) -> None:
        with self._lock:
            self._sessions.pop(name, None)

    def expire(self) -> None:
        """Forget those that were not used for too long."""
        with self._lock:
            oldest = self.clock() - 60 * self.minutes
            self._sessions = {name: each for name, each in self._sessions.items() if each[0] >= oldest}
