"""The doctor on the mission's message: one text, four scenarios, four different answers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import willfit
from willfit.cli.build import build_request
from willfit.cli.main import main
from willfit.cli.parser import Parser, with_dashes
from willfit.cli.plan import configure
from willfit.doctor.diagnose import OwnCode
from willfit.doctor.diagnosis import Case
from willfit.doctor.kinds import kind_of
from willfit.scenario import Scenario
from willfit.units import GIB, MIB

T4 = (
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a "
    "total capacty of 14.75 GiB of which 11.06 MiB is free. Process 3258 has 14.73 GiB memory in "
    "use. Of the allocated memory 14.04 GiB is allocated by PyTorch, and 509.85 MiB is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and "
    "PYTORCH_CUDA_ALLOC_CONF"
)
NOTEBOOK = (
    "--train", "qlora", "--num-labels", "3", "--lora-r", "64", "--lora-target-modules",
    "all-linear", "--optim", "paged_adamw_32bit", "--max-length", "1024", "--fp16",
)  # fmt: skip
LLAMA = "meta-llama/Meta-Llama-3-8B"


def scenario(*words: str) -> Scenario:
    parser = Parser()
    configure(parser)
    return build_request(parser.parse_args(with_dashes(list(words)))).scenario


def notebook(*more: str) -> Scenario:
    return scenario(LLAMA, "--gpu", "T4", *NOTEBOOK, *more)


def examined(asked: Scenario | None, text: str = T4) -> Case:
    cases = willfit.diagnose(text, asked).cases
    assert len(cases) == 1
    return cases[0]


A = ("--per-device-train-batch-size", "1")
B = ("--per-device-train-batch-size", "1", "--gradient-checkpointing")
C = ("--per-device-train-batch-size", "8")


def test_a_the_notebooks_settings_checkpointing_comes_first_with_its_saving() -> None:
    case = examined(notebook(*A))
    first = case.changes[0]
    assert case.cause.name == "activations_batch_seq"
    assert first.id == "gradient_checkpointing"
    without = willfit.estimate(notebook(*A), search_limits=False).binding.peak.device_bytes
    with_it = willfit.estimate(notebook(*B), search_limits=False).binding.peak.device_bytes
    assert first.saves_bytes == without - with_it > 10 * GIB


def test_b_checkpointing_that_is_on_is_never_proposed() -> None:
    case = examined(notebook(*B))
    assert not any("checkpointing" in change.id + change.title for change in case.changes)
    assert case.agreement is not None
    assert case.agreement.unexplained_bytes > 7 * GIB  # 14.26 − 6.91
    said = " ".join(case.cause.evidence)
    assert "A batch of 8 explains both: 224.00 MiB is 8,192 tokens × 14,336 × 2 B" in said


def test_c_a_batch_of_8_is_made_smaller_first() -> None:
    case = examined(notebook(*C))
    assert case.changes[0].id.startswith("per_device_train_batch_size=")
    assert "gradient_checkpointing" in [change.id for change in case.changes]


def test_d_inference_in_int8() -> None:
    case = examined(scenario("mistralai/Mistral-7B-v0.1", "--gpu", "T4", "--quantize", "int8"))
    training = ("optim", "gradient", "per_device", "lora")
    assert not any(change.id.startswith(training) for change in case.changes)
    assert case.changes[0].saves_bytes is not None


def test_the_four_answers_begin_differently() -> None:
    asked = [notebook(*A), notebook(*B), notebook(*C)]
    asked.append(scenario("mistralai/Mistral-7B-v0.1", "--gpu", "T4", "--quantize", "int8"))
    firsts = [examined(one).changes[0] for one in asked]
    assert len({first.id for first in firsts}) == 4
    assert len({first.title for first in firsts}) == 4


def test_savings_of_a_plan_add_up_to_what_it_leaves() -> None:
    case = examined(notebook(*C))
    plan = [change for change in case.changes if change.plan == 1]
    before = willfit.estimate(notebook(*C), search_limits=False).binding.peak.device_bytes
    left = before - sum(change.saves_bytes or 0 for change in plan)
    assert 0 < left < 14.75 * GIB


def test_without_a_scenario_nothing_is_computed_that_nobody_told() -> None:
    case = examined(None)
    assert case.agreement is None
    assert case.report.fields == {
        "backend": "CUDA",
        "gpu": 0,
        "tried_bytes": 224 * MIB,
        "total_bytes": int(14.75 * GIB),
        "free_bytes": int(11.06 * MIB),
        "allocated_bytes": 15075335208,  # 14.04 GiB, cut
        "reserved_unallocated_bytes": 534616473,  # 509.85 MiB, cut
        "processes": [{"pid": 3258, "bytes": 15816217067}],  # 14.73 GiB, cut
    }
    assert all(change.saves_bytes is None for change in case.changes)


def test_a_message_of_another_card_is_said() -> None:
    case = examined(scenario(LLAMA, "--gpu", "A100-80GB", *NOTEBOOK, *A))
    assert any("14.75 GiB" in note and "A100" in note for note in case.notes)


def test_the_card_is_found_by_its_size_where_none_is_named() -> None:
    case = examined(scenario(LLAMA, *NOTEBOOK, *A))
    assert case.changes[0].id == "gradient_checkpointing"
    assert any("T4" in note for note in case.notes)


def test_another_process_is_stopped_not_worked_around() -> None:
    text = (
        "CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 14.75 GiB "
        "of which 11.06 MiB is free. Process 77 has 9.10 GiB memory in use. Including non-PyTorch "
        "memory, this process has 5.63 GiB memory in use. Of the allocated memory 5.20 GiB is "
        "allocated by PyTorch, and 100.00 MiB is reserved by PyTorch but unallocated."
    )
    case = examined(notebook(*B), text)
    assert case.cause.name == "other_process"
    assert [change.id for change in case.changes] == ["stop_process"]
    # 14.75 − 0.01 free − 5.63 of this process
    assert case.changes[0].saves_bytes == pytest.approx(9.11 * GIB, rel=0.01)


def test_an_engines_own_number_comes_before_an_estimate() -> None:
    text = (
        "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 "
        "GiB KV cache is needed, which is larger than the available KV cache memory (3.18 GiB). "
        "Based on the available memory, the estimated maximum model length is 26048. Try increasing"
        " `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
    )
    asked = scenario(
        "meta-llama/Llama-3.1-8B", "--gpu", "L4", "--engine", "vllm", "--context", "131072"
    )
    first = examined(asked, text).changes[0]
    assert first.snippet == "vllm serve meta-llama/Llama-3.1-8B --max-model-len 26048"
    assert first.saves_bytes == pytest.approx(12.82 * GIB, rel=1e-3)  # 16.00 − 3.18


HEALTHY = sorted((Path(__file__).parent / "data/doctor/healthy").glob("*/*"))


def test_there_are_thirty_healthy_files_and_more() -> None:
    assert len(HEALTHY) >= 30


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.name)
def test_nothing_is_found_in_what_is_healthy(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["doctor", str(path), "--check"])
    assert code == 0, capsys.readouterr().out


class TestCommandLine:
    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
        code = main(["doctor", *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    @pytest.fixture
    def log(self, tmp_path: Path) -> str:
        path = tmp_path / "error.log"
        path.write_text(T4 + "\n")
        return str(path)

    def test_json_is_the_contract(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ("--model", LLAMA, "--gpu", "T4", *NOTEBOOK, *A)
        code, out, _ = self.run(capsys, log, *flags, "--json")
        found = json.loads(out)
        assert code == 0
        assert found["schema"] == "willfit.diagnosis/1"
        (report,) = found["reports"]
        assert report["family"] == "pytorch-cuda"
        assert report["fields"]["tried_bytes"] == 234881024
        assert report["changes"][0]["id"] == "gradient_checkpointing"
        assert report["changes"][0]["saves_bytes"] > 10 * GIB
        assert found["lint"] == []

    def test_text_fits_80_columns(self, log: str, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ("--model", LLAMA, "--gpu", "T4", *NOTEBOOK, *A)
        code, out, _ = self.run(capsys, log, *flags)
        assert code == 0
        prose = [line for line in out.splitlines() if not line.startswith("       ")]
        assert max(map(len, prose)) <= 80
        assert "saves 13.16 GiB: Compute each layer's activations again" in out

    def test_check(self, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        healthy = tmp_path / "ok.log"
        healthy.write_text("step 1 loss 2.3\nstep 2 loss 2.2\n")
        assert self.run(capsys, log, "--check")[0] == 3
        code, out, _ = self.run(capsys, str(healthy), "--check", "--json")
        assert code == 0
        assert json.loads(out)["reports"] == []

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("/nowhere/error.log",), "cannot read '/nowhere/error.log'"),
            (("{log}", "--gpu", "T5"), "unknown GPU"),
            (("{log}", "--fix"), "--fix rewrites scripts and notebooks"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, words: tuple[str, ...], said: str, log: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = [word.format(log=log) for word in words]
        if "--gpu" in flags:
            flags += ["--model", LLAMA]
        code, out, err = self.run(capsys, *flags)
        assert code == 1
        assert out == ""
        assert said in err
        assert err.count("\n") == 1


class TestRewriting:
    SCRIPT = (
        "from transformers import BitsAndBytesConfig\n\n"
        "config = BitsAndBytesConfig(load_in_8bit=True, bnb_8bit_quant_type='nf8')  # mine\n"
    )

    def test_the_original_is_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "train.py"
        path.write_text(self.SCRIPT)
        assert main(["doctor", str(path), "--fix", "--check"]) == 0
        assert "BitsAndBytesConfig(load_in_8bit=True)  # mine" in path.read_text()
        assert (tmp_path / "train.py.orig").read_text() == self.SCRIPT
        assert "corrected line 3 (bnb-unknown-key)" in capsys.readouterr().err

    def test_a_second_time_keeps_both_originals(self, tmp_path: Path) -> None:
        path = tmp_path / "train.py"
        for _ in range(2):
            path.write_text(self.SCRIPT)
            assert main(["doctor", str(path), "--fix"]) == 0
        assert sorted(kept.name for kept in tmp_path.iterdir()) == [
            "train.py", "train.py.orig", "train.py.orig1",
        ]  # fmt: skip

    def test_a_notebook_stays_one(self, tmp_path: Path) -> None:
        path = tmp_path / "n.ipynb"
        cell = {"cell_type": "code", "source": self.SCRIPT.splitlines(keepends=True), "outputs": [],
                "metadata": {}, "execution_count": None}  # fmt: skip
        path.write_text(
            json.dumps({"cells": [cell], "nbformat": 4, "nbformat_minor": 5, "metadata": {}})
        )
        assert main(["doctor", str(path), "--fix", "--check"]) == 0
        assert "nf8" not in "".join(json.loads(path.read_text())["cells"][0]["source"])

    def test_bytes_that_are_not_utf8_are_refused_not_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "old.py"
        content = self.SCRIPT.encode() + b"# caf\xe9\n"
        path.write_bytes(content)
        assert main(["doctor", str(path), "--fix"]) == 1
        assert path.read_bytes() == content
        assert "is not UTF-8" in capsys.readouterr().err

    def test_nothing_is_written_where_nothing_is_wrong(self, tmp_path: Path) -> None:
        path = tmp_path / "ok.py"
        path.write_text("print(1)\n")
        assert main(["doctor", str(path), "--fix"]) == 0
        assert [kept.name for kept in tmp_path.iterdir()] == ["ok.py"]


class TestWhatIsGiven:
    def test_a_snapshot(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "snapshot.pickle"
        path.write_bytes(pickle.dumps({"segments": [], "device_traces": [[]]}))
        assert main(["doctor", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["snapshot"]["gpus"] == []

    def test_a_hostile_pickle_does_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        canary = tmp_path / "canary"
        path = tmp_path / "evil.pickle"
        path.write_bytes(b"\x80\x02cposix\nsystem\nX" + _text(f"touch {canary}") + b"\x85R.")
        assert main(["doctor", str(path)]) == 1
        assert not canary.exists()
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_log_and_the_script_that_it_is_of(self, capsys: pytest.CaptureFixture[str]) -> None:
        examples = Path(__file__).resolve().parents[1] / "examples/doctor"
        files = [str(examples / "error.log"), str(examples / "finetune.py")]
        assert main(["doctor", *files, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        first = found["reports"][0]["changes"][0]
        assert first["id"] == "gradient_checkpointing"
        assert any("gradient_checkpointing=True" in line["after"] for line in first["own_lines"])
        assert found["settings"]["model"] == LLAMA
        assert [finding["rule"] for finding in found["lint"]] == ["bnb-unknown-key"]

    def test_changes_of_one_plan_are_one_set_of_lines(self) -> None:
        """With a batch of 8 the batch and checkpointing go together: neither undoes the other."""
        script = Path(__file__).resolve().parents[1] / "examples/doctor/finetune.py"
        source = script.read_text().replace(
            "per_device_train_batch_size=1", "per_device_train_batch_size=8"
        )
        asked = notebook(*C, "--prepare-kbit", "--lora-dropout", "0.1")
        case = willfit.diagnose(T4, asked, code=OwnCode(source=source)).cases[0]
        plan = [change for change in case.changes if change.plan == 1]
        assert len(plan) > 1
        assert not any(change.own_lines for change in plan[:-1])
        written = "\n".join(line.after for line in plan[-1].own_lines)
        assert "gradient_checkpointing=True" in written
        assert "per_device_train_batch_size=" in written

    @pytest.mark.parametrize(
        ("name", "content", "kind"),
        [
            ("a.log", b"import torch\n", "log"),
            ("a", b"import torch\nx = torch.zeros(3)\n", "script"),
            ("a", b"Killed\n", "log"),
            ("a", b"Killed: 9\n", "log"),
            ("a", b"RuntimeError: CUDA out of memory.\n", "log"),
            ("a", b'{"cells": [], "nbformat": 4}', "notebook"),
            ("a.json", b'{"per_device_train_batch_size": 8}', "settings"),
            ("a", b'{"level": "ERROR", "message": "CUDA out of memory"}\n', "log"),
            ("a.txt", b"\x80\x04\x95", "snapshot"),
        ],
    )
    def test_kinds(self, name: str, content: bytes, kind: str) -> None:
        assert kind_of(name, content) == kind


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded
