"""Carries out operations: claims a row, makes the effect, writes the result. It makes no choices of its own.

An operation is claimed with a lease and an epoch, so two control servers never both write its result; its effect may
happen more than once (a crash between effect and result), therefore every effect is an `ensure` under the operation's
key. What an operation *means* stands in `loop.effects`, one function a kind; here is only how it is kept alive, retried
and recorded.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from steersman.domain.events import Action, Event
from steersman.domain.operation import ATTEMPTS_MAX, BACKOFF_S, Operation, OperationKind, OperationState
from steersman.loop.effects import EFFECTS, GIVEN_UP, Effect, Ended
from steersman.loop.world import Documents, World
from steersman.store.transaction import Stale

LEASE_S = 30.0
"""Wall seconds a claim lasts; one whose effect takes longer is renewed while it runs. Short enough for a quick takeover."""

RENEWED_AFTER_S = LEASE_S / 3
"""Wall seconds after which a claim is renewed: two renewals may be missed before anybody else takes the operation."""

Reached = Callable[[str], None]
"""Called with a name before and after each effect; the crash tests end the process there."""


class Executor:
    """Runs open operations of one installation. `owner` names this process among control servers."""

    def __init__(
        self, world: World, documents: Documents, *, owner: str, reached: Reached = lambda _point: None
    ) -> None:
        self._world = world
        self._documents = documents
        self._owner = owner
        self._reached = reached
        self._claims: dict[str, Operation] = {}

    def turn(self, wanted: Callable[[Operation], bool] = lambda _operation: True) -> bool:
        """Try every wanted open operation once, in the order they were asked for; True if any moved."""
        moved = False
        for operation in self.open():
            if wanted(operation):
                moved = self.attempt(operation) or moved
        return moved

    def open(self, *, kinds: Iterable[OperationKind] = OperationKind) -> list[Operation]:
        """What is intended or under way, in the order it was asked for."""
        wanted = frozenset(kinds)
        with self._world.store.read() as tx:
            return [operation for operation in tx.open_operations() if operation.kind in wanted]

    def attempt(self, operation: Operation) -> bool:
        """Claim one operation and make its effect; True if that moved anything. Never two of one operation at once."""
        claimed = self._claim(operation)
        if claimed is None:
            return False
        effect: Effect = EFFECTS[claimed.kind]
        self._reached(f"{claimed.kind}:before")
        try:
            ended = effect(self._world, self._documents, claimed)
        except Exception as error:  # whatever an adapter raises is an attempt that failed, never the end of the loop
            self._claims.pop(claimed.id, None)
            return self._failed(claimed, error)
        self._reached(f"{claimed.kind}:after")
        if ended is None:
            self._goes_on(claimed)
            return operation.state is not OperationState.RUNNING
        self._claims.pop(claimed.id, None)
        self._succeeded(claimed, ended)
        self._reached(f"{claimed.kind}:recorded")
        return True

    def _claim(self, operation: Operation) -> Operation | None:
        """The operation under our lease. One that goes on is asked again and again: a fresh claim of ours still holds."""
        now_s = time.time()
        if operation.not_before > now_s:
            return None
        ours = self._claims.get(operation.id)
        if ours is not None and ours.epoch == operation.epoch and now_s < operation.lease_until - RENEWED_AFTER_S:
            return ours
        with self._world.store.write() as tx:
            claimed = tx.claim(operation, owner=self._owner, now_s=now_s, lease_s=LEASE_S)
        if claimed is not None:
            self._claims[operation.id] = claimed
        return claimed

    def _goes_on(self, claimed: Operation) -> None:
        """Note, once, that the effect was begun."""
        if claimed.begun:
            return
        begun = msgspec.structs.replace(claimed, begun=True)
        with contextlib.suppress(Stale), self._world.store.write() as tx:
            tx.save_operation(begun)
            self._claims[claimed.id] = begun

    def renew(self, operation: Operation) -> None:
        """Keep the lease of an operation whose effect goes on in another thread; nothing when it ended or was taken over."""
        now_s = time.time()
        ours = self._claims.get(operation.id)
        if ours is None or now_s < operation.lease_until - LEASE_S + RENEWED_AFTER_S:
            return
        with self._world.store.write() as tx:
            current = tx.operation(operation.key)
            if current is not None and not current.state.ended and current.epoch == ours.epoch:
                tx.save_operation(msgspec.structs.replace(current, lease_until=now_s + LEASE_S))

    def _succeeded(self, operation: Operation, ended: Ended) -> None:
        state = OperationState.FAILED if ended.failed else OperationState.SUCCEEDED
        done = msgspec.structs.replace(
            operation, state=state, result=ended.result, error=ended.failed, lease_owner=None, lease_until=0.0
        )
        try:
            with self._world.store.write() as tx:
                tx.save_operation(done)
                if ended.record is not None:
                    ended.record(tx)
        except Stale:
            return  # another process took it over meanwhile and writes its own result

    def _failed(self, operation: Operation, error: Exception) -> bool:
        attempts = operation.attempts + 1
        final = attempts >= ATTEMPTS_MAX
        text = f"{type(error).__name__}: {error}"[:2000] or traceback.format_exc(limit=1)
        after = msgspec.structs.replace(
            operation,
            attempts=attempts,
            state=OperationState.FAILED if final else OperationState.INTENDED,
            error=text,
            not_before=time.time() + BACKOFF_S[min(attempts, len(BACKOFF_S) - 1)],
            lease_owner=None,
            lease_until=0.0,
        )
        try:
            with self._world.store.write() as tx:
                tx.save_operation(after)
                if final:
                    tx.append(self._gave_up(after))
                    if after.kind in GIVEN_UP:
                        GIVEN_UP[after.kind](tx, self._world, after)
        except Stale:
            return False
        return final

    def _gave_up(self, operation: Operation) -> Event:
        args: dict[str, Any] = operation.args
        return Event(
            action=Action.OPERATION_FAILED,
            at=self._world.clock.now(),
            actor="system",
            workspace=str(args.get("workspace", "default")),
            kind="operation",
            name=operation.key,
            because=f"{operation.kind} failed {operation.attempts} times: {operation.error}",
        )
