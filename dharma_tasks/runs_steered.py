"""The runs' records as those steer them who pause, resume and cancel: see `runs.py`.

The state is changed in Redis at once. Beside it stands what was asked for, signed: workers that
have a key do nothing that only the state says (see `controls`).
"""

from __future__ import annotations

from dharma_tasks.controls import Control
from dharma_tasks.errors import Problem, Refused, Unsigned
from dharma_tasks.run import Event, Run, RunState
from dharma_tasks.runs import Runs
from dharma_tasks.signing import Kind


class RunsSteered(Runs):
    """What a person asks of runs. Each call returns the state that the run was in."""

    def pause(self, run: Run, event: Event) -> RunState:
        """Let nothing move until the run is resumed. It keeps its databases."""
        return self._steer("pause", run, event, RunState.PAUSED)

    def resume(self, run: Run, event: Event) -> RunState:
        """Let a paused run be what it was; the caller sends what is open."""
        return self._steer("resume", run, event, None)

    def cancel(self, run: Run, event: Event, *, keep: bool) -> RunState:
        """End the run when what is open is undone; with `keep` at once, leaving that as it is."""
        state = RunState.CANCELLED if keep else RunState.CANCELLING
        return self._steer("cancel", run, event, state, "keep" if keep else "")

    def _steer(
        self, script: str, run: Run, event: Event, state: RunState | None, *more: str
    ) -> RunState:
        """Let the run be `state`, or without it what it was."""
        while True:  # each turn means that somebody else has asked for something
            control = self._control(run.id, state)
            before = self._call(script, run, event.model_dump_json(), *control, *more)
            if before is not None:
                return RunState(before)

    def _control(self, run: str, state: RunState | None) -> tuple[str, str]:
        """What asks for it after all that was asked before, and what signs that."""
        if not self.signer.on:
            return "", ""
        key = self._key(run)
        with self._redis.pipeline() as pipe:  # one moment: the text and its signature
            pipe.hget(key, "control")
            pipe.hget(f"{key}:signatures", Kind.CONTROL.value)
            last = Control.believed(self.signer, run, *pipe.execute())
        text = last.following(state or last.was).text
        return text, self.signer.sign(Kind.CONTROL, run, text)

    def require_key(self, run: Run) -> None:
        """Make sure that workers will believe what is asked of the run here.

        Raises:
            Refused: it was submitted with a key that is not ours.
        """
        key = self._key(run.id)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hmget(key, "record", "definitions")
            pipe.hget(f"{key}:signatures", Kind.RECORD.value)
            texts, signature = pipe.execute()
        if not signature:
            return
        how = "and none is set"
        if self.signer.on:
            how = "and not with the one that is set"
            try:
                self.signer.confirm(Kind.RECORD, signature, *(text or "" for text in texts))
            except Unsigned:
                pass
            else:
                return
        what = f"run {run.id} was submitted with a DHARMA_SIGNING_KEY, {how} here"
        todo = "Set DHARMA_SIGNING_KEY to the one that the workers have."
        raise Refused([Problem("", "", what, todo)])
