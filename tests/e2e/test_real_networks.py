"""Faults of real networks, in the kernel's own: a mesh cut in halves, a relay killed, a cable pulled."""

from pathlib import Path

import pytest

from meshnode.testing import cable_plays, namespaces
from meshnode.testing.cable_plays import DEADLINE_S, STRUCK_AFTER_PIECES, Struck
from meshnode.testing.cabled import GRACE_S

PARTED_S = 13.0  # silence is a loss after ten
AGREED_WITHIN_S = 10.0
TOKENS = 60


@pytest.fixture(autouse=True)
def permitted() -> None:
    """Skip, saying why, where no network can be made."""
    if why := namespaces.refusal():
        pytest.skip(why)


@pytest.mark.slow
async def test_no_request_is_lost_in_a_mesh_cut_in_half_and_all_agree_again(tmp_path: Path):
    cut = await cable_plays.halves(tmp_path, count=6, parted_s=PARTED_S)
    assert cut.apart
    assert cut.agreed_s <= AGREED_WITHIN_S
    assert cut.load.sent == len(cut.load.outcomes) > PARTED_S
    assert cut.load.ends("lost") == []
    assert len(cut.load.ends("finished")) >= cut.load.sent / 2
    assert max(outcome.took_s for outcome in cut.load.outcomes) <= DEADLINE_S + GRACE_S


def check_unharmed(struck: Struck) -> None:
    """What was said before the fault stands, most of the answer came after it, and the fault was one."""
    assert (struck.before.end, struck.after.end, struck.after.code) == ("finished", "finished", "")
    assert struck.after.text.startswith(struck.said)
    assert struck.before.text.startswith(struck.said)
    assert struck.after.pieces > 2 * STRUCK_AFTER_PIECES
    assert {struck.way, struck.way_after} in ({"relay1", "relay2"}, {"server1", "server2"})


@pytest.mark.slow
@pytest.mark.model
async def test_an_answer_through_a_relay_that_is_killed_comes_through_another(
    model_file: Path, tmp_path: Path
):
    struck = await cable_plays.relay_killed(tmp_path, tokens=TOKENS)
    check_unharmed(struck)
    assert struck.after.text == struck.before.text, "the same run, over another way"


@pytest.mark.slow
@pytest.mark.model
async def test_an_answer_goes_on_elsewhere_when_its_servers_cable_is_pulled(model_file: Path, tmp_path: Path):
    # Another server reads what the first has written in batches of other shapes, and may go on with other words.
    check_unharmed(await cable_plays.unplugged(tmp_path, tokens=TOKENS))
