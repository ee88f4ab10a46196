"""The hand at a canvas: which of its changes is drawn, in few steps or in full, and until when that is wanted."""

from __future__ import annotations

from dataclasses import dataclass

BETTER = {"live": 0, "still": 1, "rest": 2}


@dataclass
class Hand:
    """The state machine of live drawing, one a visit. It knows numbers and phases, neither the page nor the jobs.

    ::

        idle ── "live" ──> live ── end ──> idle          what is drawn in few steps is drawn to its end
        idle ── "still" ─> still ─ end ──> idle          the same once more, by the whole decoder
        idle ── "rest" ──> rest ── end ──> idle          that change is ``full``: it is not drawn again
                    still, rest ── wake ─> idle          the hand goes on: what it rested for is given up
        any  ── drop ────> idle                          Make and Stop

    The newest wins: the browser has one slot, in which a change waits while another is drawn, and the next one takes
    its place (one event with Gradio's ``always_last``). What was overtaken elsewhere is told by its ``turn``.
    """

    state: str = "idle"
    turn: int = 0  # the newest change that was heard of
    better: int = 0  # how good a picture of it was asked for: what comes late never takes the place of a better one
    full: int = -1  # the change whose picture in full is there
    shown: int = 0  # the number of the run that made it
    ticket: int = 0  # of the drawing that is wanted now

    def take(self, turn: int, phase: str, making: bool = False) -> int:
        """A change has come: the ticket with which it is to be drawn, 0 if it is not. ``phase``: "live", "still",
        "rest", or "change", which nobody follows; ``making``: Make is at work, which no stroke ends."""
        if phase == "change" or making or (turn, BETTER[phase]) < (self.turn, self.better) or turn == self.full:
            return 0
        self.state, self.turn, self.better, self.ticket = phase, turn, BETTER[phase], self.ticket + 1
        return self.ticket

    def holds(self, ticket: int) -> bool:
        """Whether the drawing with this ticket is still wanted."""
        return self.state != "idle" and ticket == self.ticket

    def end(self, ticket: int, finished: bool) -> None:
        """That drawing has ended, ``finished`` or not; one that was given up changes nothing."""
        if self.holds(ticket):
            self.full = self.turn if finished and self.state == "rest" else self.full
            self.state = "idle"

    def wake(self, turn: int) -> bool:
        """The hand goes on after it was still. True if that ends what was made meanwhile."""
        resting = self.state in ("still", "rest")
        self.better = self.better if turn <= self.turn else 0
        self.turn, self.state = max(self.turn, turn), "idle" if resting else self.state
        return resting

    def drop(self) -> None:
        """Make or Stop was pressed: nothing else is wanted."""
        self.state = "idle"
