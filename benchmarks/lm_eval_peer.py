"""Scores by lm-evaluation-harness, in an environment that has it: one JSON line per task.

    PEER_PYTHON lm_eval_peer.py MODEL EXAMPLES TASK=FILE ...

MODEL is a folder that transformers can load. FILE has rows of MosaicML's llm-foundry, and is read
by the harness's own code for local JSON files; see evaluation.py. `cpu_seconds` has no imports.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

_ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
_NORMALIZED = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
_PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
_CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query.rstrip()}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [_ACCURACY, _NORMALIZED],
}
# What the harness's own files say of these tasks, with the columns of llm-foundry's rows.
_FORMS: dict[str, dict[str, Any]] = {
    "arc_easy": _CHOICES,
    "piqa": _CHOICES,
    "winogrande": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{gold}}",
        "doc_to_choice": "{{context_options}}",
        "doc_to_target": "{{continuation.strip()}}",
        "metric_list": [_ACCURACY],
    },
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation.strip()}}",
        "metric_list": [_ACCURACY, _PERPLEXITY],
    },
}


def main() -> None:
    """Evaluate each task by itself."""
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    folder, examples, *files = sys.argv[1:]
    model = HFLM(
        pretrained=folder, device="cpu", dtype="float32", batch_size=16, add_bos_token=True
    )
    with tempfile.TemporaryDirectory() as cache:
        for named in files:
            name, _, path = named.partition("=")
            task = ConfigurableTask(
                cache_dir=cache,
                config={
                    "task": name,
                    "dataset_path": "json",
                    "dataset_kwargs": {"data_files": {"test": path}},
                    "test_split": "test",
                    **_FORMS[name],
                },
            )
            began = time.process_time()
            found = simple_evaluate(model, tasks=[task], limit=int(examples), bootstrap_iters=0)
            spent = time.process_time() - began
            scores = {
                key.removesuffix(",none"): value
                for key, value in found["results"][name].items()
                if isinstance(value, float) and "stderr" not in key
            }
            print(json.dumps({"task": name, "cpu_seconds": spent, "scores": scores}), flush=True)


if __name__ == "__main__":
    main()
