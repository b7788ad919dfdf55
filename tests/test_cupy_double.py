"""The double obeys CuPy's rules: every rule is broken once on purpose, and the double must notice."""

import copy

import numpy as np
import pytest
from cupy_double import BACKEND, METHODS, Double, counters, cp, from_numpy
from recorded_cupy import ARRAY, KNOWN

from musiq_ref.backend import erf, namespace, on_host, rowwise


@pytest.fixture(autouse=True)
def _fresh_counters():
    counters.reset()


def upload(*values, dtype="float64"):
    """A double of these values, without the upload being counted."""
    x = from_numpy(np.array(values, dtype))
    counters.reset()
    return x


def counted():
    return counters.synchronisations, counters.transfers


# ---------------------------------------------------------------------------------- it is no NumPy array and meets none


def test_it_is_no_numpy_array_and_belongs_to_its_own_namespace():
    x = upload(1, 2)
    assert not isinstance(x, np.ndarray)
    assert not on_host(x)
    assert namespace(x) is cp
    assert not hasattr(x, "__array_namespace__")


HOST = np.array([1.0, 2.0])

MIXTURES = {
    "np.asarray": lambda x: np.asarray(x),
    "np.array of a list": lambda x: np.array([x, x]),
    "x + host": lambda x: x + HOST,
    "host + x": lambda x: HOST + x,
    "host @ x": lambda x: HOST @ x,
    "x @ host": lambda x: x @ HOST,
    "x < host": lambda x: x < HOST,
    "x + list": lambda x: [1.0, 2.0] + x,  # noqa: RUF005
    "zero-dimensional host": lambda x: x * np.array(2.0),
    "x += host": lambda x: x.__iadd__(HOST),
    "host += x": lambda x: np.add(HOST, x, out=HOST.copy()),
    "np.concatenate": lambda x: np.concatenate([x, HOST]),
    "np.where": lambda x: np.where(HOST > 1, x, 0),
    "np.sum": lambda x: cp.sum(HOST),
    "cp.exp": lambda x: cp.exp(HOST),
    "cp.concatenate": lambda x: cp.concatenate([x, HOST]),
    "cp.maximum": lambda x: cp.maximum(x, HOST),
    "cp.take": lambda x: cp.take(HOST, x.astype(int)),
    "x[:] = host": lambda x: x.__setitem__(slice(None), HOST),
    "x[0] = list": lambda x: x.__setitem__(slice(None), [1, 2]),
    "host[:] = x": lambda x: np.zeros(2).__setitem__(slice(None), x),
    "np.copyto": lambda x: np.copyto(np.zeros(2), x),
    "a slice's end": lambda x: HOST[: x[0]],
    "a shape": lambda x: np.zeros(x[0]),
    "range": lambda x: range(x[0]),
}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_mixing_with_the_host_is_a_type_error(mixture):
    with pytest.raises(TypeError):
        mixture(upload(1, 2))


@pytest.mark.parametrize(
    "mixture",
    [
        lambda x: np.add.reduce(x),
        lambda x: np.add.at(x, x.astype(int), 1.0),
        lambda x: np.add.outer(x, x),
        lambda x: __import__("scipy.special").special.erf(x),
        lambda x: np.errstate(x),
    ],
)
def test_functions_of_numpy_that_cupy_does_not_take_over_are_refused(mixture):
    with pytest.raises(TypeError):
        mixture(upload(1, 2))


# ----------------------------------------------------------------------------------------- scalars and type promotion


@pytest.mark.parametrize("make", [lambda x, s: x * s, lambda x, s: s * x, lambda x, s: cp.multiply(x, s)])
@pytest.mark.parametrize("scalar", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2)], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_scalars_promote_as_in_numpy_2(make, scalar, dtype):
    y = make(upload(1, 2, dtype=dtype), scalar)
    assert type(y) is Double
    assert y.dtype == (np.array([1, 2], dtype) * scalar).dtype
    assert counted() == (0, 0)


def test_a_numpy_float64_scalar_widens_a_float32_array():
    assert (upload(1, dtype="float32") * np.float64(2)).dtype == np.float64


def test_results_are_arrays_even_without_axes():
    x = upload(3, 4)
    results = [x.sum(), np.sum(x), cp.max(x), x[0], x.mean(), -x[0], x[0] * 2, cp.linalg.norm(x), next(iter(x))]
    assert [(type(r), r.shape) for r in results] == [(Double, ())] * len(results)
    assert counted() == (0, 0)


# ---------------------------------------------------------------------------------------------------------- dispatch


def test_numpy_functions_dispatch_to_the_double():
    x = upload(1, 4)
    results = [np.exp(x), np.sqrt(x), np.mean(x), np.stack([x, x]), np.zeros_like(x), np.linalg.norm(x), np.abs(x)]
    results += [np.lib.stride_tricks.sliding_window_view(x, 2), np.where(x > 1, x, 0), np.einsum("i,i", x, x)]
    assert {type(r) for r in results} == {Double}
    np.testing.assert_array_equal(results[1].get(), [1, 2])


def test_the_error_function_is_registered():
    x = upload(0.5, -1)
    assert type(erf(x)) is Double
    np.testing.assert_array_equal(erf(x).get(), erf(np.array([0.5, -1])))
    assert KNOWN["names"]["cupyx.scipy.special"]["erf"].startswith("ufunc")


def test_rowwise_takes_an_array_of_the_device_whole():
    seen = []
    x = from_numpy(np.zeros((1000, 3)))
    rowwise(lambda rows: seen.append(rows.shape) or rows, x)
    assert seen == [(1000, 3)]


# ---------------------------------------------------------------------------------- only names and arguments of CuPy


@pytest.mark.parametrize("name", ["errstate", "testing_of_nothing", "bmat", "setbufsize", "nditer"])
def test_names_that_cupy_lacks_are_missing(name):
    with pytest.raises(AttributeError):
        getattr(cp, name)


@pytest.mark.parametrize("path", ["linalg.norm", "lib.stride_tricks.sliding_window_view", "random.uniform", "fft.fft"])
def test_submodules_are_there(path):
    owner = cp
    for name in path.split("."):
        owner = getattr(owner, name)
    assert callable(owner)


@pytest.mark.parametrize("path", ["linalg.cond_of_nothing", "lib.array_utils", "random.default_rng", "lib.mixins"])
def test_submodules_hold_only_cupys_names(path):
    module, name = path.split(".")
    with pytest.raises(AttributeError):
        getattr(getattr(cp, module), name)


WRONG_ARGUMENTS = {
    "where= of a ufunc": lambda x: cp.exp(x, where=x > 0),
    "where= through NumPy": lambda x: np.exp(x, where=x > 0),
    "where= of a sum": lambda x: cp.sum(x, where=x > 0),
    "initial= of a maximum": lambda x: cp.max(x, initial=0),
    "order= of a ufunc": lambda x: cp.add(x, x, order="C"),
    "too many arguments of a ufunc": lambda x: cp.exp(x, x, x),
    "too few arguments of a ufunc": lambda x: cp.maximum(x),
    "mode= of take": lambda x: cp.take(x, x.astype(int), mode="wrap"),
    "correction= of std": lambda x: cp.std(x, correction=1),
    "where= of a method": lambda x: x.sum(where=x > 0),
    "initial= of a method": lambda x: x.max(initial=0),
    "out= of einsum": lambda x: cp.einsum("i,i", x, x, out=x),
    "a missing argument": lambda x: cp.swapaxes(x, 0),
}


@pytest.mark.parametrize("wrong", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_arguments_that_cupy_does_not_take_are_refused(wrong):
    with pytest.raises(TypeError):
        wrong(upload(1, 2))


def test_every_attribute_of_the_double_is_one_of_cupy():
    public = [name for name in dir(Double) if not name.startswith("_")]
    assert set(METHODS.split()) <= set(public)
    assert [name for name in public if name not in ARRAY] == []
    special = [name for name, value in vars(Double).items() if name.startswith("__") and callable(value)]
    assert [name for name in special if name not in ARRAY] == []


def test_constants_and_dtypes_are_numpys():
    assert cp.float32 is np.float32
    assert cp.pi == np.pi
    assert cp.newaxis is None
    assert cp.ndarray is Double


# ------------------------------------------------------------------------------------------------- what is counted

LOOKS = {
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0]),
    "if": lambda x: 1 if x[0] > 0 else 0,
    "and": lambda x: x[0] and x[1],
    "repr": repr,
    "str": str,
    "format": lambda x: f"{x[0]:.2f}",
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "get": lambda x: x.get(),
    "cp.asnumpy": lambda x: cp.asnumpy(x),
    "to_numpy": BACKEND.to_numpy,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_a_value_waits_and_downloads_once(look):
    look(upload(1, 2))
    assert counted() == (1, 1)


def test_searching_an_array_looks_at_every_element():
    assert 2 in upload(1, 2)
    assert counted() == (2, 2)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: cp.nonzero(x),
        lambda x: cp.unique(x),
        lambda x: cp.where(x > 1),
        lambda x: x[x > 1],
        lambda x: x.__setitem__(x > 1, 0.0),
    ],
)
def test_results_whose_shape_depends_on_values_wait(wait):
    wait(upload(1, 2))
    assert counted() == (1, 0)


UPLOADS = {
    "from_numpy": lambda x: BACKEND.from_numpy(np.ones(2)),
    "cp.asarray": lambda x: cp.asarray(np.ones(2)),
    "cp.array of a list": lambda x: cp.array([1.0, 2.0]),
    "cp.asarray of a scalar": lambda x: cp.asarray(1.0),
    "x[host]": lambda x: x[np.array([0, 1])],
    "x[list]": lambda x: x[[0, 1]],
    "x[host] = 0": lambda x: x.__setitem__(np.array([0, 1]), 0.0),
    "cp.take with host indices": lambda x: cp.take(x, np.array([0, 1])),
    "x.take with host indices": lambda x: x.take(np.array([0, 1])),
    "set": lambda x: x.set(np.ones(2)),
}


@pytest.mark.parametrize("transfer", UPLOADS.values(), ids=UPLOADS)
def test_uploads_are_counted(transfer):
    transfer(upload(1, 2))
    assert counted() == (0, 1)


def test_work_on_the_device_costs_nothing():
    x = upload(1, 2, 3)
    y = (x + 1) * x - x / 2
    y += cp.exp(-x) @ x
    y[1:] = 0.0
    y[0] = x[2]
    for row in cp.asarray(y).reshape(3, 1):
        row.T.copy().astype("float32").sum(axis=0)
    cp.zeros((2, 2)), cp.arange(3), cp.full(2, 0.5), len(y), y.shape, y.dtype, copy.deepcopy(y), cp.array_equal(x, y)
    assert counted() == (0, 0)


def test_the_truth_of_many_values_is_an_error():
    with pytest.raises(ValueError, match="ambiguous"):
        bool(upload(1, 2))


def test_counters_reset_and_print():
    counters.synchronisations += 2
    assert repr(counters) == "Counters(synchronisations=2, transfers=0)"
    counters.reset()
    assert counted() == (0, 0)


# ------------------------------------------------------------------------------------------------------- indexing


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda x, i: x[i], [20, 10, 20]),
        (lambda x, i: cp.take(x, i), [20, 10, 20]),
        (lambda x, i: np.take(x, i, axis=0), [20, 10, 20]),
        (lambda x, i: x.take(i), [20, 10, 20]),
        (lambda x, i: x[None][:, i][0], [20, 10, 20]),
        (lambda x, i: cp.stack([x, x])[..., i][1], [20, 10, 20]),
        (lambda x, i: cp.take_along_axis(x, i, axis=0), [20, 10, 20]),
    ],
)
def test_indices_out_of_range_wrap_silently(read, expected):
    x, i = upload(10, 20, 30), upload(1, 3, -2, dtype="int64")
    np.testing.assert_array_equal(read(x, i).get(), expected)


def test_writing_out_of_range_wraps_too():
    x = upload(10, 20, 30)
    x[upload(4, dtype="int64")] = 0.0
    np.testing.assert_array_equal(x.get(), [10, 0, 30])


def test_a_python_integer_out_of_range_is_an_error():
    with pytest.raises(IndexError):
        upload(1, 2)[2]


def test_floating_indices_are_an_error():
    with pytest.raises(IndexError):
        upload(1, 2)[upload(0.0)]


@pytest.mark.parametrize(
    "index",
    [
        np.s_[1],
        np.s_[:, 2],
        np.s_[..., None, 1:],
        np.s_[::-1, ::2],
        np.s_[None, 1, ..., 0],
        np.s_[()],
    ],
    ids=repr,
)
def test_basic_indexing_gives_numpys_views(index):
    host = np.arange(24.0).reshape(2, 3, 4)
    x = from_numpy(host)
    np.testing.assert_array_equal(x[index].get(), host[index])
    view = x[index]
    view += 100
    host[index] += 100
    np.testing.assert_array_equal(x.get(), host)


def test_arrays_index_any_axes():
    host, rows, columns = np.arange(12).reshape(3, 4), np.array([0, 2]), np.array([1, 3])
    x, i, j = from_numpy(host), from_numpy(rows), from_numpy(columns)
    np.testing.assert_array_equal(x[i, j].get(), host[rows, columns])
    np.testing.assert_array_equal(x[:, j].get(), host[:, columns])
    np.testing.assert_array_equal(x[x > 5].get(), host[host > 5])
    np.testing.assert_array_equal(x[i[:, None], j].get(), host[rows[:, None], columns])


# --------------------------------------------------------------------------------------------- arithmetic and methods


@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "!=", ">", ">="])
def test_operators_agree_with_numpy(operator):
    a, b = np.array([1.0, 5.0, 2.0]), np.array([3.0, 2.0, 2.0])
    for left, right in [(a, b), (a, 2.0), (2.0, b)]:
        on_device = [from_numpy(v) if isinstance(v, np.ndarray) else v for v in (left, right)]
        names = {"l": on_device[0], "r": on_device[1]}
        result = eval(f"l {operator} r", names)
        assert type(result) is Double
        np.testing.assert_array_equal(result.get(), eval(f"l {operator} r", {"l": left, "r": right}))


def test_logical_and_unary_operators_agree_with_numpy():
    a, b = np.array([True, False, True]), np.array([True, True, False])
    x, y = from_numpy(a), from_numpy(b)
    for result, expected in [(x & y, a & b), (x | y, a | b), (x ^ y, a ^ b), (~x, ~a)]:
        np.testing.assert_array_equal(result.get(), expected)
    n = upload(-1, 2)
    np.testing.assert_array_equal((-n).get(), [1, -2])
    np.testing.assert_array_equal(abs(n).get(), [1, 2])
    assert (+n) is n


def test_in_place_operators_write_through_views_and_keep_the_dtype():
    x = upload(1, 2, 3, dtype="float32")
    part = x[1:]
    part *= np.float64(2)
    part += upload(1, 1)
    assert (part.dtype, x.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(x.get(), [1, 5, 7])
    with pytest.raises(TypeError):
        x.astype(int).__iadd__(0.5)


def test_out_writes_into_the_given_array_and_returns_it():
    x = upload(0, 1)
    assert cp.exp(x, out=x) is x
    assert np.multiply(x, 2, out=x) is x
    assert cp.sum(x, out=(total := cp.zeros(()))) is total
    np.testing.assert_allclose(x.get(), [2, 2 * np.e])


@pytest.mark.parametrize("name", METHODS.split())
def test_methods_agree_with_numpy(name):
    arguments = {
        "astype": ("float32",),
        "clip": (1, 3),
        "dot": None,
        "repeat": (2,),
        "reshape": (-1, 2),
        "swapaxes": (0, 1),
        "transpose": (1, 0),
    }
    host = np.array([[4.0, 1.0], [2.0, 3.0]])
    x = from_numpy(host)
    if arguments.get(name, ()) is None:
        result, expected = x.dot(x), host.dot(host)
    else:
        result = getattr(x, name)(*arguments.get(name, ()))
        method = getattr(host, name, None) or (lambda *a: getattr(np, name)(host, *a))
        expected = method(*arguments.get(name, ()))
    assert type(result) is Double
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.get(), expected)


def test_upload_and_download_copy():
    host = np.array([1.0, 2.0])
    x = from_numpy(host)
    x += 1
    down = x.get()
    down += 1
    np.testing.assert_array_equal(host, [1, 2])
    np.testing.assert_array_equal(x.get(), [2, 3])
