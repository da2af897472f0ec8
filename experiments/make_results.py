"""Run the studies of this folder and write what they show: `make results DATA=FOLDER STUDIES="scale readers"`.

Each study is a cross-validation by patient (`lungtl crossval experiments=NAME`). A stopped study resumes.
`results/NAME` gets the pooled out-of-fold table, its figure, and a page with the study's question and protocol.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from study_page import HERE, write

WEIGHTS = "astra.bin"
"""Of the network trained on CT, in the data's folder."""

STUDIES: dict[str, Sequence[Sequence[str]]] = {
    "scale": [[], ["image.crop_mm=null", "image.crop=48"], ["image.crop_mm=16,24", "image.size=128"]],
    "backbones": [[]],
    "aggregators": [[]],
    "label_rule": [["dataset.rule=median"], ["dataset.rule=mean"],
                   ["dataset.rule=mean", "dataset.indeterminate=keep", "dataset.min_readers=1"]],
    "readers": [["loss=bag_only"], ["loss=readers"], ["loss=votes"], ["loss=votes", "dataset.uncounted=train"]],
    "patients": [[]],
    "nodules": [["split.seed=0,1,2,3", "evaluation.untrained=false"],
                ["split.seed=0,1,2,3", "evaluation.untrained=false", "backbone.weights=none"]],
    "maxslice": [["evaluation.untrained=false"], ["evaluation.untrained=false", "backbone.weights=none"]],
    "seed_paper": [[]],
    "learning_curve": [[]],
    "phantom_aggregators": [[]],
    "transfer": [[], ["freezing=norm_only,bitfit,layer_decay,lora"], ["freezing=gradual", "freezing.every=1"],
                 ["freezing=lp_ft", "freezing.probe_epochs=4"],
                 ["backbone=efficientnet_lite1,efficientnet_lite2", "freezing=frozen,full,from_scratch"]],
    "ct_pretrained": [["backbone=efficientnet_lite0,efficientnet_lite1,efficientnet_lite2"],
                      ["backbone.name=resnet152", f"backbone.weights={{data}}/{WEIGHTS}", "+backbone.mean=[0]",
                       "+backbone.std=[1]", "name=ct_resnet152"]],
}  # fmt: skip
"""Study -> the overrides of each sweep, next to `experiments=NAME`; {data} is the data's folder."""

PLACES = {
    "lidc_slices": {"root": "LIDC-IDRI-slices"},
    "lidc_maxslice": {"images": "lidc_maxslice.npz", "table": "lidc_maxslice.csv"},
    "phantom": {},
}
"""Dataset -> its options, and where in the data's folder they lead."""


def main() -> None:
    """Run the studies that the command line names, or all."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with LIDC-IDRI-slices/, lidc_maxslice.* and astra.bin"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data/results"), help="where stores and runs go")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="all if none is named")
    options = parser.parse_args()
    names = options.studies or list(STUDIES)
    if "ct_pretrained" in names and not (options.data / WEIGHTS).is_file():
        parser.error(f"{options.data / WEIGHTS} is missing; docs/transfer.md says how to get it, or name other studies")
    for name in names:
        sweeps = [
            run(name, number, overrides, options.data.resolve(), options.data_dir.resolve())
            for number, overrides in enumerate(STUDIES[name])
        ]
        print(write(name, sweeps, options.out / name))


def run(name: str, number: int, overrides: Sequence[str], data: Path, data_dir: Path) -> Path:
    """Cross-validate, or finish doing so; returns the sweep's folder."""
    settings = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    dataset = [line["override /dataset"] for line in settings["defaults"] if "override /dataset" in line]
    places = PLACES[dataset[0] if dataset else "lidc_slices"]
    sweep = f"{name}-{number}"
    command = [
        sys.executable, "-m", "lungtl.crossval", f"experiments={name}",
        *(override.replace("{data}", str(data)) for override in overrides),
        *(f"dataset.{key}={data / file}" for key, file in places.items()),
        f"data_dir={data_dir}", "tracking=none", "evaluation.figures=false", f"sweep.name={sweep}",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=HERE.parent)
    return data_dir / "sweeps" / sweep


if __name__ == "__main__":
    main()
