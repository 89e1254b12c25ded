"""`willfit.release`: what keeps a model is found, called by its name, and freed by the line told."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import willfit
from willfit.errors import InputError
from willfit.live.memory import holders
from willfit.live.memory.counters import Counted, FakeCounters
from willfit.live.memory.holders import Search, find_holders
from willfit.live.memory.storages import Storage, alive, storages_of
from willfit.live.nvml import FakeCard, FakeNvml
from willfit.units import GIB, MIB

torch = pytest.importorskip("torch")

BYTES = (16 * 16 + 16 + 16 * 3 + 3) * 4
"""Of `Leaks.make`'s model: two linear layers with their biases, in float32."""


class Leaks:
    """A module in which a test leaks, and the storages of what it leaked."""

    def __init__(self) -> None:
        self.module = types.ModuleType("leaky")
        self.storages: dict[int, Storage] = {}
        vars(self.module).update(make=self.make, torch=torch)

    def make(self) -> Any:
        model = torch.nn.Sequential(
            torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
        )
        self.storages.update(storages_of(model.parameters()))
        return model

    def run(self, code: str) -> None:
        exec(compile(code, "leaky.py", "exec"), vars(self.module))

    def search(self, **options: Any) -> Search:
        """With patience: how long it takes beside what 7,000 other tests left is no test's matter."""
        return find_holders(self.storages.values(), **{"time_limit": 60.0, **options})

    def are_gone(self) -> bool:
        if alive(self.storages.values()):
            gc.collect()
        return not alive(self.storages.values())

    def clear(self) -> None:
        vars(self.module).clear()


@pytest.fixture
def leaks() -> Iterator[Leaks]:
    found = Leaks()
    sys.modules["leaky"] = found.module
    try:
        yield found
    finally:
        found.clear()
        del sys.modules["leaky"]


FAIL = "def infer(net): raise ValueError\n"
POOL = "from concurrent.futures import ThreadPoolExecutor\n"
SITUATIONS = [
    # name, what is done with `model` before `del model`, kind, words of the path, the line
    ("a variable", "kept = model", "variable", "variable `kept` of module `leaky`", "del leaky.kept"),
    ("in a list", "models = [1, model]", "variable", "list `models` of module `leaky`, element 1", "del leaky.models[1]"),
    ("in a tuple in dicts", "state = {'best': {'model': (model, 3)}}", "variable", "dict `state` of module `leaky`, key 'best', key 'model', element 0", "del leaky.state['best']['model']"),
    ("in a set", "pool = {model}", "variable", "set `pool`", "leaky.pool.clear()"),
    ("two in a deque", "from collections import deque\nlast = deque([model[0], model[2]])", "variable", "deque `last`", "leaky.last.clear()"),
    ("an attribute", "class Box: pass\nbox = Box(); box.inner = Box(); box.inner.model = model", "variable", "variable `box` of module `leaky`, attribute `inner`, attribute `model`", "leaky.box.inner.model = None"),
    ("a slot", "class Box:\n    __slots__ = ('model',)\nbox = Box(); box.model = model", "variable", "attribute `model`", "leaky.box.model = None"),
    ("a class", "class Registry: pass\nRegistry.model = model", "class", "attribute `model` of class `Registry`", "del leaky.Registry.model"),
    ("a part of it", "encoder = model[0]", "variable", "variable `encoder`", "del leaky.encoder"),
    ("a state dict", "saved = model.state_dict()", "variable", "variable `saved`", "leaky.saved.clear()"),
    ("a wrapper", "wrapped = torch.nn.Sequential(model, torch.nn.ReLU())", "variable", "variable `wrapped`", "del leaky.wrapped"),
    ("a view", "row = model[0].weight.detach()[0]", "variable", "variable `row` of module `leaky`, a view that keeps the whole tensor", "del leaky.row"),
    ("another module", "import types, sys\nother = types.ModuleType('shelf'); sys.modules['shelf'] = other\nother.CACHE = {'m': model}; del other", "variable", "dict `CACHE` of module `shelf`, key 'm'", "import shelf; del shelf.CACHE['m']"),
    ("a closure", "def outer(m):\n    def predict(x): return m(x)\n    return predict\npredict = outer(model)", "closure", "closure of `predict`, kept in variable `predict` of module `leaky`, as `m`", "del leaky.predict"),
    ("a default argument", "def predict(x, m=model): return m(x)", "default argument", "default argument of `predict`", "del leaky.predict"),
    ("a partial", "import functools\npredict = functools.partial(print, model)", "partial", "functools.partial of `print`", "del leaky.predict"),
    ("a bound method", "forward = model.forward", "bound method", "bound method `Sequential.forward`", "del leaky.forward"),
    ("a functools cache", "import functools\n@functools.lru_cache(maxsize=2)\ndef load_model(name): return HELD.pop()\nHELD = [model]; load_model('a')", "lru_cache", "functools cache of `load_model`", "leaky.load_model.cache_clear()"),
    ("a cached method", "import functools\nclass Loader:\n    @functools.cache\n    def load(self): return HELD.pop()\nHELD = [model]; Loader().load()", "lru_cache", "functools cache of `load`, kept in attribute `load` of class `Loader`", "leaky.Loader.load.cache_clear()"),
    ("a generator", "def stream(m):\n    yield 1\n    yield m\ntokens = stream(model); next(tokens)", "generator", "suspended generator `stream`, kept in variable `tokens` of module `leaky`, local `m`", "leaky.tokens.close()"),
    ("a coroutine", "async def serve(m): return m\njob = serve(model)", "coroutine", "suspended coroutine `serve`", "leaky.job.close()"),
    ("a finished task", "import asyncio\nasync def serve(m): return m\nasync def main(m):\n    t = asyncio.create_task(serve(m)); await t; return t\ntask = asyncio.run(main(model))", "future", "a task, kept in variable `task`", "del leaky.task"),
    ("unread results of map", POOL + "def infer(m, x): return m[0].weight.detach()\nwith ThreadPoolExecutor(2) as pool: proba = pool.map(infer, [model, model], [1, 2])", "executor.map", "the generator returned by `executor.map`, kept in variable `proba` of module `leaky`, result of a task", "leaky.proba.close()"),
    ("an unseen error of map", POOL + FAIL + "with ThreadPoolExecutor(2) as pool: proba = pool.map(infer, [model, model])", "executor.map", "exception of a task, frame `infer` of line 3 of leaky.py, local `net`", "leaky.proba.close()"),
    ("a future's result", POOL + "with ThreadPoolExecutor(2) as pool: job = pool.submit(lambda m: m, model)", "future", "a future, kept in variable `job` of module `leaky`, result of a task", "del leaky.job"),
    ("a future's error", POOL + FAIL + "with ThreadPoolExecutor(2) as pool: jobs = [pool.submit(infer, model)]", "future", "a future, kept in variable `jobs` of module `leaky`, element 0, exception of a task, frame `infer`", "del leaky.jobs[0]"),
    ("a saved exception", FAIL + "try: infer(model)\nexcept ValueError as e: saved = e", "exception", "exception `ValueError`, kept in variable `saved` of module `leaky`, frame `infer` of line 2 of leaky.py, local `net`", "leaky.saved.__traceback__ = None"),
    ("an exception from another", FAIL + "errors = []\ntry:\n    try: infer(model)\n    except ValueError as e: raise KeyError from e\nexcept KeyError as e: errors.append(e)", "exception", "exception `KeyError`, kept in variable `errors` of module `leaky`, element 0", "del leaky.errors[0]"),
    ("exc_info", "import sys\n" + FAIL + "try: infer(model)\nexcept ValueError: info = sys.exc_info()", "traceback", "frame `infer`", "del leaky.info"),
    ("a record of logging", "import logging, logging.handlers\nlogging.getLogger('leaky').propagate = False\nlogging.getLogger('leaky').addHandler(logging.handlers.MemoryHandler(9, 99))\n" + FAIL + "try: infer(model)\nexcept ValueError: logging.getLogger('leaky').exception('no')", "traceback", "logger `leaky` of logging", "import logging; del logging.getLogger('leaky').handlers[0]"),
    ("an optimizer", "opt = torch.optim.AdamW(model.parameters())", "optimizer", "optimizer `AdamW`, kept in variable `opt`", "del leaky.opt"),
    ("a scheduler", "sched = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD(model.parameters()), lambda s: 1)", "scheduler", "learning rate scheduler `LambdaLR`", "del leaky.sched"),
    ("losses with their graphs", "history = [model(torch.ones(2, 16)).sum() for _ in range(3)]", "grad graph", "list `history` of module `leaky`, element", "leaky.history.clear()"),
    ("one loss", "loss = model(torch.ones(2, 16)).sum()", "grad graph", "variable `loss` of module `leaky`, tensor with grad graph", "del leaky.loss"),
    ("a hook on another model", "other = torch.nn.Linear(2, 2)\nother.register_forward_hook(lambda *a, m=model: None)", "hook", "hook registered on `Linear`, kept in variable `other`", "leaky.other._forward_hooks.clear()"),
    ("a hook on a tensor", "other = torch.nn.Linear(2, 2)\nother.weight.register_hook(lambda g, m=model: None)", "hook", "hook registered on a tensor, kept in variable `other` of module `leaky`, part `weight`", "leaky.other.weight._backward_hooks.clear()"),
    ("a thread not started", "import threading\nworker = threading.Thread(target=print, args=(model,), name='late')", "thread", "thread `late`", "del leaky.worker"),
    ("a data loader", "from torch.utils.data import DataLoader, TensorDataset\nloader = DataLoader(TensorDataset(model[0].weight.detach()), batch_size=4)", "dataloader", "`DataLoader`", "del leaky.loader"),
    ("an array with its memory", "import numpy\narray = model[0].weight.detach().numpy()", "variable", "variable `array`", "del leaky.array"),
    ("a data frame of tensors", "import pandas\nframe = pandas.DataFrame({'a': [model[0].weight, model[2].weight]})", "variable", "variable `frame`", "del leaky.frame"),
    ("the last error", "import sys\n" + FAIL + "try: infer(model)\nexcept ValueError as e: sys.last_value, sys.last_traceback = e, e.__traceback__", "last exception", "sys.last_traceback, frame `infer` of line 3 of leaky.py, local `net`", "import sys; del sys.last_value, sys.last_traceback"),
    ("a signal's handler", "import signal\nsignal.signal(signal.SIGUSR2, lambda *a, m=model: None)", "default argument", "signal handler `SIGUSR2`", "import signal; signal.signal(signal.SIGUSR2, signal.SIG_DFL)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind", "words", "line"),
    [row[1:] for row in SITUATIONS],
    ids=[r[0] for r in SITUATIONS],
)
def test_a_holder_is_found_named_and_freed_by_its_line(
    leaks: Leaks, code: str, kind: str, words: str, line: str
) -> None:
    leaks.run(f"model = make()\n{code}\ndel model")
    assert alive(leaks.storages.values()), "nothing leaked"
    found = leaks.search()
    assert found.is_complete
    kinds = {holder.kind for holder in found.holders}
    assert kinds == {kind}, found.holders
    (holder,) = found.holders
    assert words in holder.path
    assert holder.line == (line if line.startswith("import ") else f"import leaky; {line}")
    assert 0 < holder.num_bytes <= BYTES and holder.devices == ("cpu",)
    assert alive(leaks.storages.values()), "it was freed by the search"
    del found, holder
    exec(holder_line(line), {})
    assert leaks.are_gone()


def holder_line(line: str) -> str:
    return line if line.startswith("import ") else f"import leaky; {line}"


def test_who_keeps_the_whole_and_who_a_part_is_found_at_once(leaks: Leaks) -> None:
    """Otherwise the second would come to light only when the first has let go."""
    leaks.run("model = make(); encoder = model[0]; heads = [model[2].weight]")
    found = {
        holder.line.removeprefix("import leaky; "): holder for holder in leaks.search().holders
    }
    assert {line: holder.num_bytes for line, holder in found.items()} == {
        "del leaky.model": BYTES,
        "del leaky.encoder": (16 * 16 + 16) * 4,
        "del leaky.heads[0]": 16 * 3 * 4,
    }


class Hostile:
    """Lets nobody look at it, and holds a model."""

    __slots__ = ("model",)

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"do not look at my {name}")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")

    __hash__ = None  # type: ignore[assignment]


def test_an_object_that_lets_nobody_look_at_it_is_no_obstacle(leaks: Leaks) -> None:
    hostile: Any = Hostile()
    hostile.model = leaks.make()
    leaks.module.kept = hostile
    del hostile
    (holder,) = leaks.search().holders
    assert holder.path.startswith("variable `kept` of module `leaky`")
    exec(holder.line, {})
    assert leaks.are_gone()


STEPS: dict[str, Any] = {
    "list": lambda one: [0, one],
    "tuple": lambda one: (0, one),
    "dict": lambda one: {"key": one},
    "set": lambda one: {1, Opaque(one)},
    "object": lambda one: Box(one),
    "weird key": lambda one: {Box(1): one},
    "closure": lambda one: lambda: one,
    "partial": lambda one: __import__("functools").partial(print, one),
    "exception": lambda one: ValueError(one),
}  # fmt: skip


class Box:
    def __init__(self, held: Any) -> None:
        self.held = held


class Opaque(Box):
    pass


@given(way=st.lists(st.sampled_from(sorted(STEPS)), max_size=5))
@settings(max_examples=8, deadline=None)
def test_whatever_holds_it_the_line_frees_it(way: list[str]) -> None:
    leaks = Leaks()
    sys.modules["leaky"] = leaks.module
    held = leaks.make()
    for step in way:
        held = STEPS[step](held)
    vars(leaks.module)["kept"] = held
    del held
    found = leaks.search()
    assert len(found.holders) == 1 and "`kept` of module `leaky`" in found.holders[0].path
    exec(found.holders[0].line, {})
    if "__traceback__" in found.holders[0].line:  # the error has none: it holds by its argument
        vars(leaks.module).clear()
    assert leaks.are_gone(), (way, found.holders[0].line)


def test_what_was_given_is_named_and_its_owner_lets_go(leaks: Leaks) -> None:
    leaks.run("model = make()")
    found = willfit.release(leaks.module.model, quiet=True)
    assert (found.given_bytes, found.left_bytes, found.freed_bytes) == (BYTES, BYTES, 0)
    assert not found.is_gone and not found.is_free
    assert [holder.line for holder in found.holders] == ["import leaky; del leaky.model"]
    del leaks.module.model
    assert leaks.are_gone()


def test_the_call_itself_keeps_nothing(leaks: Leaks) -> None:
    """Neither its argument, nor the frames it looked at, nor its result."""
    found = willfit.release(leaks.make(), quiet=True)
    assert found.is_gone and found.freed_bytes == BYTES and not found.holders


def test_a_running_function_is_named_and_lets_go_by_del() -> None:
    """Reading ``f_locals`` leaves a copy in the frame up to Python 3.12: `del` must still help."""
    leaks = Leaks()

    def main() -> tuple[Any, bool]:
        model = leaks.make()
        found = willfit.release(model, quiet=True)
        gone = weakref.ref(model)
        del model
        return found, gone() is None

    gc.disable()
    try:
        found, gone = main()
    finally:
        gc.enable()
    (holder,) = [one for one in found.holders if one.kind == "local"]
    assert holder.path.startswith("local `model` of `main`, which is running (line ")
    assert holder.line == "del model"
    assert gone


def test_a_function_that_another_thread_runs_is_named(leaks: Leaks) -> None:
    go, begun = threading.Event(), threading.Event()

    def infer(net: Any) -> None:
        begun.set()
        go.wait(10)

    with ThreadPoolExecutor(1, thread_name_prefix="half") as pool:
        pool.submit(infer, leaks.make())
        begun.wait(10)
        found = leaks.search()
        go.set()
    assert {holder.kind for holder in found.holders} == {"thread"}
    assert any(
        "local `net` of `infer`" in one.path and "half_0" in one.path for one in found.holders
    )
    assert all(holder.line.startswith("#") for holder in found.holders)
    assert leaks.are_gone()


def test_inside_except_the_exception_that_is_handled_is_named(leaks: Leaks) -> None:
    leaks.run(FAIL)
    try:
        leaks.module.infer(leaks.make())
    except ValueError:
        found = willfit.release(*[], quiet=True, clear=()) and leaks.search()
    (holder,) = found.holders
    assert holder.kind == "handled exception"
    assert "frame `infer` of line 1 of leaky.py, local `net`" in holder.path
    assert "leave the `except` block" in holder.line
    assert leaks.are_gone()


def test_tasks_that_wait_are_named_and_cancelled(leaks: Leaks) -> None:
    go = threading.Event()
    leaks.module.pool = ThreadPoolExecutor(1)
    leaks.module.pool.submit(go.wait, 10)
    leaks.module.pool.submit(print, leaks.make())
    (holder,) = leaks.search().holders
    assert holder.kind == "executor"
    assert (
        holder.path
        == "a task waiting in `ThreadPoolExecutor`, kept in variable `pool` of module `leaky`"
    )
    assert holder.line == "import leaky; leaky.pool.shutdown(cancel_futures=True)"
    threading.Timer(0.2, go.set).start()
    exec(holder.line, {})
    assert leaks.are_gone()


def test_an_async_generator_is_closed_where_it_can_be_awaited(leaks: Leaks) -> None:
    async def stream(model: Any) -> Any:
        yield 1
        yield model

    async def main() -> str:
        leaks.module.tokens = stream(leaks.make())
        await leaks.module.tokens.__anext__()
        (holder,) = leaks.search().holders
        code = compile(holder.line, "", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT
        await eval(code, {})
        return holder.kind

    assert asyncio.run(main()) == "async generator"
    assert leaks.are_gone()


def test_a_context_variable_is_named(leaks: Leaks) -> None:
    import contextvars

    variable: Any = contextvars.ContextVar("current_model")

    def inside() -> Search:
        variable.set(leaks.make())
        return leaks.search()

    found = contextvars.copy_context().run(inside)
    assert [(one.kind, one.path) for one in found.holders] == [
        ("context", "context variable `current_model`")
    ]
    assert leaks.are_gone()


@pytest.mark.parametrize(
    ("clear", "code", "cleared"),
    [
        ("generators", "def s(m):\n    yield 1\n    yield m\ng = s(model); next(g)", "suspended generator `s`"),
        ("generators", POOL + "with ThreadPoolExecutor(1) as p: proba = p.map(lambda m: m, [model])", "executor.map"),
        ("futures", POOL + "with ThreadPoolExecutor(1) as p: job = p.submit(lambda m: m, model)", "a future"),
        ("caches", "import functools\n@functools.cache\ndef load(): return HELD.pop()\nHELD = [model]; load()", "functools cache of `load`"),
        ("exceptions", FAIL + "try:\n    try: infer(model)\n    except ValueError as e: raise KeyError from e\nexcept KeyError as e: saved = e", "exception `KeyError`"),
    ],
)  # fmt: skip
def test_special_holders_let_go_only_when_asked_to(
    leaks: Leaks, clear: Any, code: str, cleared: str
) -> None:
    leaks.run(f"model = make()\n{code}\nimport weakref\nreference = weakref.ref(model)\ndel model")
    left = willfit.release(leaks.module.reference(), quiet=True)
    assert not left.is_gone and len(left.holders) == 1 and not left.cleared
    found = willfit.release(leaks.module.reference(), quiet=True, clear=[clear])
    assert found.is_gone and not found.holders
    assert len(found.cleared) == 1 and cleared in found.cleared[0]


def test_unread_results_are_kept_by_default(leaks: Leaks) -> None:
    """They may be nine hours of work."""
    leaks.run(f"model = make()\n{POOL}with ThreadPoolExecutor(1) as p: proba = p.map(id, [model])")
    willfit.release(leaks.module.model, quiet=True)
    assert list(leaks.module.proba) == [id(leaks.module.model)]


def test_the_last_error_is_forgotten_by_default(leaks: Leaks) -> None:
    leaks.run(FAIL)
    try:
        leaks.module.infer(leaks.make())
    except ValueError as error:
        sys.last_value, sys.last_traceback = error, error.__traceback__
    assert not leaks.are_gone()
    found = willfit.release(torch.zeros(1), quiet=True)
    assert found.cleared == ("sys.last_value", "sys.last_traceback")
    assert not hasattr(sys, "last_value") and not hasattr(sys, "last_traceback")
    assert leaks.are_gone()


def test_variables_by_name_are_deleted_all_or_none(leaks: Leaks) -> None:
    leaks.run(
        "import willfit\nfirst, second = make(), make()\n"
        "def go(*names): return willfit.release(*names, quiet=True)"
    )
    with pytest.raises(InputError, match="'third' is no variable"):
        leaks.module.go("first", "third")
    assert hasattr(leaks.module, "first")
    found = leaks.module.go("first", "second")
    assert found.is_gone and found.freed_bytes == 2 * BYTES
    assert not hasattr(leaks.module, "first") and not hasattr(leaks.module, "second")


def test_force_empties_a_model_that_somebody_keeps(leaks: Leaks) -> None:
    leaks.run("model = make(); other = [model]")
    found = willfit.release(leaks.module.model, quiet=True, force=True)
    assert found.is_gone and not found.holders
    assert [tuple(p.shape) for p in leaks.module.model.parameters()] == [(0,)] * 4


def test_an_optimizer_gives_its_states_and_a_model_its_gradients(leaks: Leaks) -> None:
    model = leaks.make()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    found = willfit.release(model, optimizer, quiet=True)
    steps = 4 * 4  # one float32 counter a parameter
    assert found.given_bytes == 4 * BYTES + steps  # weights, gradients, two states
    assert found.freed_bytes == 3 * BYTES + steps
    assert found.cleared == ("gradients", "optimizer states")


def test_accelerates_hooks_are_taken_off() -> None:
    accelerate = pytest.importorskip("accelerate")
    leaks = Leaks()
    model = accelerate.cpu_offload(leaks.make(), execution_device="cpu")
    found = willfit.release(model, quiet=True)
    assert "accelerate's hooks" in found.cleared
    assert not any("_hf_hook" in vars(part) for part in model.modules())


def test_a_trainer_lets_go_of_model_and_optimizer(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=transformers.LlamaForCausalLM(config),
        args=arguments,
        train_dataset=[{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 8,
    )
    trainer.train()
    found = willfit.release(trainer, quiet=True)
    assert found.is_gone, found.text()
    assert trainer.model is None and trainer.optimizer is None
    assert "the trainer's references to its model and optimizer" in found.cleared


def test_a_pipeline_lets_go_of_its_model() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    config = transformers.LlamaConfig(
        vocab_size=2, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    pipeline = transformers.TextClassificationPipeline(
        model=transformers.LlamaForSequenceClassification(config),
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words),
    )
    left = find_holders(storages_of(pipeline.model.parameters()).values())
    assert "pipeline" in {one.kind for one in left.holders}
    found = willfit.release(pipeline, quiet=True)
    assert found.is_gone and found.given_bytes > 4000 and pipeline.model is None
    assert "the pipeline's model" in found.cleared


def test_a_models_own_cache_of_keys_and_values_is_dropped() -> None:
    transformers = pytest.importorskip("transformers")
    leaks = Leaks()
    model = leaks.make()
    cache = transformers.DynamicCache()
    cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    model.past = cache
    del cache
    found = willfit.release(model, quiet=True)
    assert found.cleared == ("KV caches",) and model.past is None
    assert found.freed_bytes == 2 * 24 * 4


def test_a_peft_wrapper_is_named_as_one(leaks: Leaks) -> None:
    peft = pytest.importorskip("peft")
    model = leaks.make()
    leaks.module.adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"]))
    found = willfit.release(model, quiet=True)
    del model
    assert any(
        one.kind == "peft" and one.path.endswith("`leaky`, PEFT wrapper `PeftModel`")
        and one.line == "import leaky; del leaky.adapted"
        for one in found.holders
    )  # fmt: skip


def card(index: int, **values: Any) -> Counted:
    allocated = values.pop("allocated", 0)
    return Counted(
        index=index, name="Tesla T4", allocated_bytes=allocated,
        reserved_bytes=values.pop("reserved", allocated), peak_allocated_bytes=allocated,
        peak_reserved_bytes=allocated, ever_allocated_bytes=allocated, **values,
    )  # fmt: skip


def two_cards(*, after_1: int = 0, **values: Any) -> FakeCounters:
    """GPU 0 gives 9 GiB back and GPU 1 all but ``after_1``, once the caches are emptied."""
    found = FakeCounters(
        states=[
            [card(0, allocated=9 * GIB), card(1, allocated=9 * GIB)],
            [card(0, **values), card(1, allocated=after_1, **values)],
        ]
    )
    found.on_give_back = lambda: setattr(found, "state", 1)
    return found


def nvml(used: tuple[int, int], *processes: tuple[int, str, int | None]) -> FakeNvml:
    return FakeNvml(
        cards=tuple(
            FakeCard(name="Tesla T4", total=15 * GIB, used=one, processes=processes) for one in used
        )
    )


def test_every_gpu_is_emptied_and_told_apart() -> None:
    counters = two_cards(after_1=int(8.9 * GIB))
    found = willfit.release(
        torch.zeros(3), quiet=True, counters=counters, nvml=nvml((100 * MIB, 9 * GIB))
    )
    first, second, host = found.devices
    assert (first.freed_bytes, first.after_bytes, first.is_free) == (9 * GIB, 0, True)
    assert (second.freed_bytes, second.is_free) == (9 * GIB - int(8.9 * GIB), False)
    assert (host.device, host.freed_bytes) == ("cpu", 12)
    assert not found.is_free
    assert "cuda:1 (Tesla T4): 102.4 MiB freed, 8.90 GiB left in tensors" in found.text()


@pytest.mark.parametrize(
    ("left", "used", "mark", "free"),
    [
        (0, 615 * MIB, {}, True),  # an idle H200: the context and the driver are nobody's tensors
        (1 * MIB, 299_000_000, {}, True),  # below 300 MB
        (1 * MIB, 301_000_000, {}, False),
        (1 * MIB, 615 * MIB, {"cuda:0": 600 * MIB, "cuda:1": 600 * MIB}, True),  # back at the mark
        (1 * MIB, 700 * MIB, {"cuda:0": 600 * MIB, "cuda:1": 600 * MIB}, False),
    ],
)
def test_when_a_gpu_is_free(left: int, used: int, mark: Any, free: bool) -> None:
    counters = FakeCounters(states=[[card(0, allocated=left), card(1, allocated=left)]])
    found = willfit.release(
        torch.zeros(3), quiet=True, counters=counters, nvml=nvml((used, used)), mark=mark
    )
    assert found.is_free is free


def test_other_processes_are_named_and_this_one_is_not() -> None:
    import os

    others = nvml((9 * GIB, 9 * GIB), (os.getpid(), "me", GIB), (77, "python serve.py", 8 * GIB))
    found = willfit.release(torch.zeros(3), quiet=True, counters=two_cards(), nvml=others)
    assert [one.path for one in found.others] == [
        "process 77 python serve.py on cuda:0", "process 77 python serve.py on cuda:1"
    ]  # fmt: skip
    assert found.others[0].num_bytes == 8 * GIB and "kill 77" in found.others[0].line


def test_in_a_container_the_only_process_with_torchs_memory_is_this_one() -> None:
    counters = FakeCounters(states=[[card(0, allocated=0, reserved=2 * GIB)]])
    hosts_number = 2**22 + 1  # beyond what Linux gives
    alone = FakeNvml(
        cards=(
            FakeCard(
                name="T4", total=15 * GIB, used=3 * GIB,
                processes=((hosts_number, "?", 2 * GIB + 200 * MIB),),
            ),
        )
    )  # fmt: skip
    found = willfit.release(torch.zeros(3), quiet=True, counters=counters, nvml=alone)
    assert not found.others
    much = FakeNvml(
        cards=(
            FakeCard(
                name="T4", total=15 * GIB, used=9 * GIB, processes=((hosts_number, "?", 9 * GIB),)
            ),
        )
    )
    found = willfit.release(torch.zeros(3), quiet=True, counters=counters, nvml=much)
    assert len(found.others) == 1


def test_gpus_are_matched_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    cards = (
        FakeCard(name="T4", total=15 * GIB, used=14 * GIB, uuid="GPU-aa"),
        FakeCard(name="T4", total=15 * GIB, used=1 * GIB, uuid="GPU-bb"),
    )
    for uuid in ("bb", ""):  # by the UUID, or by its place in the variable
        counters = FakeCounters(states=[[card(0, uuid=uuid)]])
        found = willfit.release(
            torch.zeros(3), quiet=True, counters=counters, nvml=FakeNvml(cards=cards)
        )
        assert found.devices[0].used_after_bytes == 1 * GIB


def test_garbage_goes_before_the_cache() -> None:
    """A cycle, as accelerate's hooks make: emptied first, the cache would give nothing back."""
    order: list[str] = []
    counters = two_cards()
    counters.on_give_back = lambda: order.append("give back")
    ring: list[Any] = [Box(torch.zeros(5))]
    ring.append(ring)
    weakref.finalize(ring[0], order.append, "collected")
    gc.disable()
    try:
        del ring
        willfit.release(torch.zeros(1), quiet=True, counters=counters, nvml=FakeNvml())
    finally:
        gc.enable()
    assert order[:2] == ["collected", "give back"]


def test_an_unknown_thing_to_clear_is_one_sentence() -> None:
    with pytest.raises(InputError, match="clear takes a list of last_exception"):
        willfit.release(clear=("everything",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="clear takes a list"):
        willfit.release(clear="caches")  # type: ignore[arg-type]


def test_it_prints_to_stderr_alone(capsys: pytest.CaptureFixture[str], leaks: Leaks) -> None:
    leaks.run("model = make()")
    willfit.release(leaks.module.model)
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err == (
        "cpu: 0 B freed, 1.3 KiB left in tensors\n"
        "still held, 1.3 KiB of what was given:\n"
        "     1.3 KiB  variable `model` of module `leaky`\n"
        "            free it with: import leaky; del leaky.model\n"
    )


def test_a_million_objects_are_searched(leaks: Leaks) -> None:
    """With 600 parameters, each of which an optimizer holds beside the model's own generator."""
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(300)])
    leaks.storages.update(storages_of(model.parameters()))
    leaks.module.model = model
    del model
    leaks.run(
        "def stream(m):\n    yield 1\n    yield m\n"
        "tokens = [stream(model)]; next(tokens[0]); opt = torch.optim.SGD(model.parameters())\n"
        "del model"
    )
    many = [[number] for number in range(1_000_000)]
    found = leaks.search()  # how long it takes: benchmarks/lint.py
    everything = 300 * (8 * 8 + 8) * 4
    assert {(one.kind, one.num_bytes) for one in found.holders} == {
        ("generator", everything), ("optimizer", everything)
    }  # fmt: skip
    assert found.is_complete and len(many) == 1_000_000


def test_where_each_look_takes_long_a_search_has_some(
    leaks: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is as many looks at all objects, whatever one takes on this machine and heap."""
    monkeypatch.setattr(holders, "TIME_LIMIT", 0.0)
    leaks.run("models = {'best': [make()]}")
    found = leaks.search(time_limit=None)
    assert found.is_complete
    assert [one.line for one in found.holders] == ["import leaky; del leaky.models['best'][0]"]


def test_a_search_without_time_says_so(leaks: Leaks) -> None:
    leaks.run("model = make()")
    found = leaks.search(time_limit=0.0)
    assert not found.is_complete
    assert [one.path for one in found.holders] == ["a place that was not found in time"]
