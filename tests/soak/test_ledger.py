"""The ledger, for as long as an hour of a busy gateway."""

from __future__ import annotations

from proxy.store import Store
from tests.rig.ledger_play import BUDGET_MICRO, Play

OPERATIONS = 100_000


async def test_a_hundred_thousand_operations_balance_to_the_last_micro_unit(store: Store) -> None:
    # Of the usual budget little would be left after a tenth of them.
    play = Play(store, seed=11, budget_micro=2 * BUDGET_MICRO)
    for _ in range(OPERATIONS):
        await play.step()
    found = await store.ledger.check(play.now_ms)
    assert found.problems == ()
    assert found.tasks > OPERATIONS / 20
    assert play.refused > 0  # the budgets were met too
