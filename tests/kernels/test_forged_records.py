"""Forged records of packed weights and of plans: a clear error that names the argument, never a crash."""

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kernel_cases import CASES, PACKERS, packed
from plans import Recording, record_upscaling, upscale_arrays
from scenes import CHANNELS, Scene, scene
from tolerances import normal

from mobilesam import kernels
from mobilesam.kernels import Array, Maps, PackedRows, Panels, UpdatedImage, WinogradPanels, isa

NUMBERS: list[Any] = [
    -1,
    0,
    2**31,
    2**40,
    2**63,
    2**64,
    10**30,
    -(10**30),
    1.5,
    np.nan,
    True,
    None,
    "1",
    (),
    [1],
    {},
    b"",
]
TABLES: list[Any] = [*NUMBERS[:1], *NUMBERS[2:], 99, np.int64(0)]


def missing_tables() -> list[int]:
    """Indices of the tables of micro-kernels that this CPU cannot run."""
    usable = {isa.index(name, precision) for name in isa.available() for precision in isa.precisions(name)}
    return [table for table in range(15) if table not in usable]


def forged_arrays(array: np.ndarray) -> Iterator[Any]:
    """Yield values that differ from the array in type, dtype, shape or layout."""
    yield from (None, 1, "text", array.tolist(), (array,), {}, memoryview(array), b"bytes")
    for dtype in (np.float64, np.int64, np.uint8, np.uint16, object, ">f4", ">u4", bool):
        if array.dtype != dtype:
            yield array.astype(dtype)
    if array.dtype != np.float32:
        yield array.astype(np.float32)
    yield np.zeros(0, array.dtype)
    yield np.zeros((), array.dtype)
    yield array[None]
    for axis in range(array.ndim):
        yield np.repeat(array, 2, axis=axis)
        if array.shape[axis] > 1:
            yield np.take(array, range(array.shape[axis] - 1), axis=axis)
            yield np.broadcast_to(np.take(array, [0], axis=axis), array.shape)  # a stride of 0


def forged_shapes(shape: tuple[int, ...]) -> Iterator[Any]:
    """Yield values that differ from the shape."""
    yield from (None, 1, "text", (), {}, list(shape), np.array(shape), tuple(map(float, shape)), shape * 3)
    for axis in range(len(shape)):
        for number in (*NUMBERS, shape[axis] * 2 + 32, shape[axis] * 2**32):
            yield (*shape[:axis], number, *shape[axis + 1 :])


def assert_refused(name: str, call: Callable[[], object], value: object) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    message = str(error.value)
    assert type(error.value) in (TypeError, ValueError)
    assert name in message, (message, value)
    assert "\n" not in message


def forged_panels(panels: Panels) -> Iterator[Panels]:
    for table in (*TABLES, *missing_tables()):
        yield panels._replace(isa=table)
    for shape in forged_shapes(panels.shape):
        yield panels._replace(shape=shape)
    for words in forged_arrays(panels.words):
        yield panels._replace(words=words)


@pytest.mark.parametrize(("operation", "name"), [(key, name) for key, names in PACKERS.items() for name in names])
def test_forged_panels_are_refused(operation, name):
    case = CASES[operation]
    arrays = case.arrays()
    panels = packed(case, arrays)[name]
    for forged in forged_panels(panels):
        assert_refused(name, lambda forged=forged: case(arrays | {name: forged}), forged[1:])


def test_forged_panels_of_a_plan_are_refused():
    made = Recording()
    x = made.give(normal(2, 3, 37))
    for forged in forged_panels(kernels.pack(normal(67, 37))):
        assert_refused("linear: weight", lambda forged=forged: made.plan.linear(x, forged), forged[1:])


def test_a_weight_that_another_cpu_has_packed_is_to_be_packed_again():
    missing = missing_tables()
    if not missing:
        pytest.skip("this CPU runs every ISA of the build")
    panels = kernels.pack(normal(67, 37))
    available = ", ".join(isa.available())
    expected = (
        rf"^weight: expected Panels packed for an ISA of this CPU \({available}\).*, got .*: pack the weight again$"
    )
    for table in missing:
        forged = pickle.loads(pickle.dumps(panels._replace(isa=table)))
        with pytest.raises(ValueError, match=expected):
            kernels.linear(normal(5, 37), forged)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, 1), (67, 37), (37, 3, 2, 7)])
def test_copies_of_packed_weights_still_work(dtype, shape):
    for name in isa.available():
        for precision in isa.precisions(name):
            panels = kernels.pack(normal(*shape).astype(dtype), isa=name, precision=precision)
            copy = pickle.loads(pickle.dumps(panels))
            x = normal(9, 8, shape[-1])
            compute = kernels.linear if len(shape) == 2 else kernels.conv2d
            np.testing.assert_array_equal(compute(x, copy), compute(x, panels))


def test_forged_winograd_panels_are_refused():
    panels, x = kernels.pack_winograd(normal(64, 3, 3, 48)), normal(7, 9, 48)
    expected = kernels.winograd_conv3x3(x, panels)
    np.testing.assert_array_equal(kernels.winograd_conv3x3(x, pickle.loads(pickle.dumps(panels))), expected)
    forged: list[WinogradPanels] = [panels._replace(isa=table) for table in (*TABLES, *missing_tables())]
    forged += [panels._replace(shape=shape) for shape in forged_shapes(panels.shape)]
    forged += [panels._replace(data=data) for data in forged_arrays(panels.data)]
    for one in forged:
        assert_refused("weight", lambda one=one: kernels.winograd_conv3x3(x, one), one[1:])


def forged_rows(rows: PackedRows) -> Iterator[PackedRows]:
    for table in (*TABLES, *missing_tables()):
        yield rows._replace(isa=table)
    for array in forged_arrays(rows.rows):
        if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 2 and array.flags.c_contiguous:
            continue  # rows of another shape may have a packed form of the same size
        yield rows._replace(rows=array)
    for array in forged_arrays(rows.packed):
        yield rows._replace(packed=array)


def test_forged_packed_rows_are_refused():
    made, rows, w2 = Recording(), kernels.pack_rows(normal(20, 16)), kernels.pack_rows(normal(32, 16))
    x, arrays = made.give(normal(1, 9, 16)), upscale_arrays(3, 5, 16, 8, 2)
    made.plan.project(x, pickle.loads(pickle.dumps(rows)))
    for forged in forged_rows(rows):
        assert_refused("project: rows", lambda forged=forged: made.plan.project(x, forged), forged[1:])
    maps, hyper = made.give_maps(normal(15, 64)), made.give(arrays["hyper"])
    others = [arrays[name] for name in ("norm_weight", "norm_bias")]
    for forged in forged_rows(w2):
        assert_refused(
            "upscale_masks: w2",
            lambda forged=forged: made.plan.upscale_masks(
                maps, (3, 5), *others, forged, arrays["b2"], hyper, np.zeros(64, np.float32)
            ),
            forged[1:],
        )


def test_rows_packed_for_another_isa_than_the_plans_are_refused():
    if len(isa.available()) < 2:
        pytest.skip("this CPU has one ISA")
    made, arrays = Recording(isa=isa.available()[0]), upscale_arrays(3, 5, 16, 8, 2)
    with (
        isa.use(isa.available()[1]),
        pytest.raises(ValueError, match="upscale_masks: w2: expected PackedRows packed for"),
    ):
        record_upscaling(made, arrays)


def forged_plan_arrays(array: Array, other: Array) -> Iterator[Any]:
    yield from (None, 1, "text", tuple(array), [array], {})
    for number in (*TABLES, 2**16, array.number + 1000):
        yield array._replace(number=number)
    for shape in forged_shapes(array.shape):
        yield array._replace(shape=shape)
    yield array._replace(number=other.number)


def forged_maps(maps: Maps, other: Array) -> Iterator[Any]:
    yield from (None, 1, tuple(maps), maps.array)
    for array in forged_plan_arrays(maps.array, other):
        yield maps._replace(array=array)
    for number in (*NUMBERS, maps.n + 256):
        yield maps._replace(n=number)
        yield maps._replace(channels=number)
    for number in (*NUMBERS[:1], *NUMBERS[2:], maps.array.shape[1]):
        yield maps._replace(first=number)


def test_forged_arrays_and_maps_are_refused():
    made = Recording()
    x, other, queries, row = made.give(normal(2, 3, 16), normal(9), normal(2, 3, 32), normal(16))
    image, keys = made.give(normal(1, 9, 16)), made.give_maps(normal(9, 32))
    plan, weight, rows, bias = made.plan, normal(5, 16), kernels.pack_rows(normal(40, 16)), normal(32)
    one = normal(16)
    calls: dict[str, Callable[[Any], object]] = {
        "linear: x": lambda x: plan.linear(x, weight),
        "attention: q": lambda q: plan.attention(q, x, x, heads=1),
        "attention: k": lambda k: plan.attention(x, k, x, heads=1),
        "attention: v": lambda v: plan.attention(x, x, v, heads=1),
        "layer_norm: x": lambda x: plan.layer_norm(x, one, one),
        "add: x": lambda x: plan.add(x, row),
        "add: other": lambda other: plan.add(x, other),
        "take: x": lambda x: plan.take(x, [0]),
    }
    for name, call in calls.items():
        for forged in forged_plan_arrays(x, other):
            assert_refused(name, lambda call=call, forged=forged: call(forged), forged)
    for forged in forged_plan_arrays(image, other):
        assert_refused("project: x", lambda forged=forged: plan.project(forged, rows), forged)
    for forged in forged_plan_arrays(queries, other):
        assert_refused("queries", lambda forged=forged: plan.attend_image(forged, keys, keys, bias), forged)
    for forged in forged_maps(keys, other):
        if forged is not None:
            assert_refused("project: added", lambda forged=forged: plan.project(image, rows, forged), forged)
        assert_refused("keys", lambda forged=forged: plan.attend_image(queries, forged, keys, bias), forged)
        assert_refused("values", lambda forged=forged: plan.attend_image(queries, keys, forged, bias), forged)
    for forged in forged_plan_arrays(x, other):
        assert_refused("array", lambda forged=forged: plan.result(forged), forged)
        assert_refused("array", lambda forged=forged: plan.view(forged), forged)


def is_padded(forged: Any, constant: Any) -> bool:
    """Whether an array differs from a constant only by more columns of padding, and by numbers."""
    if not isinstance(forged, np.ndarray) or forged.dtype != np.float32 or not forged.flags.c_contiguous:
        return False
    return forged.ndim == constant.ndim == 2 and len(forged) == len(constant) and forged.shape[1] > constant.shape[1]


class Updates:
    """A plan with the first of two image updates, and the arguments of the second."""

    def __init__(self) -> None:
        self.case: Scene = scene(9, 2, 3)
        self.made = Recording()
        self.maps = [*map(self.made.give_maps, self.case.maps())]
        self.tokens = self.made.give(*(array[None] for array in self.case.tokens[0]))
        self.first, self.second = self.case.constants.first, self.case.constants.second
        self.before = self.update(self.first, None)

    def update(self, update: Any, before: Any, **options: Any) -> UpdatedImage:
        options = {"channels": CHANNELS} | options
        return self.made.plan.update_image(*self.maps, update, *self.tokens, before, **options)[0]


def test_forged_updates_are_refused():
    made = Updates()
    made.update(pickle.loads(pickle.dumps(made.second)), made.before)
    for before, update in ((None, made.first), (made.before, made.second)):
        for forged in (None, 1, "text", (), dataclasses.astuple(update)):
            assert_refused("update", lambda forged=forged, before=before: made.update(forged, before), forged)
        for field in dataclasses.fields(update):
            value = getattr(update, field.name)
            if value is None:
                continue
            wrong = forged_arrays(value) if isinstance(value, np.ndarray) else (*NUMBERS[:1], *NUMBERS[2:])
            for forged in wrong:
                if is_padded(forged, value):
                    continue
                other = dataclasses.replace(update, **{field.name: forged})
                with pytest.raises((TypeError, ValueError)) as error:
                    made.update(other, before)
                # A number of channels that the maps lack is an error of maps. No query rows mean the first update.
                names = {"at": "maps", "squares": "maps", "pe_at": "maps", "query_rows": "before", "value_bias": "keys"}
                message = str(error.value)
                assert f"update.{field.name}" in message or f" {names.get(field.name)}: " in message, message
    for name in ("channels", "eps"):
        for forged in (*NUMBERS[:1], *NUMBERS[4:8], np.nan, None, "1", [1]):
            if name == "channels" or not isinstance(forged, int):
                options = {name: forged}
                assert_refused(name, lambda options=options: made.update(made.first, None, **options), options)


def test_forged_updated_images_are_refused():
    made = Updates()
    other = made.tokens[0]
    before = made.before
    forged: list[Any] = [tuple(before), (before,), 1, "text"]
    forged += [before._replace(n=number) for number in NUMBERS]
    forged += [before._replace(data=array) for array in forged_plan_arrays(before.data, other)]
    forged += [
        before._replace(values=values) for values in (None, 1, (), before.values * 2, list(before.values), "text")
    ]
    forged += [
        before._replace(values=(array,))
        for array in forged_plan_arrays(before.values[0], other)
        if not (isinstance(array, Array) and array.number is other.number)
    ]
    for one in forged:
        assert_refused("before", lambda one=one: made.update(made.second, one), one)


def test_forged_updates_of_the_upscaling_are_refused():
    made, arrays = Recording(), upscale_arrays(3, 5, 16, 8, 2)
    data, last, packed, other = made.give(normal(1, 5, 272), normal(64, 4), normal(1), normal(3))
    for i, array in enumerate((data, last)):
        for forged in forged_plan_arrays(array, other):
            update = [data, last, packed]
            update[i] = forged
            assert_refused("update", lambda update=update: record_upscaling(made, arrays, update=update), forged)
    for update in (1, "text", (), (data, last), (data, last, packed, packed), {}):
        assert_refused("update", lambda update=update: record_upscaling(made, arrays, update=update), update)


def test_a_plan_has_at_most_as_many_arrays_and_elements_as_its_jobs_can_address():
    plan = kernels.Plan()
    with pytest.raises(ValueError, match="shape: expected at most 4294967296 elements"):
        plan.array(2**16, 2**16, 2)
    for _ in range(2**16):
        plan.array(1)
    with pytest.raises(ValueError, match="shape: expected at most 65536 arrays"):
        plan.array(1)


def test_wrong_values_for_a_run_are_refused():
    made = Recording()
    x = made.give(normal(2, 3, 16))
    made.plan.result(made.plan.add(x, x))
    made.plan.compile()
    for given in (None, 1, "text", [], (x,), {x}):
        assert_refused("given", lambda given=given: made.plan.run(given), given)
    for value in forged_arrays(normal(2, 3, 16)):
        assert_refused("given", lambda value=value: made.plan.run({x: value}), value)
