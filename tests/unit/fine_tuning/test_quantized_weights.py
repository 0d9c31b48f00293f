"""Base models whose weights are quantized already: the process of a job refuses them where the platform can't see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.training_program.quantized_model import refuse_quantized


@pytest.mark.parametrize("config", [{"quantization_config": {"quant_method": "awq"}}, {"compression_config": {"x": 1}}])
def test_a_quantized_model_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quantized already"):
        refuse_quantized(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    refuse_quantized(tmp_path)
