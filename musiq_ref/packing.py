"""Images that several threads bring to one device, computed together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

from musiq_ref.image.tokenize import Tokens

PATCHES = 2**14  # at most, of images that are computed together


class Packer:
    """Called by a thread with the tokens of its image, it returns the result; it may be called by many at once.

    Whoever finds the device free computes what all others have brought until then.

    compute: results, in their order, of the tokens of several images
    most: patches that go together, unless a single image has more

    >>> Packer(lambda images: [len(tokens.mask) for tokens in images])(Tokens([], [], [], [True, True]))
    2
    """

    def __init__(self, compute: Callable[[list[Tokens]], Sequence[Any]], most: int = PATCHES) -> None:
        self.compute, self.most = compute, most
        self.waiting, self.free = deque[tuple[Tokens, Future]](), Lock()

    def __call__(self, tokens: Tokens) -> Any:
        mine = Future()
        self.waiting.append((tokens, mine))
        with self.free:
            while not mine.done():
                self._compute(self._next())
        return mine.result()

    def _next(self) -> list[tuple[Tokens, Future]]:
        """The images to compute now."""
        pack = [self.waiting.popleft()]
        patches = len(pack[0][0].mask)
        while self.waiting and (patches := patches + len(self.waiting[0][0].mask)) <= self.most:
            pack.append(self.waiting.popleft())
        return pack

    def _compute(self, pack: list[tuple[Tokens, Future]]) -> None:
        """Gives everyone a result or an error; after an error each is computed by itself, for it is one's alone."""
        try:
            results = self.compute([tokens for tokens, _ in pack])
        except Exception as error:
            if len(pack) == 1:
                pack[0][1].set_exception(error)
            for one in pack if len(pack) > 1 else []:
                self._compute([one])
        else:
            for (_, future), result in zip(pack, results, strict=True):
                future.set_result(result)
