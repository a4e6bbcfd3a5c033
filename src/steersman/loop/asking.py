"""How an effect is asked for: a row that says what is intended, once for each key."""

from datetime import datetime

from steersman.domain.identifiers import new_id
from steersman.domain.operation import Intent, Operation, OperationState
from steersman.store.transaction import Transaction


def ask(tx: Transaction, intent: Intent, *, at: datetime) -> bool:
    """Write an intent as an operation; False if the same key was asked for before."""
    operation = Operation(
        id=new_id("op"),
        key=intent.key,
        kind=intent.kind,
        args=intent.args,
        state=OperationState.INTENDED,
        at=at,
    )
    return tx.add_operation(operation)
