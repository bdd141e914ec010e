"""Account for every key of a published state dict: each is used, or ignored for a stated reason, or the load fails."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.state_dicts import COUNTERS, misfits, shapes_only, shortened, skip_init

FEW_NUMBERS = 10_000_000  # that a network may have beside the file's: heads from a package, parts left out
Built = TypeVar("Built", bound=nn.Module)


class Keys:
    """A state dict that is being read. `take` and `ignore` consume keys; `finish` refuses what is left over.

    Args:
        state: published key -> tensor.
        what: what the file is meant to be, for messages: "a StyleGAN2-ADA generator".
        source: file name or "the given state dict", for messages.
    """

    def __init__(self, state: Mapping[str, Tensor], what: str, source: str = "the given state dict") -> None:
        self.state = dict(state)
        self.what, self.source = what, source
        self.ignored: dict[str, str] = {}
        self._left = dict.fromkeys(self.state)
        for key, value in self.state.items():
            if not isinstance(value, Tensor):
                raise self.fault(f"{key} is a {type(value).__name__}, expected a tensor")

    def __contains__(self, key: str) -> bool:
        return key in self.state

    def fault(self, message: str) -> UserError:
        """An error that names the source and what was expected of it; to be raised."""
        return UserError(f"{self.source}: not {self.what}: {message}")

    @contextmanager
    def refusing(self, kinds: tuple[type[Exception], ...] = (ValueError,)) -> Iterator[None]:
        """What our own code refuses inside, by an error of these kinds, is a fault of the file."""
        try:
            yield
        except kinds as error:
            raise self.fault(str(error)) from error

    def left(self, prefix: str = "") -> list[str]:
        """Keys that begin with `prefix` and were neither taken nor ignored yet."""
        return [key for key in self._left if key.startswith(prefix)]

    def shape(self, key: str, dimensions: int | None = None) -> tuple[int, ...]:
        """The shape of a key that must be there, of so many dimensions and not empty; does not consume it."""
        if key not in self.state:
            raise self.fault(f"it has no {key}")
        shape = tuple(self.state[key].shape)
        if dimensions is not None and (len(shape) != dimensions or 0 in shape):
            raise self.fault(f"{key} has shape {shape}, expected {dimensions} sizes above 0")
        return shape

    def take(self, key: str, shape: Iterable[int | None] | None = None) -> Tensor:
        """The tensor of a key, which counts as used.

        Args:
            key: must be there.
            shape: expected, None for a free dimension.
        """
        result = self.shape(key)
        if shape is not None:
            expected = tuple(shape)
            if len(result) != len(expected) or any(e not in (None, f) for e, f in zip(expected, result, strict=True)):
                raise self.fault(f"{key} has shape {result}, expected {expected}")
        self._left.pop(key, None)
        return self.state[key]

    def take_prefix(self, prefix: str) -> dict[str, Tensor]:
        """All keys under `prefix`, which is cut off; they count as used."""
        return {key.removeprefix(prefix): self.take(key) for key in self.left(prefix)}

    def ignore(self, pattern: str, why: str) -> None:
        """Every key still left that `pattern` matches in full (a regular expression) is knowingly not used."""
        for key in self.left():
            if re.fullmatch(pattern, key):
                self.ignored[key] = why
                self._left.pop(key)

    def build(self, build: Callable[[], Built]) -> Built:
        """A network whose every number `fill` will give; none that is much larger than what the file holds.

        Raises:
            UserError: its sizes make no network, or one of more numbers; no memory has been taken by then.
            ValueError: what the network itself says of its arguments.
        """
        try:
            with shapes_only():
                wanted = sum(value.numel() for value in build().state_dict().values())
        except ValueError:
            raise  # an option that is none
        except DAMAGED as error:
            raise self.fault(reason_of(error)) from error
        held = sum(value.numel() for value in self.state.values())
        if wanted > 2 * held + FEW_NUMBERS:
            raise self.fault(f"a network of its sizes has {wanted:,} numbers and it holds {held:,}; it is incomplete")
        with skip_init():
            return build()

    def fill(
        self, network: nn.Module, state: Mapping[str, Tensor], keep: str | None = None, assign: bool = False
    ) -> None:
        """Load `state` (already under this project's names) into `network`: every key, no other, same shapes.

        Args:
            network: receives the tensors, in its own dtype.
            keep: regular expression of names that the network constructs itself and the file may leave out.
            assign: take the tensors themselves, for a network that was built without memory (on the device meta).
        """
        own = network.state_dict()
        optional = rf"{keep}|{COUNTERS}" if keep else COUNTERS
        if fault := misfits(own, state, optional):
            raise self.fault(fault)
        kept = {key: value for key, value in own.items() if key not in state}
        network.load_state_dict({**kept, **state}, assign=assign)

    def agree(self, given: Mapping[str, object], **shown: object) -> None:
        """Options that can also be read from the tensors must say the same as they do; None says nothing.

        Raises UserError: one of them does not.
        """
        for name, value in shown.items():
            if (asked := given.get(name)) is not None and asked != value:
                say = f"{name}={asked!r} was given, but the tensors say {value!r}; leave it out"
                raise UserError(f"{self.source}: {say}")

    def finish(self) -> dict[str, str]:
        """The ignored keys with their reasons.

        Raises UserError: keys are left that were neither used nor knowingly ignored.
        """
        if self._left:
            raise self.fault(f"{len(self._left)} keys are not known: {shortened(list(self._left))}")
        return self.ignored


def options(given: dict, known: Mapping[str, object], what: str) -> dict:
    """Options of `from_published` with their defaults; an unknown one is refused by name."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{what}: unknown option {', '.join(unknown)}; it takes: {', '.join(known) or 'none'}")
    return {**known, **given}
