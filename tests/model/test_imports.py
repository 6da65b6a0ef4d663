import subprocess
import sys

HEAVY = ("diffusers", "transformers", "pydantic", "scipy", "PIL", "ray")


def test_the_generator_imports_with_torch_alone():
    """A machine that only samples needs no library for codecs or encoders it does not use."""
    code = f"import sys, model.generator, model.codecs.training; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
