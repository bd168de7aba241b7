"""What importing costs and what it offers."""

import subprocess
import sys

import pytest

import charlm


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_charlm_loads_no_torch():
    assert python("import charlm, sys; print('torch' in sys.modules)") == "False\n"


def test_help_loads_no_torch():
    code = "import sys; from charlm.cli.main import run; run(['train', '--help']); print('torch' in sys.modules)"
    assert python(code).endswith("False\n")


HEAVY = ["torch._dynamo", "torch._inductor", "sympy", "optuna", "rich", "pandas", "matplotlib"]


@pytest.mark.parametrize("fixture", ["trained", "trained_records"])
def test_loading_and_sampling_import_no_compiler_and_nothing_heavy(fixture, request):
    folder = request.getfixturevalue(fixture)
    code = f"import charlm, sys; run = charlm.load({str(folder)!r}); run.sample(length=5); "
    assert python(code + f"print(set({HEAVY}) & set(sys.modules))") == "set()\n"


def test_every_public_name_is_there():
    for name in charlm.__all__:
        assert getattr(charlm, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = charlm.trian
