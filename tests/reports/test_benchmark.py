"""The benchmark: its counts are the known ones, its rounds and budgets what they say, and its page is whole."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperinverter.config.load import load_config, load_domain
from hyperinverter.config.report_schema import INFERENCE_SIDES, TRAINING_SIDES, BenchmarkConfig
from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.reports.benchmark import command
from hyperinverter.reports.benchmark.budget import KeptForBackward, LiveMemory, phase2_budget
from hyperinverter.reports.benchmark.clock import Rounds, Stopwatch, speed_up, summarise, take_turns
from hyperinverter.reports.benchmark.command import _publish, benchmark
from hyperinverter.reports.benchmark.counting import STAGES, count_call, count_inference
from hyperinverter.reports.benchmark.inference import Ceiling, measure_ceiling, measure_inference, with_shares
from hyperinverter.reports.benchmark.memory import measure_memory, memory_of
from hyperinverter.reports.benchmark.page import page, tables
from hyperinverter.reports.benchmark.sides import (
    SideName,
    make_images,
    make_model,
    make_side,
    random_network,
    with_hidden_size,
)
from hyperinverter.reports.benchmark.training import make_trainer
from hyperinverter.utils.checkout import REPOSITORY
from hyperinverter.utils.errors import UserError

CPU = torch.device("cpu")
ONCE = Rounds(most=1, least=1, seconds=1)


# --------------------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("reference", [True, False], ids=["reference", "ours"])
@pytest.mark.parametrize(
    ("name", "known"),
    [
        pytest.param("church", [18.68, 45.37, 2 * 44.75, 4.22, 45.37, 203.1], marks=pytest.mark.slow),
        ("ffhq", [32.83, 75.38, 2 * 71.58, 4.57, 75.38, 331.3]),
    ],
)
def test_work_per_image_is_the_known_one(name: str, known: list[float], reference: bool):
    """GMAC of the released code at 256 and 1024 px with D = 128; ours does no more."""
    counts = count_inference(with_hidden_size(load_domain(name), 128), reference=reference)
    for stage, expected in zip((*STAGES, "total"), known, strict=True):
        counted = counts[stage]["macs"] / 1e9
        assert counted == pytest.approx(expected, rel=1e-3 if reference else 5e-3), stage
    assert counts["total"]["bytes"] > counts["total"]["parameter_bytes"] > 0


def test_shares_follow_from_time_and_work():
    summary = {"total": {"median_ms": 500.0}}
    counts = {"total": {"macs": 10**9, "bytes": 2 * 10**9}}
    total = with_shares(summary, counts, Ceiling({"bf16": 8e9}, 16e9), "bf16")["total"]
    assert (total["gmac_per_s"], total["share_of_matmul"], total["share_of_copy"]) == (2.0, 0.5, 0.25)
    assert total["gib_moved"] == 2 * 10**9 / 2**30


def test_traffic_is_that_of_the_sides_own_call(tiny_domain: DomainConfig):
    """It was counted once for all: on a GPU's path, and in float32 for bf16 too."""
    model, macs, traffic = make_model(tiny_domain), {}, {}
    for name in ("reference", "fp32", "bf16"):
        side = make_side(name, model, 2, CPU)
        images = make_images(model, 2)
        side(images)
        counts = count_call(side, images)
        assert set(STAGES) <= set(counts)
        macs[name], traffic[name] = counts["total"]["macs"], counts["total"]["bytes"]
    assert macs["fp32"] == macs["bf16"] == pytest.approx(macs["reference"], rel=0.05)
    assert len(set(traffic.values())) == 3
    kernels = {}
    for name in ("reference", "fp32"):  # where both walk the same path, both ways of counting agree
        kernels[name] = count_inference(tiny_domain, 2, reference=name == "reference")["total"]
    assert kernels["reference"]["bytes"] == pytest.approx(traffic["reference"], rel=0.02)
    assert kernels["fp32"]["macs"] == pytest.approx(macs["fp32"], rel=0.02)


def test_ceilings_are_measured():
    ceiling = measure_ceiling(CPU, ["fp32"], seconds=0.01)
    assert ceiling.matmul["fp32"] > 1e8 and ceiling.copy > 1e8


# ----------------------------------------------------------------------------------------------------------- timing


def test_sides_run_in_turn():
    calls = []
    both = {name: (lambda watch, name=name: calls.append(name)) for name in "AB"}
    readings = take_turns(both, CPU, Rounds(most=3, least=1, seconds=60, warm_up=1))
    assert "".join(calls) == "ABABABAB"
    assert {name: len(values) for name, values in readings.items()} == {"A": 3, "B": 3}


def test_no_round_begins_that_would_not_fit():
    calls = []
    take_turns({"A": lambda watch: calls.append(1)}, CPU, Rounds(most=9, least=2, seconds=0))
    assert len(calls) == 2
    with pytest.raises(ValueError, match="least"):
        Rounds(most=1, least=2)


def test_laps_of_one_name_add_up():
    watch = Stopwatch(CPU)
    for stage in ("a", "b", "a"):
        watch.lap(stage)
    reading = watch.read()
    assert set(reading) == {"a", "b", "total"} and reading["a"] + reading["b"] <= reading["total"]


def test_summaries_are_medians_of_rounds():
    slow, fast = [{"total": t} for t in (4.0, 9.0, 8.0)], [{"total": t} for t in (2.0, 3.0, 1.0)]
    assert summarise(slow, batch_size=2)["total"]["ms_per_image"] == 4.0
    assert speed_up(slow, fast) == {"median": 3.0, "least": 2.0, "most": 8.0}  # of 2, 3 and 8


def test_every_side_has_a_meaning():
    for name in (*INFERENCE_SIDES, *TRAINING_SIDES):
        parts = SideName.of(name)
        assert parts.is_reference == ("reference" in name)
        assert parts.compiled == ("compile" in name) and parts.recomputes == ("recompute" in name)
        assert parts.precision in name or (parts.is_reference and parts.precision == "fp32")


@pytest.mark.parametrize("name", ["reference", "fp32"])
def test_stages_of_a_call_are_told_apart(tiny_domain: DomainConfig, name: str):
    model = make_model(tiny_domain)
    side = make_side(name, model, 2, CPU)
    watch = Stopwatch(CPU)
    side(make_images(model, 2), watch)
    assert set(STAGES) <= set(watch.read())


# ----------------------------------------------------------------------------------------------------------- memory


def step_of_a_small_network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    network = torch.nn.Linear(256, 256, bias=False)  # 256 KiB
    optimizer = torch.optim.Adam(network.parameters(), foreach=False)
    network(torch.zeros(2, 256)).sum().backward()
    optimizer.step()
    return network, optimizer


def test_live_memory_is_what_tensors_hold():
    """Weight, gradient and two moments of 256 KiB each, and Adam's count of steps in a block of 512 bytes."""
    for mode in (LiveMemory, FakeTensorMode):
        with mode() as outer, LiveMemory() if mode is FakeTensorMode else outer as live:
            kept = step_of_a_small_network()
            assert live.now == 4 * 2**18 + 512
            assert live.peak > live.now
            del kept
            assert live.now == 0


def test_kept_for_backward_counts_each_storage_once():
    weight, x = torch.zeros(8, 8, requires_grad=True), torch.zeros(4, 8)
    kept = KeptForBackward([weight])
    with kept:
        (x @ weight).exp().sum()
    assert kept.bytes == x.nbytes + 4 * 8 * 4  # the product's factor that is no parameter, and exp's own result


@pytest.fixture(scope="module")
def budget(tiny_domain: DomainConfig) -> dict[str, Any]:
    return phase2_budget(tiny_domain, 4, "fp32")


def test_budget_adds_up(budget: dict[str, Any], tiny_domain: DomainConfig):
    network: HyperInverterNetwork = random_network(tiny_domain)
    trained = sum(p.nbytes for p in network.trainable_parameters()) / 2**20
    assert budget["trained_weights"] == budget["gradients"] == pytest.approx(trained)
    assert budget["optimiser"] == pytest.approx(2 * trained, rel=0.01)  # Adam's two moments
    at_once = sum(budget[part] for part in ("frozen_weights", "trained_weights", "optimiser", "kept_for_backward"))
    assert at_once < budget["peak"] < 2 * (at_once + budget["gradients"])


@pytest.mark.slow
def test_recomputing_keeps_less(budget: dict[str, Any], tiny_domain: DomainConfig):
    recomputed = phase2_budget(tiny_domain, 4, "fp32_recompute")
    assert recomputed["kept_for_backward"] < 0.9 * budget["kept_for_backward"]
    assert recomputed["peak"] < budget["peak"]


@pytest.mark.parametrize("what", ["inference", "phase1", "phase2"])
def test_memory_tasks_run(tiny_domain: DomainConfig, what: str):
    """In this process, which holds other things as well."""
    found = memory_of(what, "fp32", 2, tiny_domain, CPU, None)
    assert found["peak_mib"] >= found["before_mib"] > 0 and found["how"]


@pytest.mark.slow  # importing everything anew
@pytest.mark.parametrize("side", ["reference", "fp32"])
def test_memory_is_measured_in_a_fresh_process(tiny_domain: DomainConfig, side: str):
    found = measure_memory("inference", side, 1, tiny_domain, CPU, 1)
    assert found["peak_mib"] >= found["before_mib"] > 0 and found["how"]


PARENT = """
import multiprocessing, time
from hyperinverter.reports.benchmark.memory import end_with_parent

def child():
    end_with_parent()
    print("held", flush=True)
    time.sleep(60)

multiprocessing.get_context("fork").Process(target=child).start()
"""


@pytest.mark.slow  # importing everything anew
def test_the_fresh_process_ends_with_a_benchmark_that_is_killed():
    """It stayed, with gigabytes, where the benchmark was ended for lack of memory."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "held\n"
        parent.kill()
        start = time.monotonic()
        assert parent.stdout.read() == ""  # which ends when no process can write there any more
    assert time.monotonic() - start < 30


# ---------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    """The whole benchmark on the tiny domain, published; its memory has a test of its own."""
    folder = tmp_path_factory.mktemp("benchmark")
    words = [f"output={folder}/out", f"publish={folder}/performance", "device=cpu", "memory=false", "budget=[]"]
    words += ["sides={reference: [1], fp32: [1, 2], bf16: [1]}", "rounds=1"]
    config = load_config(BenchmarkConfig, "configs/benchmark/tiny.yaml", words)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:  # the ceilings have a test of their own too
        patch.setattr(command, "measure_ceiling", lambda *of: measure_ceiling(*of, seconds=0.01))
        found = benchmark(config)
    yield folder, found
    torch.set_num_threads(threads)


def test_json_holds_every_part(measured: tuple[Path, dict]):
    folder, result = measured
    assert json.loads((folder / "out/benchmark.json").read_text()) == result
    (run,) = result["runs"]
    assert [(case["hidden_size"], case["batch_size"]) for case in run["inference"]] == [(8, 1), (8, 2)]
    assert set(run["inference"][0]["sides"]) == {"reference", "fp32", "bf16"}
    assert set(run["inference"][1]["sides"]) == {"fp32"}
    fp32 = run["inference"][0]["sides"]["fp32"]
    assert fp32["compared_with"] == "reference" and fp32["difference"]["largest_of_range"] < 1e-4
    assert set(STAGES) < set(fp32["stages"]) and fp32["stages"]["total"]["share_of_matmul"] > 0
    assert run["slider"]["share"]["median"] > 0
    assert [case["phase"] for case in run["training"]] == ["phase1", "phase2", "phase2_adversarial"]
    assert all(path.parent == folder / "performance" for path in folder.rglob("*.json") if path.parent.name != "out")


def test_page_is_made_of_the_json(measured: tuple[Path, dict]):
    folder, result = measured
    made = (folder / "performance.md").read_text()
    assert tables(result) in made and "| second synthesis |" in made and "Generators held" in made
    config = BenchmarkConfig(sides={}, output=str(folder / "out"), publish=str(folder / "performance"), device="cpu")
    (folder / "performance.md").unlink()
    assert benchmark(config) == {} and (folder / "performance.md").read_text() == made


def test_the_page_begins_with_the_fastest_of_each_domain(measured: tuple[Path, dict]):
    _, result = measured
    made = page("# Title\n\nHead.\n\n## End\n\nNotes.\n", [result])
    run = result["runs"][0]
    summary = next(line for line in made.splitlines() if line.startswith(f"| {result['device']} | {run['domain']} |"))
    single = min(
        (side["stages"]["total"]["ms_per_image"], name, side.get("speed_up", {}).get("median"))
        for name, side in run["inference"][0]["sides"].items()
        if name != "reference"
    )
    assert f" ({single[1]}, batch 1, × {single[2]:.2f})" in summary and "reference" not in summary
    assert made.index("Head.") < made.index(summary) < made.index(tables(result)) < made.index("## End")


def test_publishing_replaces_a_domain_and_keeps_the_others(measured: tuple[Path, dict], tmp_path: Path):
    _, result = measured
    other = {**result["runs"][0], "domain": "other", "resolution": 8}
    _publish(tmp_path / "pages", {**result, "runs": [other]})
    for seconds in (1.0, 2.0):
        _publish(tmp_path / "pages", {**result, "runs": [{**result["runs"][0], "seconds": seconds}]})
    (path,) = (tmp_path / "pages").glob("*.json")
    runs = json.loads(path.read_text())["runs"]
    assert [(run["domain"], run["seconds"]) for run in runs] == [("other", other["seconds"]), ("tiny", 2.0)]
    assert "### other, 8 px" in (tmp_path / "pages.md").read_text()


def test_first_side_is_the_measure_without_a_reference(tiny_domain: DomainConfig):
    case = measure_inference(
        make_model(tiny_domain), 1, ["fp32", "bf16"], ONCE, CPU, Ceiling({"fp32": 1, "bf16": 1}, 1)
    )
    assert set(case["counts"]) == {"ours"} and case["sides"]["bf16"]["compared_with"] == "fp32"


def test_phase1_has_no_reference(tiny_domain: DomainConfig):
    assert make_trainer("phase1", "reference", make_model(tiny_domain), 1, CPU) is None


@pytest.mark.slow  # half a minute; a single domain is measured above
def test_several_domains_are_each_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch):
    """1024 px came out slower behind 256 px: what a domain leaves in the allocator is not the next one's business."""
    small = tmp_path / "small.yaml"
    words = ["base: " + str(Path("configs/benchmark/tiny.yaml").resolve()), "sides: {fp32: [1]}", "memory: false"]
    small.write_text("\n".join([*words, "hidden_sizes: [8]", "budget: []", "loading: []", "rounds: 1", ""]))
    config = load_config(BenchmarkConfig, None, [f"runs=[{small}]", f"output={tmp_path}/out", "device=cpu"])
    monkeypatch.setattr("hyperinverter.reports.benchmark.command.measure_domain", lambda *_: pytest.fail("here"))
    result = benchmark(config)
    assert [run["domain"] for run in result["runs"]] == ["tiny"]
    assert json.loads((tmp_path / "out/benchmark.json").read_text()) == result


def test_nothing_to_measure_and_nowhere_to_publish_is_told(tmp_path):
    with pytest.raises(UserError, match="publish=docs/performance"):
        benchmark(BenchmarkConfig(sides={}, output=str(tmp_path / "out"), device="cpu"))


def test_the_published_page_is_that_of_its_json():
    folder = REPOSITORY / "docs" / "performance"
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    about = (folder / "about.md").read_text()
    assert page(about, results) == folder.with_suffix(".md").read_text(), (
        "run: python scripts/benchmark.py --config configs/benchmark/all.yaml 'runs=[]' 'sides={}' "
        "publish=docs/performance"
    )
