"""What a person sees of a node that nothing contains."""

from meshnode.cli.query import _status_facts
from meshnode.cli.up import _words
from meshnode.observe.snapshot import EngineView, Snapshot

EXPOSURE = "not contained, because bubblewrap is not installed; other nodes' work is refused"


def test_up_says_so_below_ready() -> None:
    ready = {"event": "ready", "model": "smollm2:135m", "sandbox": "none", "exposure": EXPOSURE}
    assert _words(ready)[2] == f"Sandbox            none: {EXPOSURE}"
    assert not [line for line in _words(ready | {"exposure": ""}) if line.startswith("Sandbox")]


def test_status_names_the_sandbox_and_what_it_leaves_open() -> None:
    bare = EngineView(kind="llama", model="smollm2:135m", sandbox="none", exposure=EXPOSURE)
    contained = EngineView(kind="llama", model="smollm2:135m", sandbox="bubblewrap")
    assert _status_facts(snapshot(bare))["sandbox"] == f"none: {EXPOSURE}"
    assert _status_facts(snapshot(contained))["sandbox"] == "bubblewrap"


def snapshot(engine: EngineView) -> Snapshot:
    return Snapshot(node="a" * 32, name="a", state="ready", engine=engine)
