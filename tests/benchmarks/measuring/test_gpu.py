"""What measuring on a GPU takes, as far as none is needed."""

from __future__ import annotations

from types import SimpleNamespace

from torch.autograd import DeviceType

from benchmarks.measuring import gpu


def test_the_state_of_a_card_is_read():
    assert gpu.read_state("580.159.04, 1980, 2619, 41, 312.7, 0x0000000000000005\n") == {
        "driver": "580.159.04",
        "sm_mhz": 1980.0,
        "memory_mhz": 2619.0,
        "celsius": 41.0,
        "watts": 312.7,
        "throttle": 4,
    }
    assert gpu.read_state("580.1, 210, [N/A], 30, [N/A], 0x1") == {
        "driver": "580.1",
        "sm_mhz": 210.0,
        "celsius": 30.0,
        "throttle": 0,
    }
    assert gpu.read_state("") == {"driver": ""}


def test_launches_are_what_a_gpu_worked_on():
    def event(device, name):
        return SimpleNamespace(device_type=lambda: device, name=lambda: name)

    events = [event(DeviceType.CPU, "aten::mm"), event(DeviceType.CUDA, "gemm"), event(DeviceType.CUDA, "Memset")]
    assert gpu.count_launches([*events, event(DeviceType.CUDA, "Context Sync")]) == 2
