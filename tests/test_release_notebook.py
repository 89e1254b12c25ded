"""In a real Jupyter kernel: the ensemble that ran out of memory, and who kept the first model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import end, mark

jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")
pytest.importorskip("transformers")

from tests.test_run_notebook import Notebook  # noqa: E402 - it needs the same libraries

MODELS = """
import gc, weakref, torch, willfit
import pandas as pd
from concurrent.futures import ThreadPoolExecutor
from transformers import Gemma2Config, Gemma2ForSequenceClassification
from transformers import LlamaConfig, LlamaForSequenceClassification

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_labels=3, pad_token_id=0)

def load_gemma():
    return Gemma2ForSequenceClassification(Gemma2Config(**SMALL)).eval()

def load_llama():
    return LlamaForSequenceClassification(LlamaConfig(**SMALL)).eval()

answers = pd.DataFrame({"tokens": [[1 + i % 60] * (3 + i % 5) for i in range(16)]})
"""
CLASSIFY = """def classify(rows, model, device, batch_size=4):
    first_wins, second_wins, ties = [], [], []
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        for start in range(0, len(rows), batch_size):
            tokens = list(rows.tokens.iloc[start:start + batch_size])
            longest = max(map(len, tokens))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in tokens]).to(device)
            scores = model(input_ids=ids, attention_mask=(ids > 0).long()).logits.softmax(-1)
            first_wins.append(scores[:, 0])
            second_wins.append(scores[:, 1])
            ties.append(scores[:, 2])
            return first_wins, second_wins, ties
"""
ENSEMBLE = """
gemma_0, gemma_1 = load_gemma(), load_gemma()
halves = (answers.iloc[:8], answers.iloc[8:])
with ThreadPoolExecutor(max_workers=2) as pool:
    proba = pool.map(classify, halves, (gemma_0, gemma_1), ("cpu", "cpu"))
watched = [weakref.ref(gemma_0), weakref.ref(gemma_1)]
"""
TELL = "for one in found.holders: print(one.kind, '|', one.path, '|', one.line)\n"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for all tests of this file: loading the libraries takes longest."""
    folder = tmp_path_factory.mktemp("notebook")
    environ = {**mark(), "TMPDIR": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    manager: Any = jupyter_client.KernelManager()
    manager.start_kernel(cwd=str(folder), env=environ)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        found = Notebook(manager=manager, client=client, environ=environ, folder=Path(folder))
        outcome = found.run(MODELS, 120)
        assert not outcome.error, outcome.traceback
        yield found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        end(environ)


@pytest.fixture(autouse=True)
def _clean(notebook: Notebook) -> Iterator[None]:
    yield
    notebook.run("%reset_selective -f ^(gemma|llama|proba|pool|found|history|model|scores|kept)")
    notebook.run("import willfit; willfit.release(torch.zeros(1), quiet=True); None")


def ok(notebook: Notebook, code: str) -> str:
    outcome = notebook.run(code, 60)
    assert not outcome.error, outcome.traceback
    return outcome.text


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if " | " in line]


def test_the_ensembles_first_model_is_freed_and_the_results_kept(notebook: Notebook) -> None:
    """Deleting the models frees them: what is left hangs on the generator that nobody read."""
    ok(notebook, CLASSIFY)
    ok(notebook, ENSEMBLE)
    told = lines(ok(notebook, f"found = willfit.release(gemma_0, gemma_1, quiet=True)\n{TELL}"))
    assert told == [
        "variable | variable `gemma_0` in the notebook | del gemma_0",
        "variable | variable `gemma_1` in the notebook | del gemma_1",
    ]
    text = ok(notebook, "del gemma_0, gemma_1\nfound = willfit.release(quiet=True)\n" + TELL)
    assert lines(text) == [
        "executor.map | the generator returned by `executor.map`, kept in variable `proba` in the "
        "notebook, result of a task, a view that keeps the whole tensor | proba.close()"
    ]
    assert ok(notebook, "print([one() for one in watched])") == "[None, None]\n"
    (note,) = ok(notebook, "print(*found.notes, sep='\\n')").splitlines()
    assert note.startswith("`classify` returns inside its loop (line 12 of cell In[")
    assert note.endswith("the loop ends in its first round, and what follows was never computed")
    # returned inside the loop: 4 of the 8 rows of each half
    assert ok(notebook, "print([len(part[0][0]) for part in proba])") == "[4, 4]\n"
    assert ok(notebook, "del proba, pool\nprint(willfit.release(quiet=True).holders)") == "()\n"


def test_a_half_that_failed_in_silence_keeps_its_model(notebook: Notebook) -> None:
    """Nobody reads the results of `map`, so nobody sees its error, whose traceback has the model."""
    ok(notebook, CLASSIFY)
    ok(notebook, ENSEMBLE.replace("answers.iloc[8:]", "None"))
    ok(notebook, "del gemma_0, gemma_1\ngc.collect()")
    assert ok(notebook, "print([one() is None for one in watched])") == "[True, False]\n"
    text = ok(notebook, f"found = willfit.release(watched[1](), quiet=True)\n{TELL}")
    (line,) = lines(text)
    assert line.startswith(
        "executor.map | the generator returned by `executor.map`, kept in variable `proba` in the "
        "notebook, exception of a task, frame `classify` of cell In["
    )
    assert line.endswith("], local `model` | proba.close()")
    ok(notebook, "proba.close()\ngc.collect()")
    assert ok(notebook, "print([one() for one in watched])") == "[None, None]\n"


def test_the_traceback_of_a_failed_cell_keeps_the_model(notebook: Notebook) -> None:
    ok(
        notebook,
        "def broken(model, ids):\n"
        "    hidden = model.model(ids).last_hidden_state\n"
        "    raise RuntimeError('CUDA out of memory.')\n"
        "llama = load_llama(); watched = [weakref.ref(llama)]",
    )
    assert notebook.run("broken(llama, torch.ones(2, 5, dtype=torch.long))").error == "RuntimeError"
    ok(notebook, "del llama\ngc.collect()")
    told = ok(notebook, f"found = willfit.release(watched[0](), quiet=True, clear=())\n{TELL}")
    kinds = {line.split(" | ")[0] for line in lines(told)}
    assert kinds == {"last exception", "ipython"}
    assert "sys.last_traceback, frame `broken` of cell In[" in told and "local `model`" in told
    assert "del sys.last_value" in told
    text = ok(notebook, "found = willfit.release(watched[0]())")
    assert "0 B left in tensors\nlet go of: sys.last_" in text and "still held" not in text
    assert ok(notebook, "print(watched[0]())") == "None\n"


def test_results_that_the_notebook_keeps_are_dropped(notebook: Notebook) -> None:
    ok(notebook, "llama = load_llama(); watched = [weakref.ref(llama)]")
    ok(notebook, "llama")  # Out[…], _ and _…
    ok(notebook, "[1, 2]")
    told = ok(notebook, f"found = willfit.release(llama, quiet=True, clear=())\n{TELL}")
    assert {line.split(" | ")[0] for line in lines(told)} >= {"variable", "output"}
    text = ok(notebook, "found = willfit.release('llama')")
    (cleared,) = [line for line in text.splitlines() if line.startswith("let go of: ")]
    assert "__" in cleared and "Out[" in cleared
    assert ok(notebook, "print(found.is_gone, watched[0](), _)") == "True None [1, 2]\n"


def test_inside_a_function_of_a_cell_its_local_is_named(notebook: Notebook) -> None:
    code = (
        "def job():\n"
        "    model = load_llama()\n"
        "    found = willfit.release(model, quiet=True)\n"
        "    kept = weakref.ref(model)\n"
        "    del model\n"
        "    return found, kept() is None\n"
        "found, gone = job()\n"
    )
    (line,) = lines(ok(notebook, code + TELL))
    assert line.startswith("local | local `model` of `job`, which is running (cell In[")
    assert line.endswith(" | del model")
    assert ok(notebook, "gc.collect(); print(gone)").endswith("True\n")


def test_magics_watch_a_cell_and_a_statement(notebook: Notebook) -> None:
    ok(notebook, "%load_ext willfit")
    text = ok(
        notebook, "%%willfit_watch -o watching my cell\nscores = torch.zeros(1000)\nscores.sum()"
    )
    assert text.startswith("watched my cell: ")
    assert "kept by variable `scores` in the notebook" in text
    assert ok(notebook, "print(watching.left_behind_bytes, watching.label)") == "4004 my cell\n"
    ok(notebook, "%watch -o watching kept = torch.zeros(10)")
    assert ok(notebook, "print(watching.left_behind_bytes, kept.shape[0])") == "40 10\n"
    outcome = notebook.run("%%willfit_watch\nkept = torch.zeros(3)\n1 / 0")
    assert outcome.error == "ZeroDivisionError"
    assert "ended by ZeroDivisionError" in outcome.text
