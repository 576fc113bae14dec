"""`LSTM` and `LSTMCell` where a program expects PyTorch's: arguments, errors, tools."""

import copy
import io
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import hlstm
from tests.conftest import skip_or_fail

# The exporter and the compiler import PyTorch's older compiler.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
zeros = torch.zeros


def said(call: Callable[[], object]) -> tuple[type[Exception], str] | None:
    """The error of a call, by type and words; None if there is none."""
    try:
        call()
    except Exception as error:
        # Python names the class whose __init__ got the wrong arguments.
        return type(error), re.sub(r"\w+\.__init__", "__init__", str(error))
    return None


# Arguments of the constructor

GOOD_LSTM: list[tuple[Any, ...]] = [
    (5, 7),
    (5, 7, 3),
    (5, 7, 2, False),
    (5, 7, 2, True, True),
    (5, 7, 2, True, False, 0.25),
    (5, 7, 2, True, False, 1),
    (5, 7, 2, True, False, 0.0, False, 0),
    (5, 7, 2, True, False, 0.0, False, 0, "cpu", torch.float64),
    (True, 7),
]
BAD_LSTM: list[tuple[Any, ...]] = [
    (),
    (5,),
    (0, 7),
    (-1, 7),
    (5, 0),
    (5, 7, 0),
    (5, 7, -1),
    (5.0, 7),
    (5, 7.0),
    (5, 7, 2.0),
    ("5", 7),
    (None, 7),
    (5, 7, "2"),
    (5, 7, None),
    (5, 7, 2, 1),
    (5, 7, 2, True, None),
    (5, 7, 2, True, False, 1.1),
    (5, 7, 2, True, False, -0.1),
    (5, 7, 2, True, False, float("nan")),
    (5, 7, 2, True, False, True),
    (5, 7, 2, True, False, "0.5"),
    (5, 7, 2, True, False, "half"),
    (5, 7, 2, True, False, None),
    (5, 7, 2, True, False, 1j),
    (5, 7, 2, True, False, torch.tensor(0.5)),
    (5, 7, 2, True, False, 0.0, False, -3),
    (5, 7, 2, True, False, 0.0, False, 7),
    (5, 7, 2, True, False, 0.0, False, 0, "nowhere"),
    (5, 7, 2, True, False, 0.0, False, 0, "cpu", torch.int64),
    (5, 7, 2, True, False, 0.0, False, 0, "cpu", "float32"),
]
GOOD_CELL: list[tuple[Any, ...]] = [
    (5, 7),
    (5, 7, False),
    (0, 7),
    (5, 0),
    (5, 7, True, "cpu", torch.float64),
]
BAD_CELL: list[tuple[Any, ...]] = [
    (),
    (5,),
    (-1, 7),
    (5, -7),
    (5.0, 7),
    (5, 7.0),
    ("5", 7),
    (None, 7),
    (5, 7, True, "nowhere"),
    (5, 7, True, "cpu", torch.int64),
    (5, 7, True, "cpu", "float32"),
]


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_arguments_are_taken_and_refused_as_by_torch(name: str) -> None:
    theirs, mine = getattr(nn, name), getattr(hlstm, name)
    good, bad = (GOOD_LSTM, BAD_LSTM) if name == "LSTM" else (GOOD_CELL, BAD_CELL)
    for arguments in good:
        torch.manual_seed(0)
        a = theirs(*arguments)
        torch.manual_seed(0)
        b = mine(*arguments)
        assert str(a) == str(b)
        assert list(a.state_dict()) == list(b.state_dict())
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q) and p.dtype == q.dtype
    for arguments in bad:
        expected = said(lambda arguments=arguments: theirs(*arguments))  # type: ignore[misc]
        assert expected is not None, arguments
        assert said(lambda arguments=arguments: mine(*arguments)) == expected  # type: ignore[misc]
    assert said(lambda: mine(5, 7, layers=2)) == said(lambda: theirs(5, 7, layers=2))


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_arguments_have_the_names_of_torch(name: str) -> None:
    options: dict[str, Any] = {"input_size": 5, "hidden_size": 7, "bias": False}
    options |= {"device": "cpu", "dtype": torch.float64}
    if name == "LSTM":
        options |= {"num_layers": 2, "batch_first": True, "dropout": 0.5}
        options |= {"bidirectional": False, "proj_size": 0}
    theirs, mine = getattr(nn, name)(**options), getattr(hlstm, name)(**options)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert str(theirs) == str(mine)
    mine.load_state_dict(theirs.state_dict())
    theirs.eval(), mine.eval()
    expected = theirs(input=x, hx=None)
    torch.testing.assert_close(mine(input=x, hx=None), expected, **CLOSE)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            {"bidirectional": True},
            "hlstm.LSTM reads in one direction; "
            "for bidirectional=True use torch.nn.LSTM",
        ),
        (
            {"proj_size": 3},
            "hlstm.LSTM has no projections; for proj_size=3 use torch.nn.LSTM",
        ),
    ],
)
def test_what_is_not_built_is_refused(option: dict[str, Any], sentence: str) -> None:
    nn.LSTM(5, 7, **option)
    assert said(lambda: hlstm.LSTM(5, 7, **option)) == (NotImplementedError, sentence)


def test_dropout_in_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning) as expected:
        nn.LSTM(5, 7, dropout=0.5)
    with pytest.warns(UserWarning) as got:
        hlstm.LSTM(5, 7, dropout=0.5)
    assert [str(w.message) for w in got] == [str(w.message) for w in expected]
    assert [w.filename for w in got] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hlstm.DeepRNN(hlstm.Vocabulary("ab"), 4, num_layers=1, dropout=0.5)


@pytest.mark.parametrize("bias", [True, False])
def test_attributes_have_the_values_of_torch(bias: bool) -> None:
    arguments = (5, 7, 3, bias, True, 0.25)
    theirs, mine = nn.LSTM(*arguments), hlstm.LSTM(*arguments)
    names = ["mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first"]
    for name in [*names, "dropout", "bidirectional", "proj_size"]:
        a, b = getattr(theirs, name), getattr(mine, name)
        assert a == b and type(a) is type(b), name
    shapes = [[p.shape for p in layer] for layer in theirs.all_weights]
    assert [[p.shape for p in layer] for layer in mine.all_weights] == shapes
    weights = [p for layer in mine.all_weights for p in layer]
    assert all(p is q for p, q in zip(weights, mine.parameters(), strict=True))
    mine.flatten_parameters()


# Wrong input

SEQUENCE, STATE = (6, 3, 5), (2, 3, 7)
H, C = zeros(STATE), zeros(STATE)
BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "0-D": (zeros(()),),
    "1-D": (zeros(5),),
    "4-D": (zeros(1, 6, 3, 5),),
    "too wide": (zeros(6, 3, 8),),
    "no steps": (zeros(0, 3, 5),),
    "no steps, no batch": (zeros(0, 5),),
    "no steps, nobody": (zeros(0, 0, 5),),
    "float64": (zeros(SEQUENCE).double(),),
    "bfloat16": (zeros(SEQUENCE).bfloat16(),),
    "int64": (zeros(SEQUENCE).long(),),
    "another device": (zeros(SEQUENCE, device="meta"),),
    "h too wide": (zeros(SEQUENCE), (zeros(2, 3, 9), C)),
    "c too wide": (zeros(SEQUENCE), (H, zeros(2, 3, 9))),
    "h of another batch": (zeros(SEQUENCE), (zeros(2, 1, 7), C)),
    "h of another depth": (zeros(SEQUENCE), (zeros(1, 3, 7), C)),
    "h without a batch": (zeros(SEQUENCE), (zeros(2, 7), zeros(2, 7))),
    "c without a batch": (zeros(SEQUENCE), (H, zeros(2, 7))),
    "h with a batch": (zeros(6, 5), (zeros(2, 1, 7), zeros(2, 1, 7))),
    "h too wide, no batch": (zeros(6, 5), (zeros(2, 8), zeros(2, 7))),
    "state on another device": (zeros(SEQUENCE), (H.to("meta"), C.to("meta"))),
    "h alone": (zeros(SEQUENCE), H),
    "a tuple of h": (zeros(SEQUENCE), (H,)),
    "three states": (zeros(SEQUENCE), (H, C, C)),
    "no states": (zeros(SEQUENCE), ()),
    "states of None": (zeros(SEQUENCE), (None, None)),
    "c of None": (zeros(SEQUENCE), (H, None)),
    "states of lists": (zeros(SEQUENCE), ([0.0], [0.0])),
    "a dictionary": (zeros(SEQUENCE), {"h": H}),
    "a number as state": (zeros(SEQUENCE), 3),
    "a list": ([1.0],),
    "None": (None,),
    "text": ("abc",),
    "an array": (zeros(SEQUENCE).numpy(),),
    "nothing": (),
    "too much": (zeros(SEQUENCE), None, None),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_wrong_input_is_refused_in_the_words_of_torch(case: str) -> None:
    expected = said(lambda: nn.LSTM(5, 7, 2)(*BAD_CALLS[case]))
    assert expected is not None
    assert said(lambda: hlstm.LSTM(5, 7, 2)(*BAD_CALLS[case])) == expected


def test_batch_first_names_the_batch() -> None:
    call = zeros(3, 6, 5), (zeros(3, 2, 7), zeros(3, 2, 7))
    expected = said(lambda: nn.LSTM(5, 7, 2, batch_first=True)(*call))
    assert expected is not None
    assert said(lambda: hlstm.LSTM(5, 7, 2, batch_first=True)(*call)) == expected


X, HC = zeros(2, 5), zeros(2, 7)
BAD_STEPS: dict[str, tuple[Any, ...]] = {
    "0-D": (zeros(()),),
    "3-D": (zeros(1, 2, 5),),
    "too wide": (zeros(2, 7),),
    "too wide, no batch": (zeros(7),),
    "h too wide": (X, (zeros(2, 9), HC)),
    "c too wide": (X, (HC, zeros(2, 9))),
    "h of another batch": (X, (zeros(3, 7), zeros(3, 7))),
    "c of another batch": (X, (HC, zeros(3, 7))),
    "h of one": (X, (zeros(1, 7), zeros(1, 7))),
    "h without a batch": (X, (zeros(7), zeros(7))),
    "3-D h": (X, (zeros(1, 2, 7), HC)),
    "3-D c": (X, (HC, zeros(1, 2, 7))),
    "h with a batch": (zeros(5), (zeros(1, 7), zeros(1, 7))),
    "c with a batch": (zeros(5), (zeros(7), zeros(1, 7))),
    "h too wide, no batch": (zeros(5), (zeros(8), zeros(7))),
    "h alone": (X, HC),
    "h and c in one tensor": (X, zeros(2, 2, 7)),
    "a tuple of h": (X, (HC,)),
    "three states": (X, (HC, HC, HC)),
    "no states": (X, ()),
    "states of None": (X, (None, None)),
    "states of lists": (X, ([0.0], [0.0])),
    "a number as state": (X, 3),
    "another device": (zeros(2, 5, device="meta"),),
    "a list": ([1.0],),
    "None": (None,),
    "an array": (X.numpy(),),
    "nothing": (),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_a_wrong_step_is_refused_in_the_words_of_torch(case: str) -> None:
    expected = said(lambda: nn.LSTMCell(5, 7)(*BAD_STEPS[case]))
    assert expected is not None
    assert said(lambda: hlstm.LSTMCell(5, 7)(*BAD_STEPS[case])) == expected


# Where the words differ on purpose. A product or another kernel speaks in PyTorch, or
# nothing does: it does not check the shapes of a packed sequence, and reads past them.

PACKED = pack_sequence([torch.ones(n, 5) for n in (3, 2, 1)])
SIZES = torch.tensor([3, 2, 1])
DIFFERENT: dict[str, tuple[tuple[Any, ...], type[Exception] | None, str]] = {
    "state in float64": (
        (zeros(SEQUENCE), (H.double(), C.double())),
        RuntimeError,
        "RuntimeError: Input and hidden tensors are not the same dtype, found input "
        "tensor with torch.float32 and hidden tensor with torch.float64",
    ),
    "c in float64": (
        (zeros(SEQUENCE), (H, C.double())),
        RuntimeError,
        "RuntimeError: Input and hidden tensors are not the same dtype, found input "
        "tensor with torch.float32 and hidden tensor with torch.float64",
    ),
    "h and c in one tensor": (
        (zeros(SEQUENCE), zeros(2, *STATE)),
        TypeError,
        "TypeError: hx is a tuple of two tensors, (h, c), and got one tensor",
    ),
    "packed, too wide": (
        (pack_sequence([zeros(3, 8)]),),
        None,
        "RuntimeError: input.size(-1) must be equal to input_size. Expected 5, got 8",
    ),
    "packed, float64": (
        (pack_sequence([zeros(3, 5).double()]),),
        RuntimeError,
        "ValueError: RNN input dtype (torch.float64) does not match weight dtype "
        "(torch.float32). Convert input: input.to(torch.float32), or convert model: "
        "model.to(torch.float64)",
    ),
    "packed, 3-D": (
        (PackedSequence(zeros(6, 1, 5), SIZES),),
        RuntimeError,
        "RuntimeError: input must have 2 dimensions, got 3",
    ),
    "packed, h too wide": (
        (PACKED, (zeros(2, 3, 9), C)),
        RuntimeError,
        "RuntimeError: Expected hidden[0] size (2, 3, 7), got [2, 3, 9]",
    ),
    "packed, another batch": (
        (PACKED, (zeros(2, 2, 7), zeros(2, 2, 7))),
        RuntimeError,
        "RuntimeError: Expected hidden[0] size (2, 3, 7), got [2, 2, 7]",
    ),
    "packed, another depth": (
        (PACKED, (zeros(1, 3, 7), zeros(1, 3, 7))),
        RuntimeError,
        "RuntimeError: Expected hidden[0] size (2, 3, 7), got [1, 3, 7]",
    ),
    "packed, h without a batch": (
        (PACKED, (zeros(2, 7), zeros(2, 7))),
        IndexError,
        "RuntimeError: For batched 3-D input, hx and cx should also be 3-D but got "
        "(2-D, 2-D) tensors",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_words_of_our_own(case: str) -> None:
    arguments, kind, words = DIFFERENT[case]
    expected = said(lambda: nn.LSTM(5, 7, 2)(*arguments))
    assert (expected and expected[0]) is kind
    got = said(lambda: hlstm.LSTM(5, 7, 2)(*arguments))
    assert got is not None and f"{got[0].__name__}: {got[1]}" == words


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ((zeros(5), (zeros(7), zeros(7, 7))), "hidden1 .* got \\[7, 7\\], expected 7"),
        ((zeros(5), (zeros(7, 7), zeros(7))), "hidden0 .* got \\[7, 7\\], expected 7"),
        ((zeros(7, 5), (zeros(7), zeros(7, 7))), "hidden0 .* got \\[\\], expected 7"),
    ],
)
def test_a_state_that_fits_by_accident_is_refused(
    arguments: tuple[Any, ...], width: str
) -> None:
    """PyTorch broadcasts the first of these, and its kernels refuse the others."""
    with pytest.raises(RuntimeError, match=width):
        hlstm.LSTMCell(5, 7)(*arguments)


@pytest.mark.parametrize(
    "arguments", [(X.double(),), (X.long(),), (X, (HC.long(), HC))]
)
def test_a_step_of_another_dtype_is_refused_by_the_product(
    arguments: tuple[Any, ...],
) -> None:
    for bias in (True, False):
        expected = said(lambda bias=bias: nn.LSTMCell(5, 7, bias)(*arguments))  # type: ignore[misc]
        got = said(lambda bias=bias: hlstm.LSTMCell(5, 7, bias)(*arguments))  # type: ignore[misc]
        assert expected is not None and got is not None
        assert got[0] is expected[0] is RuntimeError
        assert "to have the same dtype" in got[1]
    # Without biases both call the same product.
    assert got == expected


# Weights travel


def modules() -> list[tuple[nn.Module, nn.Module, Tensor]]:
    """Pairs of PyTorch's module and ours, and an input."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 5)
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = []
    for bias in (True, False):
        pairs.append((nn.LSTM(5, 7, 2, bias), hlstm.LSTM(5, 7, 2, bias), x))
        pairs.append((nn.LSTMCell(5, 7, bias), hlstm.LSTMCell(5, 7, bias), x[0]))
    return pairs


@pytest.mark.parametrize("case", range(4))
def test_weights_go_both_ways(case: int) -> None:
    theirs, mine, x = modules()[case]
    theirs.load_state_dict(mine.state_dict())
    torch.testing.assert_close(theirs(x), mine(x))
    fresh = modules()[case][0]
    for assign in (False, True):
        mine.load_state_dict(fresh.state_dict(), assign=assign)
        torch.testing.assert_close(mine(x), fresh(x))
    saved = io.BytesIO()
    torch.save(mine.state_dict(), saved)
    saved.seek(0)
    fresh.load_state_dict(torch.load(saved, weights_only=True))


@pytest.mark.parametrize("case", range(4))
def test_copies_compute_the_same(case: int) -> None:
    _, mine, x = modules()[case]
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        torch.testing.assert_close(copied(x), mine(x), rtol=0, atol=0)
        assert str(copied) == str(mine)
        with torch.no_grad():
            next(copied.parameters()).zero_()
        assert next(mine.parameters()).any()


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_modules_change_their_dtype(case: int, dtype: torch.dtype) -> None:
    _, mine, x = modules()[case]
    expected = mine(x)[0]
    output = mine.to(dtype)(x.to(dtype))[0]
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("case", range(4))
def test_the_meta_device_has_shapes_and_no_numbers(case: int) -> None:
    theirs, mine, x = modules()[case]
    with torch.device("meta"):
        empty = modules()[case][1]
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    shapes = [t.shape for t in (empty(x.to("meta"))[0], mine(x)[0])]
    assert shapes[0] == shapes[1]
    loaded = empty.to_empty(device="cpu")
    loaded.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(loaded(x), theirs(x))


# PyTorch's tools


@pytest.mark.parametrize("case", range(4))
def test_functional_call_uses_the_weights_it_is_given(case: int) -> None:
    theirs, mine, x = modules()[case]
    weights: dict[str, Tensor] = dict(theirs.named_parameters())
    own = mine(x)
    result = torch.func.functional_call(mine, weights, (x,))
    torch.testing.assert_close(result, theirs(x))
    torch.testing.assert_close(mine(x), own, rtol=0, atol=0)
    result[0].sum().backward()
    assert next(theirs.parameters()).grad is not None
    assert next(mine.parameters()).grad is None


@pytest.mark.parametrize("case", range(4))
def test_vmap_runs_a_batch_of_models(case: int) -> None:
    _, mine, x = modules()[case]
    models = [copy.deepcopy(mine) for _ in range(3)]
    with torch.no_grad():
        for model in models:
            next(model.parameters()).normal_()
    weights, _ = torch.func.stack_module_state(models)
    template = copy.deepcopy(mine).to("meta")

    def call(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(template, weights, (x,))[0]

    for output, model in zip(torch.vmap(call)(weights), models, strict=True):
        torch.testing.assert_close(output, model(x)[0])
    gradients = torch.vmap(torch.func.grad(lambda w: call(w).sum()))(weights)
    for k, model in enumerate(models):
        model(x)[0].sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(gradients[name][k], p.grad)


def test_vmap_drops_by_itself_in_each_model() -> None:
    rnn = hlstm.LSTM(5, 7, 2, dropout=0.5)
    weights, _ = torch.func.stack_module_state([rnn, rnn])

    def call(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(rnn, weights, (torch.ones(4, 2, 5),))[0]

    for randomness, equal in (("different", False), ("same", True)):
        a, b = torch.vmap(call, randomness=randomness)(weights)
        assert torch.equal(a, b) == equal


@pytest.mark.parametrize("case", range(2))
def test_compile_captures_the_module_in_one_graph(case: int) -> None:
    _, mine, x = modules()[case]
    torch._dynamo.reset()
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    x.requires_grad_()
    results = []
    for module in (compiled, mine):
        output, state = module(x)
        mine.zero_grad()
        gradients = torch.autograd.grad(output.sin().sum(), [x, *mine.parameters()])
        results.append((output, state, gradients))
    torch.testing.assert_close(results[0], results[1])


def test_compile_makes_machine_code_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Machine code that another process keeps may be for another processor.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if not (shutil.which("g++") or shutil.which("clang++")):
        skip_or_fail("torch.compile needs a C++ compiler, g++ or clang++")
    _, mine, x = modules()[1]
    torch._dynamo.reset()
    with torch.no_grad():
        result = torch.compile(mine, fullgraph=True)(x)
        torch.testing.assert_close(result, mine(x))


# ONNX


def run_onnx(
    module: nn.Module, example: tuple[Any, ...], names: list[str], axes: Any
) -> Callable[..., list[Any]]:
    """Export a module; return what runs it in onnxruntime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            verbose=False,
            input_names=names,
            dynamic_shapes=axes,
        )
    assert program is not None
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model)
    return lambda *values: session.run(
        None, {k: v.numpy() for k, v in zip(names, values, strict=True)}
    )


def assert_runs_alike(got: list[Any], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=0, atol=1e-6)


@torch.no_grad()
def test_onnx_runs_a_step_for_any_batch() -> None:
    torch.manual_seed(0)
    cell, batch = hlstm.LSTMCell(5, 7), {0: torch.export.Dim("B")}
    example = torch.randn(3, 5), (torch.randn(3, 7), torch.randn(3, 7))
    run = run_onnx(cell, example, ["x", "h", "c"], (batch, (batch, batch)))
    for size in (3, 4):
        x, h, c = torch.randn(size, 5), torch.randn(size, 7), torch.randn(size, 7)
        assert_runs_alike(run(x, h, c), [*cell(x, (h, c))])


@torch.no_grad()
def test_onnx_runs_a_sequence_of_one_length_for_any_batch() -> None:
    """The exporter unrolls the loop over time, so T is that of the example."""
    torch.manual_seed(0)
    rnn = hlstm.LSTM(5, 7, 2)
    axes = ({1: torch.export.Dim("B")},)
    run = run_onnx(rnn, (torch.randn(4, 3, 5),), ["x"], axes)
    for size in (3, 2):
        x = torch.randn(4, size, 5)
        output, state = rnn(x)
        assert_runs_alike(run(x), [output, *state])
    with pytest.raises(Exception, match="invalid dimensions"):
        run(torch.randn(5, 3, 5))


class Scanned(nn.Module):
    """A cell in PyTorch's loop operator, which the exporter keeps as a loop."""

    def __init__(self, cell: hlstm.LSTMCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def step(
            state: tuple[Tensor, Tensor], x: Tensor
        ) -> tuple[tuple[Tensor, Tensor], Tensor]:
            h, c = self.cell(x, state)
            return (h, c), h.clone()

        (h, c), output = scan(step, (h, c), x)
        return output, h, c


@torch.no_grad()
def test_onnx_runs_a_sequence_of_any_length() -> None:
    torch.manual_seed(0)
    rnn, cell = hlstm.LSTM(5, 7), hlstm.LSTMCell(5, 7)
    cell.load_state_dict({k[:-3]: v for k, v in rnn.state_dict().items()})
    h, c = torch.randn(3, 7), torch.randn(3, 7)
    axes = ({0: torch.export.Dim("T", min=2, max=10_000)}, None, None)
    run = run_onnx(Scanned(cell), (torch.randn(4, 3, 5), h, c), ["x", "h", "c"], axes)
    for length in (4, 2, 50):
        x = torch.randn(length, 3, 5)
        output, (h_n, c_n) = rnn(x, (h[None], c[None]))
        assert_runs_alike(run(x, h, c), [output, h_n[0], c_n[0]])


class Plain(nn.Module):
    """A network in PyTorch's parts, as the common questions have it."""

    def __init__(self, net: hlstm.DeepRNN) -> None:
        super().__init__()
        V, H, L = len(net.vocab), net.lstm.hidden_size, net.lstm.num_layers
        self.lstm = nn.LSTM(V, H, L, batch_first=True)
        self.head = nn.Linear(H, V)
        self.load_state_dict(net.state_dict())

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (h, c) = self.lstm(x, (h, c))
        return self.head(output), h, c


@torch.no_grad()
def test_onnx_runs_a_network_of_pytorchs_parts_for_any_batch_and_length() -> None:
    torch.manual_seed(0)
    net = hlstm.DeepRNN(hlstm.Vocabulary("abcde"), hidden_size=7).eval()
    B, T = torch.export.Dim("B"), torch.export.Dim("T")
    # One tensor given twice would be one input of the exported network.
    x, h, c = torch.zeros(2, 4, 5), torch.zeros(2, 2, 7), torch.zeros(2, 2, 7)
    axes = ({0: B, 1: T}, {1: B}, {1: B})
    run = run_onnx(Plain(net), (x, h, c), ["x", "h", "c"], axes)
    for rows, length in ((2, 4), (1, 50), (3, 1)):
        ids, state = torch.randint(5, (rows, length)), torch.randn(2, 2, rows, 7)
        logits, (h, c) = net(ids, tuple(state))
        assert_runs_alike(run(hlstm.one_hot(ids, 5), *state), [logits, h, c])
