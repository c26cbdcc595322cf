"""The parts of a decode step's time, from made-up kernels."""

import profile_step
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from step_profile import (
    ATTENTION,
    FLOOR,
    IDLE,
    MATRIX,
    OTHER,
    Kernel,
    apart,
    by_name,
    kind_of,
    overlap,
    parts_of,
    remaining,
)

TIMES = st.integers(0, 50)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", MATRIX),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16, float>", MATRIX),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", MATRIX),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>", MATRIX),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", MATRIX),
        ("_qkv_kernel", MATRIX),
        ("_project_kernel", MATRIX),
        ("_gate_up_kernel", MATRIX),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", ATTENTION),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, cutlass::bfloat16_t>>", ATTENTION),
        ("_attend_kernel", ATTENTION),
        ("_combine_kernel", ATTENTION),
        ("void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl<c10::BFloat16>>", OTHER),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps>>", OTHER),
        ("Memcpy DtoH (Device -> Pinned)", OTHER),
        ("triton_poi_fused_add_mul_silu_3", OTHER),
    ],
)
def test_a_kernel_is_recognised_by_its_name_however_long_it_takes(name, kind):
    assert [kind_of(name, mean) for mean in (1.0, 100.0)] == [kind, kind]


@pytest.mark.parametrize("name", ["triton_red_fused_mm_4", "triton_per_fused_mm_4"])
def test_a_compiled_reduction_is_a_matrix_kernel_where_it_is_long(name):
    assert [kind_of(name, mean) for mean in (5.0, 5.1)] == [OTHER, MATRIX]


def test_a_moment_is_that_of_the_kernel_that_started_first():
    kernels = [Kernel("b", 4, 9), Kernel("a", 0, 6), Kernel("within", 5, 8), Kernel("later", 12, 15)]
    assert {kernel.name: time for kernel, time in apart(kernels)} == {"a": 6, "b": 3, "within": 0, "later": 3}


@given(st.lists(st.tuples(TIMES, TIMES)))
def test_the_times_of_all_kernels_add_up_to_the_union_of_their_intervals(pairs):
    kernels = [Kernel("k", min(pair), max(pair)) for pair in pairs]
    union = {moment for kernel in kernels for moment in range(kernel.start, kernel.end)}
    assert sum(time for _, time in apart(kernels)) == len(union)


# Two steps of 100 us, one after the other; the attention starts while the product before it still runs.
STEP = [Kernel("gemm", 0, 50), Kernel("flash", 40, 60), Kernel("norm", 70, 75), Kernel("norm", 75, 80)]
TWO = [*STEP, *(Kernel(name, start + 100, end + 100) for name, start, end in STEP)]


def test_the_parts_of_a_step_add_up_to_it():
    parts = parts_of(by_name(TWO), steps=2, step=100.0, floor=45.0)
    assert parts == {FLOOR: 45.0, MATRIX: 5.0, ATTENTION: 10.0, OTHER: 10.0, IDLE: 30.0}


def test_what_remains_above_the_floor_is_a_table_and_its_largest_part_is_named():
    lines = remaining(parts_of(by_name(TWO), steps=2, step=100.0, floor=45.0))
    assert lines == [
        "A step takes 0.100 ms, 2.22 times the floor. "
        "The largest part of the 0.055 ms above it: no kernel: launches, and waiting for one another (0.030 ms).",
        "",
        "| part of the step | us | of the step | to the floor |",
        "| --- | ---: | ---: | ---: |",
        "| the weights read once, the floor | 45 | 45.0% | 1.000 |",
        "| matrix kernels, above the floor | 5 | 5.0% | 0.111 |",
        "| attention kernels | 10 | 10.0% | 0.222 |",
        "| other kernels: norms, rotary embedding, activation, copies, cache, next token | 10 | 10.0% | 0.222 |",
        "| no kernel: launches, and waiting for one another | 30 | 30.0% | 0.667 |",
    ]


def test_kernels_are_listed_by_the_time_that_is_theirs():
    assert [(each.name, each.runs, each.time) for each in by_name(TWO)] == [
        ("gemm", 2, 100),
        ("flash", 2, 20),
        ("norm", 4, 20),
    ]


def test_an_overlap_is_reported_with_both_times():
    _, line = overlap(TWO, steps=2)
    assert line.startswith("Kernels overlap: their own times add up to 0.080 ms, and any of them runs in 0.070 ms.")


def test_kernels_one_after_the_other_do_not_overlap():
    assert overlap([Kernel("a", 0, 5), Kernel("b", 5, 9)], steps=1) == []


def test_without_a_gpu_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(profile_step.main, [])
    assert (result.exit_code, result.output) == (
        1,
        "Error: the profile of a step needs a CUDA device, got none\n",
    )
