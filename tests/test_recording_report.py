"""The tables of `stagebench bench`, from made-up results."""

import pytest

from stagebench.analysis.report import recording_tables

HERE = {"device": "abacus", "profile": "tiny", "dtype": "float32"}


def benchmark(kind, ms, model="m", **info):
    """One with a median of so many ms, and processes 0.1 ms around it."""
    stats = {"median": ms / 1e3, "min": (ms - 0.1) / 1e3, "max": (ms + 0.1) / 1e3}
    return {"name": f"{kind}[{info}]", "stats": stats, "extra_info": {"model": model, "new_tokens": 5} | info}


UNITS = {"prefill": {"units": 620, "unit": "prompt_tokens"}, "decode": {"units": 4, "unit": "steps"}}


def stages(ms, backend="eager", names=("load", "preprocess", "encode", "prefill", "decode"), **info):
    return [benchmark("test_stage", ms, stage=s, backend=backend, **UNITS.get(s, {}), **info) for s in names]


def results(*benchmarks, left_out=(), **own):
    recording = {
        "processes": 7,
        "rounds": 10,
        "select": "test_stage or test_whole",
        "arguments": ["--stage-device", "cuda"],
        "seconds": 630.0,
        "left_out": left_out,
    }
    return {
        "machine_info": HERE,
        "commit_info": {"id": "abc", "dirty": True},
        "benchmarks": list(benchmarks),
        "stagebench": {"recording": recording} | own,
    }


def ceilings(flops, bandwidth):
    """What `test_ceiling` gives: an amount of work, and the time that it took."""
    return [
        {"name": "test_ceiling", "extra_info": {"ceiling": name, "work": {"amount": rate}}, "stats": {"median": 1.0}}
        for name, rate in (("flops", flops), ("bandwidth", bandwidth))
    ]


def section(title, *benchmarks):
    """The lines of one section, without its title."""
    text = recording_tables.to_markdown(results(*benchmarks))
    after = text.partition(f"## {title}\n\n")[2]
    return after.partition("\n## ")[0].strip().splitlines()


WHOLE = """\
# stagebench on abacus

## How it was measured

- Fresh processes: 7, with 10 rounds of every benchmark in each, after one that proved what they run; 10 minutes in all.
- A time is the median of the processes' medians, with the smallest and the largest of them beside it; a ratio is \
that of two such times.
- Commit abc, changed: stagebench bench out --processes 7 --rounds 10 --select 'test\\_stage or test\\_whole' -- \
--stage-device cuda

**Environment**

| key | value |
| --- | --- |
| device | abacus |
| dtype | float32 |
| profile | tiny |

## Stages

**m**

| stage | backend | work | time, ms | min to max, ms | to eager | a step, ms |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| load | eager |  | 10.000 | 9.900 to 10.100 |  |  |
| preprocess | eager |  | 10.000 | 9.900 to 10.100 |  |  |
| encode | eager |  | 10.000 | 9.900 to 10.100 | 1.000 |  |
| encode | graph |  | 2.000 | 1.900 to 2.100 | 0.200 |  |
| prefill | eager | 620 prompt tokens | 10.000 | 9.900 to 10.100 | 1.000 |  |
| prefill | graph | 620 prompt tokens | 2.000 | 1.900 to 2.100 | 0.200 |  |
| decode | eager | 4 steps | 10.000 | 9.900 to 10.100 | 1.000 | 2.500 |
| decode | graph | 4 steps | 2.000 | 1.900 to 2.100 | 0.200 | 0.500 |

## Beside generate()

| model | by | time, ms | min to max, ms | a token, ms | to generate() | encode | prefill | decode |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| m | generate() | 40.000 | 39.900 to 40.100 | 8.000 | 1.000 |  |  |  |
| m | eager | 30.000 |  | 6.000 | 0.750 | 33.3 % | 33.3 % | 33.3 % |
| m | graph | 6.000 |  | 1.200 | 0.150 | 33.3 % | 33.3 % | 33.3 % |

## From file to text

| model | by | time, ms | min to max, ms | a token, ms | to generate() | load | preprocess | encode | prefill | decode \
| all stages | unattributed |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| m | generate() | 64.000 | 63.900 to 64.100 | 12.800 | 1.000 |  |  |  |  |  |  |  |
| m | eager | 50.000 | 49.900 to 50.100 | 10.000 | 0.781 | 20.0 % | 20.0 % | 20.0 % | 20.0 % | 20.0 % | 100.0 % \
| 1.0 % |
| m | graph | 32.000 | 31.900 to 32.100 | 6.400 | 0.500 | 31.2 % | 31.2 % | 6.2 % | 6.2 % | 6.2 % | 81.2 % | 2.0 % |
"""


def test_a_whole_report():
    eager, graph = stages(10.0), stages(2.0, "graph", ("encode", "prefill", "decode"))
    whole = [
        benchmark("test_e2e", 50.0, unattributed_share=0.01),
        benchmark("test_e2e", 32.0, backend="graph", unattributed_share=0.02),
        benchmark("test_generate", 40.0),
        benchmark("test_e2e_generate", 64.0),
    ]
    text = recording_tables.to_markdown(results(*eager, *graph, *whole, {"name": "test_reference", "stats": {}}))
    assert text == WHOLE


def test_encode_by_images_has_a_row_an_image_count_and_backend_with_the_ratio_to_the_same_count():
    times = {("eager", 8): 12.0, ("graph", 8): 6.0, ("eager", 1): 9.0, ("graph", 1): 3.0}
    found = [benchmark("test_images", ms, stage="encode", backend=b, images=n) for (b, n), ms in times.items()]
    assert section("Encode by number of images", *found)[2:] == [
        "| stage | images | backend | time, ms | min to max, ms | to eager |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        "| encode | 1 | eager | 9.000 | 8.900 to 9.100 | 1.000 |",
        "| encode | 1 | graph | 3.000 | 2.900 to 3.100 | 0.333 |",
        "| encode | 8 | eager | 12.000 | 11.900 to 12.100 | 1.000 |",
        "| encode | 8 | graph | 6.000 | 5.900 to 6.100 | 0.500 |",
    ]


def test_a_scale_table_is_sorted_by_batch_then_context_and_only_in_its_own_section():
    shapes = [(4, 512), (1, 2048), (1, 512)]
    found = [
        benchmark("test_scale", 10.0 * b, stage="decode", backend="graph", batch=b, context=c, units=5)
        for b, c in shapes
    ]
    assert section("Batch and context", *found)[2:] == [
        "| stage | batch | context | backend | work | time, ms | min to max, ms | a step, ms |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: |",
        "| decode | 1 | 512 | graph | 5 | 10.000 | 9.900 to 10.100 | 2.000 |",
        "| decode | 1 | 2,048 | graph | 5 | 10.000 | 9.900 to 10.100 | 2.000 |",
        "| decode | 4 | 512 | graph | 5 | 40.000 | 39.900 to 40.100 | 8.000 |",
    ]
    assert section("Stages", *found) == []


def test_set_up_is_reported_by_backend_once_all_of_it_was_noted():
    def cost(captures):
        return {"seconds": 1.5 * captures, "bytes": 2_500_000 * captures, "captures": captures}

    encode, decode = (stages(1.0, "graph", (name,), setup=cost(n)) for name, n in (("encode", 1), ("decode", 2)))
    found = [*stages(1.0), *encode, *decode]
    assert section("Set-up, outside of what is timed", *found)[2:] == [
        "| model | backend | seconds | bytes, millions | captures |",
        "| --- | --- | ---: | ---: | ---: |",
        "| m | graph | 3.00 | 5.00 | 2 |",
    ]


def test_utilisation_is_of_the_work_that_the_reference_counted_at_the_time_of_each_backend():
    counted = [
        benchmark("test_stage", 10.0, stage="prefill", work={"flops": 10**9}),
        benchmark("test_stage", 10.0, stage="decode", units=5, bytes={"weights": 4 * 10**9, "kv": 10**9}),
    ]
    unseen = [
        benchmark("test_stage", 5.0, stage="prefill", backend="graph", work={"flops": 0}),
        benchmark("test_stage", 5.0, stage="decode", backend="graph", units=5),
    ]
    lines = section("Stages", *counted, *unseen, *ceilings(1e12, 1e12))
    assert columns(lines, "stage", "backend", "MFU", "MBU") == [
        ("prefill", "eager", "10.0 %", ""),
        ("prefill", "graph", "20.0 %", ""),
        ("decode", "eager", "", "50.0 %"),
        ("decode", "graph", "", "100.0 %"),
    ]


def columns(lines, *names):
    """Those columns of a table, a tuple a row; nothing of one that it left out."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    return [tuple(row[head.index(name)] if name in head else None for name in names) for row in rows]


@pytest.mark.parametrize("missing", ["encode", "prefill"])
def test_nothing_is_added_up_where_a_stage_is_missing(missing):
    names = [s for s in ("load", "preprocess", "encode", "prefill", "decode") if s != missing]
    whole = [benchmark("test_generate", 40.0), benchmark("test_e2e", 50.0)]
    beside, path = (
        section(title, *stages(1.0, names=names), *whole) for title in ("Beside generate()", "From file to text")
    )
    assert columns(beside, "by", "time, ms") == [("generate()", "40.000")]
    assert columns(path, "by", "decode", missing, "all stages") == [("eager", "2.0 %", None, None)]


def test_the_operators_of_the_plain_stages_stand_beside_those_of_generate():
    found = [
        *stages(10.0, work={"aten_operators": 30}),
        *stages(4.0, "graph", ("encode", "prefill", "decode"), work={"aten_operators": 30}),
        benchmark("test_generate", 40.0, work={"aten_operators": 100}),
    ]
    assert columns(section("Beside generate()", *found), "by", "operators") == [
        ("generate()", ""),
        ("eager", "0.9000"),
        ("graph", ""),
    ]


def test_what_is_timed_once_stands_for_every_model_and_backend_of_its_own():
    found = [
        *stages(10.0),
        *stages(4.0, "graph", ("encode", "prefill", "decode")),
        *stages(1.0, model="n"),
        *[benchmark("test_generate", ms, model=m) for m, ms in (("m", 40.0), ("n", 6.0))],
        *[benchmark("test_e2e", ms, model=m, backend=b) for m, b, ms in (("m", "graph", 32.0), ("n", "eager", 5.0))],
    ]
    assert columns(section("Beside generate()", *found), "model", "by", "to generate()") == [
        ("m", "generate()", "1.000"),
        ("m", "eager", "0.750"),
        ("m", "graph", "0.300"),
        ("n", "generate()", "1.000"),
        ("n", "eager", "0.500"),
    ]
    assert columns(section("From file to text", *found), "model", "by", "all stages") == [
        ("m", "graph", "100.0 %"),
        ("n", "eager", "100.0 %"),
    ]


def test_doubts_stand_at_the_head():
    text = recording_tables.to_markdown(
        results(*stages(1.0), *ceilings(7e14, 2.98e12), left_out=["cold"], load_warning="the machine is busy")
    )
    assert text.splitlines()[7:10] == [
        "- MFU is over 700 TFLOP/s, MBU over 2.98 TB/s (copy), both as measured; of the work that was counted on the "
        "eager path.",
        "- the machine is busy.",
        "- Left out, because a process skipped it: cold.",
    ]
