"""What a model takes is known before it is loaded, and is what its worker really takes."""

import psutil
import pytest
import trio

from meshnode.engine.base import EngineState
from meshnode.engine.footprint import CONTEXT_AUTO_MAX, Shape, fitting_context, footprint_bytes, shelf_bytes
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.engine.processor import has_amx
from meshnode.models.gguf import read_header
from meshnode.node.engines import shape_of

MIB = 1 << 20
SMALL = Shape(weights_bytes=92 * MIB, kv_elements=30 * 3 * 128, vocabulary=49152, trained_context=8192)


def test_more_context_takes_what_its_cells_take():
    short, long = (footprint_bytes(SMALL, context=context, slots=8) for context in (1024, 8192))
    assert long - short == 2 * 7168 * SMALL.kv_elements * 2  # in the cache, and on the shelf
    assert footprint_bytes(SMALL, context=1024, slots=16) > short


@pytest.mark.parametrize(
    ("budget_mib", "wanted", "context"),
    [
        (1000, 0, 8192),  # all that it was trained for
        (1000, 2048, 2048),
        (1000, 100_000, 8192),  # never more than it was trained for
        (400, 8192, 0),  # one that is wanted is not cut
        (100, 0, 0),  # not even the weights
    ],
)
def test_the_context_is_what_is_wanted_trained_for_and_fits(budget_mib, wanted, context):
    assert fitting_context(SMALL, slots=8, budget_bytes=budget_mib * MIB, wanted=wanted) == context


def test_each_slot_may_have_as_much_as_was_trained_for_where_the_context_is_divided():
    held = {"slots": 8, "budget_bytes": 8000 * MIB, "divided": True}
    assert fitting_context(SMALL, wanted=8 * 4096, **held) == 8 * 4096
    assert fitting_context(SMALL, wanted=8 * 100_000, **held) == 8 * 8192


def test_a_processor_with_matrix_tiles_is_known(tmp_path):
    plain, tiles = tmp_path / "plain", tmp_path / "tiles"
    plain.write_text("flags\t\t: fpu avx512_vnni\n")
    tiles.write_text("flags\t\t: fpu amx_tile amx_int8\n")
    assert has_amx(tiles)
    assert not has_amx(plain)
    assert not has_amx(tmp_path / "none")


def test_the_context_is_cut_to_the_memory():
    context = fitting_context(SMALL, slots=8, budget_bytes=500 * MIB)
    assert 1024 <= context < 8192
    assert context % 256 == 0
    assert footprint_bytes(SMALL, context=context, slots=8) <= 500 * MIB
    assert footprint_bytes(SMALL, context=context + 256, slots=8) > 500 * MIB


def test_a_file_that_says_nothing_of_itself_gets_the_usual_context():
    assert fitting_context(Shape(0, 0, 0), slots=8, budget_bytes=1 << 40) == CONTEXT_AUTO_MAX


@pytest.mark.model
@pytest.mark.parametrize("context", [2048, 8192])
async def test_the_estimate_is_what_a_worker_takes(model_file, until, context):
    shape = shape_of(read_header(model_file))
    engine = LlamaEngine(
        ModelFile(path=str(model_file), digest=b"d" * 32, shape=shape), context=context, slots=8
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await until(engine, EngineState.READY)
        taken = psutil.Process(engine.pid).memory_info().rss
        nursery.cancel_scope.cancel()
    estimate = footprint_bytes(shape, context=context, slots=8) - shelf_bytes(shape, context=context)
    assert 0.8 * estimate < taken < 1.05 * estimate, (taken // MIB, estimate // MIB)
