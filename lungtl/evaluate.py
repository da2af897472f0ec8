"""`python -m lungtl.evaluate model=RUN dataset=...`: score a trained model on any prepared dataset.

Calibration and thresholds were chosen on the model's validation split; nothing is fitted to the dataset.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lungtl.runs.folder import find_model
from lungtl.settings import command_line
from lungtl.settings.schema import EvaluateConfig

log = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> None:
    """Predict, score, write, and print the folder."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.data.store.opening import open_store
    from lungtl.evaluation.chosen import FILE
    from lungtl.runs.model import Model
    from lungtl.runs.scored_bags import check_values, choose_bags
    from lungtl.runs.scored_model import scored_on
    from lungtl.runs.scoring import write_results
    from lungtl.runs.summary import print_summary
    from lungtl.tracking import publish
    from lungtl.tracking.observer import track_evaluation

    folder = Path(HydraConfig.get().runtime.output_dir)
    reference = find_model(config.model, config.data_dir)
    model = Model.open(reference, config.accelerator, config.trust or ())
    store = open_store(config)
    bags, trained_with, split, omitted, training, validation = choose_bags(reference, store, config.split)
    check_values(store, model.provenance)
    if model.chosen is None:
        log.warning("the model has no %s: no calibration and no operating points", FILE)
    scored = scored_on(store, model, trained_with, config)
    name = model.provenance["mlflow_run_id"] or reference.name
    with track_evaluation(config, f"evaluation: {model.provenance['name']} on {store.name}", folder) as tracker:
        document = write_results(
            folder, store, scored, bags, split, chose=validation == bags["patient_id"].nunique(),
            threshold=config.threshold, resamples=config.resamples,
            model=name, store_name=store.name, store_fingerprint=store.fingerprint,
            trained_on=model.provenance["store"], training_patients=training, validation_patients=validation,
            patients_left_out=omitted,
        )  # fmt: skip
        publish.evaluation(tracker, folder)
    print_summary(document, folder, [], verbose=config.verbose)
    print(folder)


if __name__ == "__main__":
    command_line.main("evaluate", EvaluateConfig, run)
