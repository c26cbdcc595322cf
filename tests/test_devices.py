"""Devices that torch names and this machine lacks, with stand-ins for what torch says of them."""

import platform
from types import SimpleNamespace

import pytest
import torch

from stagebench.core.errors import ModelError
from stagebench.core.machine import environment
from stagebench.pipeline.timing import synchronize
from stagebench.suite.settings import settings_of


@pytest.fixture
def accelerator(monkeypatch):
    """Lets torch name an accelerator of two devices; what it is asked to wait for is returned in a list."""

    def make(kind):
        waited = []
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
        monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
        return waited

    return make


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_models_run_on_the_accelerator_that_torch_names(accelerator, kind):
    accelerator(kind)
    settings = settings_of(model="llava-1.5").model
    assert (settings.device, settings.profile, settings.dtype) == (kind, "7b", "bfloat16")
    assert settings_of(model="llava-1.5", device=f"{kind}:1").model.device == f"{kind}:1"
    assert settings_of(model="llava-1.5", device="cpu").model.profile == "tiny"


def test_another_device_is_refused_with_those_that_are_there(accelerator):
    accelerator("xpu")
    with pytest.raises(ModelError, match=r"^device must be one of cpu, xpu, xpu:0, xpu:1, got 'cuda'$"):
        settings_of(device="cuda")


def test_a_backend_of_graphs_is_refused_where_there_are_none(accelerator):
    accelerator("mps")
    with pytest.raises(ModelError, match=r"^backends on mps are eager, got graph$"):
        settings_of(model="llava-1.5", backend="graph")


@pytest.mark.parametrize(
    ("kind", "hip", "tested"), [("cuda", None, True), ("cuda", "6.4", False), ("xpu", None, False)]
)
def test_a_device_that_nobody_has_tested_is_said_to_be_so(accelerator, monkeypatch, kind, hip, tested):
    accelerator(kind)
    monkeypatch.setattr(torch.version, "hip", hip)
    said = "stagebench is not tested on such a device" in settings_of(model="llava-1.5").describe()
    assert said != tested


@pytest.mark.parametrize(("kind", "times"), [("cpu", 0), ("mps", 1), ("xpu", 1)])
def test_a_stage_waits_for_whatever_accelerator_it_runs_on(accelerator, kind, times):
    waited = accelerator(kind)
    synchronize(torch.device(kind))
    assert waited == [torch.device(kind)] * times


@pytest.mark.parametrize(
    ("module", "name"),
    [(SimpleNamespace(get_device_name=lambda device: "a GPU"), "a GPU"), (SimpleNamespace(), "xpu of a CPU")],
)
def test_its_name_is_that_of_torch_and_its_driver_that_of_the_system(monkeypatch, module, name):
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(environment, "_cpu_name", lambda: "a CPU")
    monkeypatch.setattr(torch.version, "cuda", None)
    place = environment.machine("xpu")
    assert (place["device"], place["driver"]) == (name, platform.release())
