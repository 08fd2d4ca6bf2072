"""What the bits of a processor depend on."""

import os
import subprocess
import sys

import pytest

from models import processor as module
from models.processor import ask_for_steady_products, processor

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
cpu MHz\t\t: {megahertz}
flags\t\t: fpu mtrr sse sse2 fma avx2 avx512f {more}

processor\t: 1
model\t\t: 1
"""


@pytest.fixture
def described(monkeypatch, tmp_path):
    def describe(text):
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        monkeypatch.setattr(module, "_DESCRIPTION", file)
        return processor()

    return describe


def test_the_kind_and_the_instruction_sets_count_and_the_clock_does_not(described, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    slow, fast, matrices = (
        described(XEON.format(megahertz=clock, more=more))
        for clock, more in ((2000, ""), (3000, ""), (2000, "amx_int8"))
    )
    assert slow == fast
    assert slow.endswith("GenuineIntel 6 207 avx2 avx512f fma sse sse2 AVX2")
    assert matrices == slow.replace("avx2", "amx_int8 avx2", 1)


def test_what_the_mathematical_library_is_told_counts(monkeypatch):
    told = processor()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert processor() != told


@pytest.mark.parametrize(("vendor", "told"), [("GenuineIntel", "AUTO,STRICT"), ("AuthenticAMD", None)])
def test_only_intels_processors_need_to_be_asked(described, monkeypatch, vendor, told):
    described(XEON.replace("GenuineIntel", vendor))
    monkeypatch.setenv("MKL_CBWR", "")  # so that it is put back even if it was not there
    monkeypatch.delenv("MKL_CBWR")
    ask_for_steady_products()
    assert os.environ.get("MKL_CBWR") == told
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    ask_for_steady_products()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_a_system_without_a_description_has_its_architecture(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_DESCRIPTION", tmp_path / "none")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert processor().strip()


ROWS = """
import torch, models
weight, rows = torch.randn(211, 96), torch.randn(64, 96)
many = torch.nn.functional.linear(rows, weight)
print(all(torch.equal(torch.nn.functional.linear(rows[:n], weight), many[:n]) for n in (4, 8, 16, 32)))
"""


def test_products_keep_a_rows_bits_also_where_torch_was_imported_first():
    assert subprocess.run([sys.executable, "-c", ROWS], capture_output=True, text=True).stdout == "True\n"
